package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestDoctorFitsTheTerminal(t *testing.T) {
	r := doctorReport{Sources: []verdict.Verdict{
		{Name: "host/cgroup", State: verdict.Active, Hook: "/sys/fs/cgroup/cpu /sys/fs/cgroup/memory"},
		{Name: "host/disk", State: verdict.Degraded, Reason: "größere Platten fehlen hier", Missing: "the host's /sys"},
		{Name: "host/sensors", State: verdict.Unavailable, Reason: "no chips", Absent: true},
		{Name: "latency/dns", State: verdict.Unavailable, Reason: "opt-in", Off: true},
	}}
	const want = `host/cgroup   active       /sys/fs/cgroup/cpu
                           /sys/fs/cgroup/memory
host/disk     degraded
              größere Platten fehlen
              hier
              needs the host's /sys
host/sensors  absent
              no chips
latency/dns   off          opt-in

1 active, 1 degraded, 0 unavailable, 1 absent, 1 off
`
	var b strings.Builder
	r.printSources(&b, 37)
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("37 columns (-want +got):\n%s", diff)
	}
	b.Reset()
	r.printSources(&b, 0)
	if lines := strings.Count(b.String(), "\n"); lines != 9 {
		t.Errorf("%d lines without a width:\n%s", lines, b.String())
	}
}
