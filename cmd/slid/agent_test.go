package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/collector/budget"
	"github.com/slid-agent/slid/exporter/text"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/local"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/pipeline"
	"github.com/slid-agent/slid/internal/slo"
)

// answering serves a document as an agent would, in a folder that a command gets as its RUNTIME_DIRECTORY.
func answering(t *testing.T, answer func() ([]byte, error)) (folder string) {
	t.Helper()
	folder = t.TempDir()
	l, err := local.Listen(filepath.Join(folder, "slid.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- local.Serve(ctx, l, answer) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return folder
}

// reporting is answering with objectives in the given states, named by them.
func reporting(t *testing.T, states ...string) (folder string) {
	t.Helper()
	r := text.Report{SchemaVersion: text.SchemaVersion, Host: "web-17", WindowSeconds: 10, Time: time.Unix(1e9, 0).UTC(), SLOs: []text.SLO{}}
	for i, state := range states {
		left := 0.5 - float64(i)
		r.SLOs = append(r.SLOs, text.SLO{
			Name: state, Service: "shop", Target: 0.999, State: state, Reason: "a reason", BudgetRemaining: &left, Over: "28d",
			BurnRate: map[string]float64{"5m": 2, "1h": 3},
		})
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return answering(t, func() ([]byte, error) { return data, nil })
}

// asking returns slid with an agent in the folder.
func asking(t *testing.T, folder string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := newSlid(t, args...)
	cmd.Env = append(cmd.Env, "RUNTIME_DIRECTORY="+folder)
	return cmd
}

// status runs cmd and returns its status and what it printed.
func status(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &err
	if e, ok := errors.AsType[*exec.ExitError](cmd.Run()); ok {
		code = e.ExitCode()
	}
	return code, out.String(), err.String()
}

func TestCheckStatus(t *testing.T) {
	for _, tt := range []struct {
		states string
		args   string
		want   int
		stdout string
	}{
		{"ok", "", 0, "ok ok, 50% of the budget left, 28d\n"},
		{"ok burning", "", 1, "ok ok, 50% of the budget left, 28d\nburning burning: a reason, -50% of the budget left, 28d\n"},
		{"unknown burning", "", 1, ""},
		{"burning breached unknown ok", "", 2, ""},
		{"ok unknown", "", 3, ""},
		{"", "", 3, ""},
		{"burning breached unknown ok", "ok", 0, "ok ok, -250% of the budget left, 28d\n"},
		{"burning breached unknown ok", "unknown", 3, ""},
		{"burning breached", "brning", 2, ""},
	} {
		args := []string{"check"}
		if tt.args != "" {
			args = append(args, "--slo", tt.args)
		}
		code, stdout, stderr := status(t, asking(t, reporting(t, strings.Fields(tt.states)...), args...))
		if code != tt.want || tt.stdout != "" && stdout != tt.stdout {
			t.Errorf("%v %s: status %d, want %d\n%s%s", args, tt.states, code, tt.want, stdout, stderr)
		}
		if tt.args == "brning" && (stdout != "" || !strings.Contains(stderr, "did you mean burning")) {
			t.Errorf("a name that is not there: %s%s", stdout, stderr)
		}
	}
}

// TestCheckWithoutAnAnswer: an agent that cannot be understood is said and not believed.
func TestCheckWithoutAnAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "slid.yaml")
	if err := os.WriteFile(path, []byte("interval: 10s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for answer, want := range map[string]string{
		`{"error":"asleep"}`:     "asleep",
		"hello":                  "nonsense",
		`{"schema_version": 99}`: "version 99",
	} {
		folder := answering(t, func() ([]byte, error) { return []byte(answer), nil })
		code, stdout, stderr := status(t, asking(t, folder, "sli", "-o", "json"))
		if code != 0 || !strings.Contains(stderr, want) || !strings.Contains(stderr, "measuring by itself") || decode(t, stdout).SchemaVersion != 1 {
			t.Errorf("%s: status %d\n%s%s", answer, code, stdout, stderr)
		}
	}
}

func TestSliAsksTheAgent(t *testing.T) {
	folder := reporting(t, "ok", "breached")
	began := time.Now()
	code, stdout, stderr := status(t, asking(t, folder, "sli"))
	if code != 0 || !strings.Contains(stdout, "web-17") || !strings.Contains(stdout, "! breached") || !strings.Contains(stderr, "asked the running agent") {
		t.Errorf("status %d\n%s%s", code, stdout, stderr)
	}
	if took := time.Since(began); took > defaultFor {
		t.Errorf("it took %v", took)
	}
	if code, stdout, _ := status(t, asking(t, folder, "sli", "-o", "json")); code != 0 || decode(t, stdout).Host != "web-17" {
		t.Errorf("status %d\n%s", code, stdout)
	}
	if code, stdout, stderr := status(t, asking(t, folder, "sli", "--for", "200ms")); code != 0 || strings.Contains(stdout, "web-17") || stderr != "" {
		t.Errorf("--for: status %d\n%s%s", code, stdout, stderr)
	}
}

// TestMadeUpTraffic drives a pipeline with made-up counters from end to end: their collector, the objectives, the socket
// and slid check and slid sli as other processes.
func TestMadeUpTraffic(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	r := metric.NewRegistry(instrumentation.Scope{})
	made := &madeUp{group: r.Group("made-up", metric.ClassService, 100)}
	c, err := config.Parse("slid.yaml", []byte("slos:\n"+
		"  - {name: checkout-fast, service: checkout, good: status < 500, target: 99%, window: 28d}\n"+
		"  - {name: search-up, service: search, good: status < 500, target: 99%, window: 7d}\n"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	group := r.Group(budget.Name, metric.ClassSLO, 100)
	objectives, err := budget.NewObjectives(collector.Env{Metrics: group, Host: resource.Empty(), Log: log}, c.SLOs)
	if err != nil {
		t.Fatal(err)
	}
	p := &parts{registry: r, agent: resource.Empty(), collectors: []pipeline.Collector{
		{Name: budget.Name, Lane: collector.Derived, Group: group, Collector: objectives},
		{Name: "made-up", Group: made.group, Collector: made},
	}}
	keeper, questions := p.keeper(nil)
	options := p.options(time.Second, log)
	options.Destinations = []pipeline.Destination{questions}
	pipe := pipeline.New(options)
	pipe.Start(t.Context())
	folder := answering(t, keeper.JSON)
	if code, stdout, _ := status(t, asking(t, folder, "check")); code != 3 || stdout != "" {
		t.Errorf("before the first tick: status %d\n%s", code, stdout)
	}
	ticks := func(good, bad int64) {
		made.good, made.bad = good, bad
		for range 3 {
			if err := pipe.Tick(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond) // a measured time is not none
		}
	}
	ticks(100, 0)
	if code, stdout, stderr := status(t, asking(t, folder, "check", "--slo", "checkout-fast")); code != 0 || !strings.HasPrefix(stdout, "checkout-fast ok, ") ||
		!strings.Contains(stdout, ", since start (") || !strings.Contains(stderr, "asked the running agent") {
		t.Errorf("good traffic: status %d\n%s%s", code, stdout, stderr)
	}
	ticks(100, 100)
	code, stdout, _ := status(t, asking(t, folder, "check"))
	if code != 1 || !strings.Contains(stdout, "checkout-fast burning: page-1h: ") || !strings.Contains(stdout, "search-up unknown: nothing was measured") {
		t.Errorf("half of it bad: status %d\n%s", code, stdout)
	}
	checkReport(t, output(t, asking(t, folder, "sli", "-o", "json")))
	if table := output(t, asking(t, folder, "sli")); !strings.Contains(table, "! checkout-fast     99%  66.666%     33.3  33.3  33.3") {
		t.Errorf("table:\n%s", table)
	}
	if err := pipe.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// checkReport compares the objectives of a report with what was made up: 600 good, 300 bad.
func checkReport(t *testing.T, data string) {
	t.Helper()
	var r struct {
		SLOs []struct {
			Name, Service, State string
			Target, Ratio        float64
			Good, Bad            uint64
			Low                  float64            `json:"ratio_low"`
			High                 float64            `json:"ratio_high"`
			Burn                 map[string]float64 `json:"burn_rate"`
			Remaining            *float64           `json:"budget_remaining"`
			Coverage             *float64
			Since                *time.Time
		}
	}
	if err := json.Unmarshal([]byte(data), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.SLOs) != 2 {
		t.Fatalf("%d objectives:\n%s", len(r.SLOs), data)
	}
	s := r.SLOs[0]
	if s.Name != "checkout-fast" || s.Service != "checkout" || s.State != "burning" || s.Target != 0.99 || s.Good != 600 || s.Bad != 300 ||
		s.Ratio < 0.666 || s.Ratio > 0.667 || s.Low > 0.64 || s.Low < 0.6 || s.High < 0.69 || s.High > 0.7 ||
		s.Burn["5m"] < 33.3 || s.Burn["1h"] > 33.4 || s.Remaining == nil || *s.Remaining > 1 || *s.Coverage != 1 || s.Since == nil {
		t.Errorf("%+v", s)
	}
	if s := r.SLOs[1]; s.Name != "search-up" || s.Remaining != nil || s.Coverage != nil || len(s.Burn) != 0 {
		t.Errorf("what was not measured: %+v", s)
	}
}

// madeUp is a collector of one indicator's events.
type madeUp struct {
	idle
	group     *metric.Group
	entity    *metric.Entity
	good, bad int64 // in each tick
}

func (m *madeUp) Collect(_ context.Context, now time.Time) error {
	if m.entity == nil {
		m.entity = m.group.Entity(resource.NewSchemaless(attribute.String("service.name", "checkout")), now.Add(-time.Millisecond))
	}
	f := m.group.Int(metric.Desc{Name: "sli.events", Kind: metric.Counter, Unit: "{event}"})
	name := attribute.String("sli.name", "checkout-fast")
	f.With(m.entity, name, attribute.String("sli.outcome", "good")).Add(m.good)
	f.With(m.entity, name, attribute.String("sli.outcome", "bad")).Add(m.bad)
	return nil
}

// TestRunAnswers runs the agent as systemd would: it must answer, keep its state, and say so; a hostile client must not
// delay its ticks.
func TestRunAnswers(t *testing.T) {
	folder, stateDir := t.TempDir(), t.TempDir()
	path := filepath.Join(t.TempDir(), "slid.yaml")
	text := "interval: 1s\nslos: [{name: checkout-fast, service: no-such-service, good: status < 500, target: 99%, window: 28d}]\n" +
		"export: [{name: nobody, endpoint: \"http://127.0.0.1:1\", select: [slo]}]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := asking(t, folder, "run", "--config", path)
	cmd.Env = append(cmd.Env, "STATE_DIRECTORY="+stateDir)
	var log buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the start", func() bool { return strings.Contains(log.String(), "slid runs") })
	for range 8 { // more than are served at once; they say nothing and stay
		conn, err := net.Dial("unix", filepath.Join(folder, "slid.sock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	await(t, "a report of an interval", func() bool {
		_, stdout, _ := status(t, asking(t, folder, "check"))
		return strings.HasPrefix(stdout, "checkout-fast unknown: ")
	})
	await(t, "a window", func() bool {
		_, _, stderr := status(t, asking(t, folder, "sli", "-o", "json"))
		return strings.Contains(stderr, "asked the running agent")
	})
	r := decode(t, output(t, asking(t, folder, "sli", "-o", "json")))
	if r.WindowSeconds < 0.9 || r.WindowSeconds > 1.6 {
		t.Errorf("a window of %v s: were the ticks delayed?", r.WindowSeconds)
	}
	second := asking(t, folder, "run", "--config", path)
	var other buffer
	second.Stderr = &other
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the second agent's word", func() bool { return strings.Contains(other.String(), "another agent answers there") })
	signalProcess(t, second.Process, unix.SIGTERM)
	_ = second.Wait()

	signalProcess(t, cmd.Process, unix.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, log.String())
	}
	if _, err := os.Stat(filepath.Join(stateDir, "slo.state")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "slid.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestTopInATerminal: the screen is taken over and given back, keys are obeyed, and nothing is wider than the terminal.
func TestTopInATerminal(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *pty, *os.Process){
		"q":      func(t *testing.T, p *pty, _ *os.Process) { p.press(t, "q") },
		"Ctrl-C": func(t *testing.T, _ *pty, slid *os.Process) { signalProcess(t, slid, unix.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPTY(t)
			before, err := unix.IoctlGetTermios(int(p.process.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			cmd := asking(t, reporting(t, "burning", "ok"), "top", "--interval", "100ms")
			cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=1")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = p.process, p.process, p.process
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, "three screens", func() bool { return strings.Count(p.screen.String(), "! burning") >= 3 })
			end(t, p, cmd.Process)
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			await(t, "the terminal given back", func() bool { return strings.HasSuffix(p.screen.String(), leaveScreen) })
			screen := p.screen.String()
			if !strings.HasPrefix(screen, enterScreen) {
				t.Errorf("the terminal was not taken over:\n%q", screen)
			}
			if strings.Contains(screen, "\x1b[1m") || strings.Contains(screen, "\x1b[31m") {
				t.Error("colors in spite of NO_COLOR")
			}
			after, err := unix.IoctlGetTermios(int(p.process.Fd()), unix.TCGETS)
			if err != nil || *after != *before {
				t.Errorf("the keyboard was %+v, is %+v, %v", before, after, err)
			}
		})
	}
}

// press writes keys as somebody at the terminal would.
func (p *pty) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := fmt.Fprint(p.ours, keys); err != nil {
		t.Fatal(err)
	}
}

// TestDescribe: every number of a status has its place, and what is not known has none.
func TestDescribe(t *testing.T) {
	o := slo.Objective{
		Name: "x", Target: 0.9, Window: slo.Window{Span: slo.Span{Count: 7, Unit: slo.Day}}, Method: slo.Timeslices, Slice: time.Minute,
		SliceTarget: 0.9, Members: []slo.Member{{Target: 0.9, Weight: 1}},
	}
	tracker := slo.NewTracker(o)
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for range 120 {
		now = now.Add(30 * time.Second)
		tracker.Add(now, []slo.Counts{{Good: 8, Bad: 2, Excluded: 1, Measured: 30 * time.Second}})
	}
	d := describe(budget.Standing{Objective: o, Status: tracker.Status(now), At: now})
	if d.Unit != "slices" || d.Good != 0 || d.Bad != 59 || *d.Ratio != 0 || *d.RatioLow != 0 || *d.RatioHigh != 0 || d.Excluded != 120 ||
		d.Over != "since start (1h)" || d.MeasuredSeconds != 3600 || d.State != "burning" || len(d.Firing) == 0 || *d.Coverage != 1 ||
		d.ExhaustedInSeconds == nil || *d.BudgetRemaining > 1-59.0/(0.1*7*24*60)+1e-9 {
		t.Errorf("%+v", d)
	}
	if d := describe(budget.Standing{Objective: o, Status: slo.NewTracker(o).Status(now), At: now}); d.Ratio != nil || d.BudgetRemaining != nil ||
		d.Coverage != nil || d.Over != "not measured" || d.State != "unknown" || !strings.Contains(d.Reason, "nobody counts") {
		t.Errorf("%+v", d)
	}
}
