package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/exporter/text"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/pipeline"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

// doctorReport is the JSON of slid doctor.
type doctorReport struct {
	SchemaVersion int               `json:"schema_version"`
	Version       string            `json:"version"`
	Host          string            `json:"host"`
	Kernel        string            `json:"kernel"`
	BTF           bool              `json:"btf"`    // the kernel describes its types, which every probe needs
	Cgroup        string            `json:"cgroup"` // mount of the cgroup2 tree; "" if there is none
	UID           int               `json:"uid"`
	Capabilities  []string          `json:"capabilities"` // effective; of those slid can use
	Lacking       []string          `json:"lacking"`      // the others of those
	Sources       []verdict.Verdict `json:"sources"`
}

func doctorCommand() command {
	return command{
		name: "doctor", summary: "say what slid can and cannot see here, and why",
		about: `Opens every collector and kernel probe as slid run would, tries each once and says how it fares: active,
degraded or unavailable, by which hook, for what reason, and what would help. It runs with the
privileges of whoever calls it: call it as the user slid runs as to see what that one may.
It exits 0 whatever it finds.`,
		setup: func(flags *flag.FlagSet) action {
			asJSON := choose(flags, "o", "print as `FORMAT`", []option[bool]{{"table", false}, {"json", true}})
			path := flags.String("config", "", "read `FILE` (default "+config.DefaultPath+", if it exists)")
			return func(ctx context.Context, t terminal, _ []string) error { return doctor(ctx, t, *path, *asJSON) }
		},
	}
}

func doctor(ctx context.Context, t terminal, path string, asJSON bool) error {
	c, unread, err := lenientConfig(path)
	if err != nil {
		return err
	}
	if unread {
		fmt.Fprintf(t.stderr, "slid: not allowed to read %s: looking with defaults\n", config.DefaultPath)
	}
	report := examine(ctx, c, t)
	if asJSON {
		return printJSON(t.stdout, report)
	}
	return report.print(t.stdout, width(t.stdout))
}

// patient is how long services that are scraped have to answer.
const patient = time.Second

// wait lets a time pass, unless ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// examine opens every collector, runs it once and asks how it fares.
func examine(ctx context.Context, c config.Config, t terminal) doctorReport {
	log := t.quiet()
	parts := open(ctx, c, log, func() {})
	p := pipeline.New(parts.options(pipeline.DefaultInterval, log))
	p.Start(ctx)
	p.Collect(ctx, time.Now())
	if len(indicators(c, slo.ScrapeSource)) > 0 {
		wait(ctx, patient)
		p.Collect(ctx, time.Now())
	}
	r := describeMachine(parts.env)
	r.Host = attributeOf(parts.host, "host.name")
	r.Sources = append(p.Verdicts(), parts.disabled...)
	verdict.Sort(r.Sources)

	last, cancel := context.WithTimeout(ctx, closing)
	defer cancel()
	if err := errors.Join(p.Shutdown(last), parts.close()); err != nil {
		fmt.Fprintln(t.stderr, "slid:", err)
	}
	return r
}

// describeMachine returns what decides which probes can work.
func describeMachine(env collector.Env) doctorReport {
	r := doctorReport{
		SchemaVersion: text.SchemaVersion, Version: version, Cgroup: env.Cgroup, UID: os.Geteuid(),
		Capabilities: []string{}, Lacking: []string{},
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		r.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	r.BTF = err == nil
	effective := effectiveCapabilities()
	for _, c := range usefulCapabilities {
		if effective&(1<<c.bit) != 0 {
			r.Capabilities = append(r.Capabilities, c.name)
		} else {
			r.Lacking = append(r.Lacking, c.name)
		}
	}
	return r
}

// usefulCapabilities are those that the systemd unit grants.
var usefulCapabilities = []struct {
	name string
	bit  uint
}{
	{"CAP_BPF", unix.CAP_BPF},
	{"CAP_PERFMON", unix.CAP_PERFMON},
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN},
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE},
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH},
}

// effectiveCapabilities returns the capabilities of the process as a set of bits (capget(2)).
func effectiveCapabilities() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return 0
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
}

// print writes the report for people. columns is the width to fit into; 0 means that there is none.
func (r doctorReport) print(w io.Writer, columns int) error {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-13s %s\n", name, value) }
	line("slid", r.Version)
	line("host", r.Host)
	line("kernel", r.Kernel)
	line("type info", map[bool]string{true: "yes (BTF)", false: "no: the kernel lacks BTF, no probe can be loaded"}[r.BTF])
	line("cgroup2", orElse(r.Cgroup, "none: service traffic cannot be counted"))
	line("uid", fmt.Sprint(r.UID))
	line("capabilities", orElse(strings.Join(r.Capabilities, " "), "none of those slid can use"))
	if len(r.Lacking) > 0 {
		line("lacking", strings.Join(r.Lacking, " "))
	}
	b.WriteString("\n")
	r.printSources(&b, columns)
	_, err := io.WriteString(w, b.String())
	return err
}

// The states that people read of what the machine does not have, and of what nobody asked for.
const (
	absent = verdict.State("absent")
	off    = verdict.State("off")
)

// printSources writes a line per source, and below it why it is not active.
func (r doctorReport) printSources(b *strings.Builder, columns int) {
	nameWidth := 0
	for _, v := range r.Sources {
		nameWidth = max(nameWidth, len(v.Name))
	}
	indent := strings.Repeat(" ", nameWidth+2)
	count := map[verdict.State]int{}
	for _, v := range r.Sources {
		switch {
		case v.Absent:
			v.State = absent
		case v.Off:
			v.State, v.Hook, v.Reason = off, v.Reason, ""
		}
		count[v.State]++
		head := fmt.Sprintf("%-*s  %-11s  ", nameWidth, v.Name, v.State)
		writeWrapped(b, head, strings.Repeat(" ", len(head)), v.Hook, columns)
		if v.Reason != "" {
			writeWrapped(b, indent, indent, v.Reason, columns)
		}
		if v.Missing != "" {
			writeWrapped(b, indent, indent, "needs "+v.Missing, columns)
		}
	}
	fmt.Fprintf(b, "\n%d active, %d degraded, %d unavailable, %d absent, %d off\n",
		count[verdict.Active], count[verdict.Degraded], count[verdict.Unavailable], count[absent], count[off])
}

// writeWrapped writes head and text, and as much of the text as does not fit into the columns on lines of its own
// behind indent. Words are not cut.
func writeWrapped(b *strings.Builder, head, indent, text string, columns int) {
	line := head
	room := false // a word stands on the line, so the next may go below it
	for word := range strings.FieldsSeq(text) {
		switch {
		case !room:
			line += word
		case columns > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns:
			fmt.Fprintln(b, line)
			line = indent + word
		default:
			line += " " + word
		}
		room = true
	}
	fmt.Fprintln(b, strings.TrimRight(line, " "))
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
