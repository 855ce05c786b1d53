package rules

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/slo"
)

// TestOpenSLOReadsBackTheSame: what is written is understood as what it was.
func TestOpenSLOReadsBackTheSame(t *testing.T) {
	policies := withPolicies(t)
	policies.Members[0].Indicator.Name = "gone" // "errors" is another indicator in the others
	for _, list := range [][]slo.Objective{nil, {policies}, objectives(t), sources(t)} {
		var out bytes.Buffer
		if err := OpenSLO(&out, list); err != nil {
			t.Fatal(err)
		}
		docs, err := config.ParseDocuments(config.File{Name: "written.yaml", Data: out.Bytes()})
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if diff := cmp.Diff(list, docs.Objectives); diff != "" {
			t.Errorf("(-written +read):\n%s\n%s", diff, out.String())
		}
		for _, w := range docs.Warnings {
			if w.What != "lte alerts as long as the budget does not burn" { // which withPolicies has on purpose
				t.Errorf("warning: %v", w)
			}
		}
	}
}

// sources returns an objective for each source of events other than requests.
func sources(t *testing.T) (list []slo.Objective) {
	t.Helper()
	selector := func(text string) slo.Selector {
		s, err := slo.ParseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const address = "http://127.0.0.1:9090/metrics?a=\"b\""
	for n, i := range []slo.Indicator{
		{Scrape: &slo.Scrape{URL: address, Good: selector(`x{code!~"5..",path="/\\\"ü\n"}`), Total: selector(`x`)}},
		{Scrape: &slo.Scrape{URL: address, Bad: selector(`e`), Total: selector(`x{a="b"}`)}},
		{Unit: &slo.Running{Unit: `a\x2db@1.service`, Command: "java: x", Container: "0123"}},
		{Resource: &slo.Resource{Figure: slo.CPU, Unit: "shop.service", Bound: slo.Bound{Op: slo.LT, Limit: 1. / 3}}},
		{Resource: &slo.Resource{Figure: slo.Inodes, Mount: "/with blank", Bound: slo.Bound{Op: slo.GTE, Limit: 0.07}}},
	} {
		o := objectives(t)[0]
		o.Name = fmt.Sprint("source-", n)
		i.Name, i.Select = o.Name, slo.Selection{Service: "shop", Methods: slo.AllMethods}
		o.Members = []slo.Member{{Indicator: i, Target: o.Target, Weight: 1}}
		list = append(list, o)
	}
	return list
}
