package service

import (
	"fmt"
	"testing"

	"github.com/slid-agent/slid/internal/slo"
)

// TestOtherSourcesTakeNoRoom: objectives that are not about traffic are none of the kernel's.
func TestOtherSourcesTakeNoRoom(t *testing.T) {
	o := &Objectives{}
	for n := range 1000 {
		i := slo.Indicator{Name: fmt.Sprint(n), Select: slo.Selection{Service: "shop"}, Unit: &slo.Running{Command: "x"}}
		if what, remedy := o.Add(slo.Objective{Members: []slo.Member{{Indicator: i}}}); what != "" {
			t.Fatalf("%d: %s; %s", n, what, remedy)
		}
	}
	if o.total != 0 || len(o.services) != 0 {
		t.Errorf("%d indicators of %d services", o.total, len(o.services))
	}
}
