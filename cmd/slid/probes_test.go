package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/slid-agent/slid/collector/latency"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/testneed"
)

// onlyProbes returns a configuration in which the default kernel probes run and nothing else.
func onlyProbes(tb testing.TB) config.Config {
	tb.Helper()
	c := config.Default()
	for _, f := range collectors(latency.Deps{}, c) {
		if area, name, _ := strings.Cut(f.Name, "/"); area == "host" {
			c.Host.Disabled = append(c.Host.Disabled, name)
		}
	}
	return c
}

// BenchmarkProbesOpen loads and attaches all default kernel probes, the HTTP probe among them, as slid does when it starts.
func BenchmarkProbesOpen(b *testing.B) {
	testneed.Root(b, "to load BPF programs")
	c := onlyProbes(b)
	log := slog.New(slog.DiscardHandler)
	for b.Loop() {
		p := open(b.Context(), c, log, func() {})
		b.StopTimer()
		for _, v := range p.unavailable {
			b.Logf("%s: %s", v.Name, v.Reason)
		}
		for _, opened := range p.collectors {
			if err := opened.Collector.Close(); err != nil {
				b.Error(err)
			}
		}
		if err := p.close(); err != nil {
			b.Error(err)
		}
		b.StartTimer()
	}
}
