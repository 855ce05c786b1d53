package rules

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/slo"
)

// TestOpenSLOReadsBackTheSame: what is written is understood as what it was.
func TestOpenSLOReadsBackTheSame(t *testing.T) {
	policies := withPolicies(t)
	policies.Members[0].Indicator.Name = "gone" // "errors" is another indicator in the others
	for _, list := range [][]slo.Objective{nil, {policies}, objectives(t)} {
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
