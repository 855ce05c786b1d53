package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/internal/slo"
)

// sourced returns an objective of one indicator, without what all of the test have.
func sourced(name, service string, i slo.Indicator) slo.Objective {
	i.Name, i.Select.Methods = name, slo.AllMethods
	if i.Select.Service == "" {
		i.Select.Service = service
	}
	return slo.Objective{
		Name: name, Service: service, Target: 0.99, Window: span28(),
		Members: []slo.Member{{Indicator: i, Target: 0.99, Weight: 1}},
	}
}

func selector(t *testing.T, text string) slo.Selector {
	t.Helper()
	s, err := slo.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSourcesInShort reads the short form of every source.
func TestSourcesInShort(t *testing.T) {
	got, err := Parse("slid.yaml", []byte(`slos:
  - name: a
    service: shop
    scrape: {url: "http://127.0.0.1:9090/metrics", good: 'x_total{code!~"5.."}', total: x_total}
    target: 99%
    window: 28d
  - name: b
    service: shop
    scrape: {url: "https://shop:9090/metrics?a=b", bad: x_errors_total, total: x_total}
    target: 99%
    window: 28d
  - name: c
    service: shop
    scrape: {url: "http://127.0.0.1:9090/metrics", histogram: 'h{path="/pay"}', le: 0.30}
    target: 99%
    window: 28d
  - {name: d, service: shop, unit: shop.service, target: 99%, window: 28d}
  - {name: e, service: shop, unit: {command: java, container: 4c01}, target: 99%, window: 28d}
  - {name: f, service: shop, resource: {figure: memory, unit: shop.service}, good: "<= 90%", target: 99%, window: 28d}
  - {name: g, service: shop, resource: {figure: filesystem, mount: /var}, good: "< 0.95", target: 99%, window: 28d}
`))
	if err != nil {
		t.Fatal(err)
	}
	const local = "http://127.0.0.1:9090/metrics"
	want := []slo.Objective{
		sourced("a", "shop", slo.Indicator{Scrape: &slo.Scrape{
			URL: local, Good: selector(t, `x_total{code!~"5.."}`), Total: selector(t, "x_total"),
		}}),
		sourced("b", "shop", slo.Indicator{Scrape: &slo.Scrape{
			URL: "https://shop:9090/metrics?a=b", Bad: selector(t, `x_errors_total`), Total: selector(t, "x_total"),
		}}),
		sourced("c", "shop", slo.Indicator{Scrape: &slo.Scrape{
			URL: local, Good: selector(t, `h_bucket{le="0.3",path="/pay"}`), Total: selector(t, `h_count{path="/pay"}`),
		}}),
		sourced("d", "shop", slo.Indicator{Unit: &slo.Running{Unit: "shop.service"}}),
		sourced("e", "shop", slo.Indicator{Unit: &slo.Running{Command: "java", Container: "4c01"}}),
		sourced("f", "shop", slo.Indicator{Resource: &slo.Resource{
			Figure: slo.Memory, Unit: "shop.service", Bound: slo.Bound{Op: slo.LTE, Limit: 0.9},
		}}),
		sourced("g", "shop", slo.Indicator{Resource: &slo.Resource{
			Figure: slo.Filesystem, Mount: "/var", Bound: slo.Bound{Op: slo.LT, Limit: 0.95},
		}}),
	}
	if diff := cmp.Diff(want, got.SLOs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSourcesInOpenSLO reads the same as documents: good and bad, ratios and figures.
func TestSourcesInOpenSLO(t *testing.T) {
	got, err := ParseDocuments(fileOf(t, "testdata/openslo/valid/sources.yaml"))
	if err != nil || len(got.Warnings) > 0 {
		t.Fatal(err, got.Warnings)
	}
	disk := sourced("disk", "orders", slo.Indicator{
		Select: slo.Selection{Service: "database"},
		Resource: &slo.Resource{
			Figure: slo.Filesystem, Mount: "/var", Bound: slo.Bound{Op: slo.LT, Limit: 0.9},
		},
	})
	disk.Target, disk.Members[0].Target = 0.95, 0.95
	disk.Method, disk.Slice, disk.SliceTarget = slo.Timeslices, 5*time.Minute, 0.8
	want := []slo.Objective{
		sourced("orders", "orders", slo.Indicator{Scrape: &slo.Scrape{
			URL: "http://127.0.0.1:9090/metrics?x=1", Bad: selector(t, `orders_total{state=~"failed|lost"}`), Total: selector(t, "orders_total"),
		}}),
		sourced("worker", "orders", slo.Indicator{Unit: &slo.Running{Unit: "worker@1.service", Command: "java"}}),
		disk,
		sourced("stalls", "orders", slo.Indicator{Resource: &slo.Resource{
			Figure: slo.PressureMemoryFull, Unit: "worker@1.service", Bound: slo.Bound{Op: slo.LTE, Limit: 0.05},
		}}),
	}
	if diff := cmp.Diff(want, got.Objectives); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSourcesClash: two indicators of one name that count different things say in what they differ.
func TestSourcesClash(t *testing.T) {
	unit := slo.Indicator{Unit: &slo.Running{Unit: "a.service"}}
	memory := slo.Indicator{Resource: &slo.Resource{Figure: slo.Memory, Bound: slo.Bound{Op: slo.LTE, Limit: 0.9}}}
	tighter := slo.Indicator{Resource: &slo.Resource{Figure: slo.Memory, Bound: slo.Bound{Op: slo.LTE, Limit: 0.8}}}
	other := slo.Indicator{Resource: &slo.Resource{Figure: slo.CPU, Bound: slo.Bound{Op: slo.LTE, Limit: 0.9}}}
	scrape := slo.Indicator{Scrape: &slo.Scrape{URL: "http://a/m", Good: selector(t, "x"), Total: selector(t, "y")}}
	worse := slo.Indicator{Scrape: &slo.Scrape{URL: "http://a/m", Bad: selector(t, "x"), Total: selector(t, "y")}}
	for _, tt := range []struct {
		a, b slo.Indicator
		want string
	}{
		{unit, memory, "its source is unit there, resource here"},
		{memory, tighter, "good is <= 90% there, <= 80% here"},
		{memory, other, `service "", memory there, service "", cpu here`},
		{scrape, worse, "good is http://a/m: good x of y there, http://a/m: bad x of y here"},
	} {
		if got := difference(tt.a, tt.b); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}
