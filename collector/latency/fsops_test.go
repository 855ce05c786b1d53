package latency

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// Operations of the test are in the histograms, by the type of the filesystem and the operation.
func TestFSOpsExports(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	c, err := newDeps(t).NewFSOps(env)
	if u, ok := errors.AsType[*verdict.UnavailableError](err); ok && (u.Missing != "" || strings.HasPrefix(u.Reason, "refused")) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	for range 20 {
		if err := os.WriteFile(filepath.Join(t.TempDir(), "file"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	collect(t, c, env)
	opens, writes := uint64(0), uint64(0)
	for key, s := range spreads(t, registry, "system.filesystem.linux.operation.duration") {
		t.Logf("%s: %+v", key, s)
		if strings.Contains(key, "system.filesystem.type=proc") {
			t.Error("proc is not left out")
		}
		switch {
		case strings.Contains(key, "operation.name=open"):
			opens += s.count
		case strings.Contains(key, "operation.name=write"):
			writes += s.count
		}
	}
	if opens < 20 || writes < 20 {
		t.Errorf("%d opens and %d writes, want 20 each at least", opens, writes)
	}
	collectsWithoutAllocating(t, "fsops", env, c)
}
