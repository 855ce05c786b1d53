package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/exporter/otlp/oteltest"
	"github.com/slid-agent/slid/exporter/text"
	"github.com/slid-agent/slid/internal/promtest"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/testneed"
)

// The objectives of TestTheCentreAgreesWithTheHosts: one that burns, one that is kept, one with a single bad event on each
// host, one that has used up its budget, slices, a composite and a calendar window.
const (
	centreSLOs = `interval: 1s
slos:
  - {name: pay, service: shop, route: /pay/, good: status < 500, target: 99%%, window: 28d}
  - {name: search, service: shop, route: /search/, good: status < 500, target: 99%%, window: 28d}
  - {name: rare, service: shop, route: /rare/, good: status < 500, target: 99%%, window: 28d}
  - {name: broken, service: shop, route: /broken/, good: status < 500, target: 99.9%%, window: 1h}
services: [{name: shop, match: {port: %d}}]
export: [{name: centre, endpoint: %q, select: [sli, slo]}]
`
	centreDocument = `apiVersion: openslo/v1
kind: SLI
metadata: {name: pay}
spec:
  ratioMetric:
    counter: true
    good: {metricSource: {type: slid, spec: {source: traffic, select: {service: shop, route: /pay/}, where: status < 500}}}
    total: {metricSource: {type: slid, spec: {source: traffic, select: {service: shop, route: /pay/}}}}
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: search}
spec:
  ratioMetric:
    counter: true
    good: {metricSource: {type: slid, spec: {source: traffic, select: {service: shop, route: /search/}, where: status < 500}}}
    total: {metricSource: {type: slid, spec: {source: traffic, select: {service: shop, route: /search/}}}}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: slices}
spec:
  service: shop
  indicatorRef: pay
  timeWindow: [{duration: 28d, isRolling: true}]
  budgetingMethod: Timeslices
  objectives: [{target: 0.95, timeSliceTarget: 0.9, timeSliceWindow: 1m}]
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: both}
spec:
  service: shop
  timeWindow: [{duration: 28d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives:
    - {target: 0.99, indicatorRef: pay, compositeWeight: 2}
    - {target: 0.99, indicatorRef: search}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: month}
spec:
  service: shop
  indicatorRef: pay
  timeWindow: [{duration: 1M, isRolling: false, calendar: {startTime: "2026-01-01 00:00:00", timeZone: UTC}}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.99}]
`
)

// A centreHost is an agent and the server it measures.
type centreHost struct {
	server  *httptest.Server
	config  string
	runtime string
	cmd     *exec.Cmd
}

// startCentreHost runs an agent that takes the server on its own port for the service: several on one machine are several
// hosts to the centre.
func startCentreHost(t *testing.T, number int, endpoint string) *centreHost {
	t.Helper()
	h := &centreHost{runtime: t.TempDir(), server: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/bad") {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))}
	t.Cleanup(h.server.Close)
	dir := t.TempDir()
	h.config = filepath.Join(dir, "slid.yaml")
	writeFile(t, h.config, fmt.Sprintf(centreSLOs, h.server.Listener.Addr().(*net.TCPAddr).Port, endpoint))
	if err := os.Mkdir(filepath.Join(dir, "slo.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "slo.d", "slo.yaml"), centreDocument)
	h.cmd = asking(t, h.runtime, "run", "--config", h.config)
	h.cmd.Env = append(h.cmd.Env, fmt.Sprintf("OTEL_RESOURCE_ATTRIBUTES=host.id=%032x", number))
	var log buffer
	h.cmd.Stderr = &log
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		signalProcess(t, h.cmd.Process, unix.SIGTERM)
		_ = h.cmd.Wait()
		if t.Failed() {
			t.Logf("log of host %d:\n%s", number, log.String())
		}
	})
	await(t, "the start", func() bool { return strings.Contains(log.String(), "slid runs") })
	return h
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// slos returns how the objectives stand on the host, by name.
func (h *centreHost) slos(t *testing.T) map[string]text.SLO {
	t.Helper()
	var r text.Report
	if err := json.Unmarshal([]byte(output(t, asking(t, h.runtime, "sli", "-o", "json"))), &r); err != nil {
		t.Fatal(err)
	}
	list := map[string]text.SLO{}
	for _, s := range r.SLOs {
		list[s.Name] = s
	}
	return list
}

// load sends requests to the server until a time: of those to /pay/ one in every so many is bad.
func (h *centreHost) load(t *testing.T, until time.Time, every int) {
	get(t, h.server.URL+"/rare/bad", 1)
	get(t, h.server.URL+"/rare/ok", 4)
	for time.Now().Before(until) {
		get(t, h.server.URL+"/pay/ok", every-1)
		get(t, h.server.URL+"/pay/bad", 1)
		get(t, h.server.URL+"/search/ok", every)
		get(t, h.server.URL+"/broken/bad", 1)
		time.Sleep(10 * time.Millisecond)
	}
}

// dueAt returns a name for the file of rules such that Prometheus evaluates the groups of long intervals soon after a time.
// It spreads groups over their interval by a hash of file and group; rules of five minutes would else be waited for.
func dueAt(dir string, at time.Time, groups map[string]time.Duration) string {
	const within = 5 * time.Second
	for n := 0; ; n++ {
		path := filepath.Join(dir, fmt.Sprintf("slo-%d.yaml", n))
		fits := true
		for name, interval := range groups {
			h := xxhash.New() // of Prometheus's labels: strings after their length
			for _, s := range []string{"file", path, "name", name} {
				_, _ = h.Write(append([]byte{byte(len(s))}, s...))
			}
			phase := time.Duration(h.Sum64() % uint64(interval))
			late := (phase - time.Duration(at.UnixNano())%interval + interval) % interval
			fits = fits && late < within
		}
		if fits {
			return path
		}
	}
}

// startCentre runs a Collector and a Prometheus as packaging/backend has them, with the rules of a configuration.
func startCentre(t *testing.T) (*promtest.Server, *oteltest.Collector, string) {
	t.Helper()
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("../../packaging/backend", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yaml")
	writeFile(t, config, strings.ReplaceAll(read("prometheus.yaml"), "/etc/prometheus/rules/", dir+"/slo-"))
	prometheus := promtest.Start(t, config)
	collector := oteltest.StartWith(t, func(addr, _ string) string {
		return strings.NewReplacer("0.0.0.0:4317", addr, "http://prometheus:9090", prometheus.URL,
			"service:\n", "service:\n  telemetry: {metrics: {level: none}}\n").Replace(read("collector.yaml"))
	})
	return prometheus, collector, dir
}

// TestTheCentreAgreesWithTheHosts: two agents send through a Collector to a Prometheus that has the rules of slid rules.
// Burn rates, budgets and alerts there must be those of the hosts. Nothing of the rules is changed but that what is
// evaluated every 30 s is evaluated every second.
func TestTheCentreAgreesWithTheHosts(t *testing.T) {
	testneed.Root(t, "to load BPF programs")
	prometheus, collector, dir := startCentre(t)
	hosts := []*centreHost{startCentreHost(t, 1, collector.Endpoint), startCentreHost(t, 2, collector.Endpoint)}
	rules := output(t, newSlid(t, "rules", "--config", hosts[0].config))
	due := time.Now().Add(25 * time.Second)
	path := dueAt(dir, due, map[string]time.Duration{"slid-increments": 5 * time.Minute, "slid-slices-slices": time.Minute})
	writeFile(t, path, strings.ReplaceAll(rules, "interval: 30s", "interval: 1s"))
	promtool := filepath.Join(filepath.Dir(promtest.Find(t)), "promtool")
	if out, err := exec.Command(promtool, "check", "rules", "--lint=all", "--lint-fatal", path).CombinedOutput(); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
	prometheus.Reload(t)

	done := make(chan struct{})
	for i, h := range hosts {
		go func() {
			defer func() { done <- struct{}{} }()
			h.load(t, due.Add(-4*time.Second), 4+4*i)
		}()
	}
	<-done
	<-done
	if since := prometheus.Query(t, "sli:events:increase5m"); len(since) > 0 {
		t.Fatalf("the increments came too early: %v", since)
	}
	c := centre{prometheus, []map[string]text.SLO{hosts[0].slos(t), hosts[1].slos(t)}}
	await(t, "all events in the centre", func() bool {
		c.hosts = []map[string]text.SLO{hosts[0].slos(t), hosts[1].slos(t)}
		return c.hosts[0]["slices"].Bad > 0 && c.hosts[1]["slices"].Bad > 0 && c.countsAgree(t)
	})
	await(t, "the increments", func() bool { return c.evaluated(t) })
	c.compare(t)
}

// A centre is a Prometheus and what the hosts say.
type centre struct {
	*promtest.Server
	hosts []map[string]text.SLO
}

// value returns the one value of an expression.
func (c centre) value(t *testing.T, expr string) float64 {
	t.Helper()
	list := c.Query(t, expr)
	if len(list) != 1 {
		t.Errorf("%s has %d values: %v", expr, len(list), list)
		return math.NaN()
	}
	return list[0].Value
}

// countsAgree says whether the last counts of both hosts have arrived.
func (c centre) countsAgree(t *testing.T) bool {
	t.Helper()
	for _, name := range []string{"pay", "search", "rare", "broken"} {
		for outcome, want := range map[string]uint64{
			"good": c.hosts[0][name].Good + c.hosts[1][name].Good, "bad": c.hosts[0][name].Bad + c.hosts[1][name].Bad,
		} {
			list := c.Query(t, fmt.Sprintf("sum(sli_events_total{sli_name=%q,sli_outcome=%q})", name, outcome))
			if len(list) != 1 || list[0].Value != float64(want) {
				return false
			}
		}
	}
	return true
}

// evaluated says whether every group of rules has seen the last counts: each has an order of its own. What is wrong with the
// alerts then, compare says.
func (c centre) evaluated(t *testing.T) bool {
	t.Helper()
	if len(c.Query(t, `slo:burn_rate:5m{slo_name="slices"}`)) == 0 || len(c.Query(t, `slo:budget_remaining:ratio{slo_name="broken"}`)) == 0 {
		return false
	}
	for name, own := range c.hosts[0] {
		if name != "broken" && len(c.Query(t, fmt.Sprintf("slo:burn_rate:3d{slo_name=%q}", name))) == 0 ||
			len(c.Query(t, fmt.Sprintf("slo:budget_remaining:ratio{slo_name=%q}", name))) == 0 && name != "month" ||
			len(c.Query(t, fmt.Sprintf(`ALERTS{alertname="SLOBurn",alertstate="firing",slo_name=%q}`, name))) < len(own.Firing) {
			return false
		}
	}
	return true
}

// compare holds the centre against the sum of the hosts.
func (c centre) compare(t *testing.T) {
	t.Helper()
	first := c.hosts[0]
	ratio := func(name string) float64 {
		good, bad := first[name].Good+c.hosts[1][name].Good, first[name].Bad+c.hosts[1][name].Bad
		return float64(bad) / float64(good+bad)
	}
	burns := map[string]float64{
		"pay": ratio("pay") / 0.01, "search": ratio("search") / 0.01, "rare": ratio("rare") / 0.01,
		"broken": ratio("broken") / 0.001, "slices": 1 / 0.05, "month": ratio("pay") / 0.01,
		"both": 2*ratio("pay")/0.01 + ratio("search")/0.01,
	}
	if burns["pay"] < 14 || burns["rare"] < 14 || burns["broken"] < 999 || burns["search"] != 0 {
		t.Errorf("the load was not as it should be: %v", burns)
	}
	for name, want := range burns {
		for window, own := range first[name].BurnRate {
			expr := fmt.Sprintf("slo:burn_rate:%s{slo_name=%q}", window, name)
			if name == "broken" && len(c.Query(t, expr)) == 0 {
				continue // longer than its period
			}
			// The two hosts are sampled at other moments, and increase() extrapolates each by up to half an interval.
			if got := c.value(t, expr); math.Abs(got-want) > 0.02*want {
				t.Errorf("%s = %v in the centre, %v by the counts of the hosts, %v on the first", expr, got, want, own)
			}
		}
		c.compareAlerts(t, first[name])
		if name != "month" {
			c.compareBudget(t, first[name], want)
		}
	}
	c.compareEach(t)
}

// compareEach holds the error ratio of each host in the centre against its own. Both its series begin at zero and at once, so
// that nothing is extrapolated in one that is not in the other.
func (c centre) compareEach(t *testing.T) {
	t.Helper()
	got := c.Query(t, `sort(sum by (instance) (increase(sli_events_total{sli_name="pay",sli_outcome="bad"}[1h]))`+
		` / sum by (instance) (increase(sli_events_total{sli_name="pay"}[1h])))`)
	if len(got) != 2 {
		t.Errorf("hosts in the centre: %v", got)
		return
	}
	for i, h := range []int{1, 0} { // the second has fewer bad ones
		if own := c.hosts[h]["pay"].BurnRate["1h"] * 0.01; math.Abs(got[i].Value-own) > 1e-6 {
			t.Errorf("host %d has an error ratio of %v in the centre and of %v itself", h, got[i].Value, own)
		}
	}
}

// compareBudget: the centre takes what was measured in steps of five minutes, or of slices; a host knows it exactly.
func (c centre) compareBudget(t *testing.T, own text.SLO, burn float64) {
	t.Helper()
	period := 28 * 24 * time.Hour
	if own.Name == "broken" {
		period = time.Hour
	}
	step := burn * float64(5*time.Minute) / float64(period)
	got := c.value(t, fmt.Sprintf("slo:budget_remaining:ratio{slo_name=%q}", own.Name))
	if math.Abs(got-*own.BudgetRemaining) > step*1.02 || own.Name != "slices" && math.Abs(1-got-step) > 0.02*step {
		t.Errorf("%s has %v of its budget in the centre and %v on the host, which is not within %v", own.Name, got, *own.BudgetRemaining, step)
	}
}

// compareAlerts: what fires on the host fires in the centre, and nothing else.
func (c centre) compareAlerts(t *testing.T, own text.SLO) {
	t.Helper()
	alerts := map[string]bool{}
	for _, name := range own.Firing {
		alerts[name] = true
	}
	for _, s := range c.Query(t, fmt.Sprintf(`ALERTS{alertname="SLOBurn",slo_name=%q}`, own.Name)) {
		if name := s.Labels["slo_alert"]; !alerts[name] || s.Labels["alertstate"] != "firing" {
			t.Errorf("%s is %s in the centre alone", name, s.Labels["alertstate"])
		}
		delete(alerts, s.Labels["slo_alert"])
	}
	if len(alerts) > 0 {
		t.Errorf("%s: %v on the host alone", own.Name, alerts)
	}
	fires := map[string]bool{"pay": true, "both": true, "slices": true, "month": true}[own.Name]
	if fires != (len(own.Firing) > 0) {
		t.Errorf("%s: alerts %v", own.Name, own.Firing)
	}
	spent := len(c.Query(t, fmt.Sprintf(`ALERTS{alertname="SLOBudgetSpent",alertstate="firing",slo_name=%q}`, own.Name))) > 0
	// Tests of other packages may fill the kernel's slots with services at the same time: then the host is not certain of anything.
	crowded := own.State == "unknown" && own.Coverage != nil && *own.Coverage < slo.MinCoverage
	if spent != (own.State == "breached") && !crowded || spent != (own.Name == "broken") {
		t.Errorf("%s is %s (%s); the centre says spent: %v", own.Name, own.State, own.Reason, spent)
	}
}
