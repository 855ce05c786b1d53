package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const old = `{"sources": [
	{"name": "host/cpu", "state": "active"},
	{"name": "latency/runqueue", "state": "active", "hook": "tp_btf/sched_switch"},
	{"name": "latency/fsops", "state": "unavailable", "hook": "fentry", "reason": "no such function"},
	{"name": "latency/softirq", "state": "unavailable", "reason": "off by default", "off": true}]}`

const young = `{"sources": [
	{"name": "latency/runqueue", "state": "degraded", "hook": "a|b", "reason": "slow", "missing": "CONFIG_X=y"},
	{"name": "latency/softirq", "state": "unavailable", "reason": "no such function"}]}`

const want = "| probe | Linux 6.1 | Linux 6.12 |\n|---|---|---|\n" +
	"| `fsops` | unavailable [1] | not there |\n" +
	"| `runqueue` | active: tp_btf/sched_switch | degraded: a\\|b [2] |\n" +
	"| `softirq` | unavailable [3] | unavailable [1] |\n" +
	"\n1. no such function\n2. slow (needs CONFIG_X=y)\n3. off by default\n"

func TestTable(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	readme := write("README.md", "before\n"+tableBegin+"old\n"+tableEnd+"after\n")
	columns := []string{"6.1=" + write("old.json", old), "6.12=" + write("young.json", young)}
	if err := updateTable(readme, columns, false); err == nil || !strings.Contains(err.Error(), "is not current") {
		t.Errorf("error %v", err)
	}
	for _, update := range []bool{true, false} {
		if err := updateTable(readme, columns, update); err != nil {
			t.Error(err)
		}
	}
	got, err := os.ReadFile(readme)
	if err != nil || string(got) != "before\n"+tableBegin+"\n"+want+"\n"+tableEnd+"after\n" {
		t.Errorf("got %v:\n%s", err, got)
	}
	if err := updateTable(write("none.md", "no marks"), columns, true); err == nil {
		t.Error("no error without marks")
	}
	if err := updateTable(readme, []string{"6.1=" + write("broken.json", "{")}, true); err == nil {
		t.Error("no error with a broken report")
	}
}

func TestSwitchOn(t *testing.T) {
	var out bytes.Buffer
	if err := switchOn(strings.NewReader(old), &out); err != nil || out.String() != "latency: {enabled: [softirq]}\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
