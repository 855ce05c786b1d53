package rules

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/promtest"
	"github.com/slid-agent/slid/internal/slo"
)

// promtool returns the path of Prometheus's promtool, or skips the test.
func promtool(t *testing.T) string {
	t.Helper()
	return filepath.Join(filepath.Dir(promtest.Find(t)), "promtool")
}

func condition(t *testing.T, text string) slo.Condition {
	t.Helper()
	c, err := slo.ParseCondition(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// objectives has one of each kind. Their indicators are "errors" and "slow".
func objectives(t *testing.T) []slo.Objective {
	t.Helper()
	member := func(name, good string, target, weight float64) slo.Member {
		return slo.Member{Target: target, Weight: weight, Indicator: slo.Indicator{
			Name: name, Good: condition(t, good), Select: slo.Selection{Service: "shop", Route: "/pay/", Methods: slo.AllMethods},
		}}
	}
	errors, slow := member("errors", "status < 500", 0.99, 1), member("slow", "duration <= 300ms", 0.95, 0.5)
	even := slow
	even.Target, even.Weight = 0.99, 1
	days := slo.Window{Span: slo.Span{Count: 2, Unit: slo.Day}}
	list := []slo.Objective{
		{Name: "by-events", Service: "shop", Members: []slo.Member{errors}, Target: 0.99, Window: days},
		{Name: "both", Service: "shop", Members: []slo.Member{errors, slow}, Target: 0.99, Window: days},
		{
			Name: "by-slices", Service: "shop", Members: []slo.Member{errors}, Target: 0.99, Window: days,
			Method: slo.Timeslices, Slice: 5 * time.Minute, SliceTarget: 0.95,
		},
		{
			Name: "both-by-slices", Service: "shop", Members: []slo.Member{errors, even}, Target: 0.99, Window: days,
			Method: slo.Timeslices, Slice: 5 * time.Minute, SliceTarget: 0.9,
		},
		{
			Name: "by-ratios", Service: "shop", Members: []slo.Member{errors, slow}, Target: 0.99, Window: days,
			Method: slo.RatioTimeslices, Slice: 5 * time.Minute,
		},
	}
	for i := range list {
		list[i].Alerts = slo.StandardAlerts(30*24*time.Hour, 0.99)[:3] // of two days none would make sense
	}
	return list
}

// withPolicies is an objective that has all that rules and documents may have.
func withPolicies(t *testing.T) slo.Objective {
	t.Helper()
	o := objectives(t)[0]
	o.Name, o.Description = "calendar", "Line one.\nLine two: with a colon."
	o.Service = `Warenkorb "neu" {{`
	o.Window = slo.Window{Span: slo.Span{Count: 1, Unit: slo.Month}, Start: time.Date(2026, 1, 1, 6, 0, 0, 0, time.UTC)}
	o.Members[0].Indicator.Exclude = condition(t, `status in [404, 410] || route == "/healthz"`)
	o.Members[0].Indicator.Select.Methods = 0b101
	o.Alerts = []slo.Alert{
		{
			Name: "page", Severity: "page", Threshold: 14.4, Op: slo.GTE, Long: time.Hour, Short: 5 * time.Minute,
			After: 2 * time.Minute, OnBurn: true, OnNoData: true,
		},
		{Name: "odd", Severity: "sev 3", Threshold: 0.5, Op: slo.LTE, Long: 26 * time.Hour, Short: 130 * time.Minute, OnBurn: true},
	}
	return o
}

// A block is the traffic of one host in five minutes, of which each scrape sees as much: whole events, since a counter
// that rounding sets back looks like a restart.
type block struct{ all, errors, slow int }

const (
	blockLength = 5 * time.Minute
	scrapes     = 20 // in a block: every 15 s
	blocks      = 2*288 + 144
	end         = blocks * blockLength
	early       = 20 * time.Hour // when not half of the period was measured
)

// traffic returns what two hosts serve in two days and a half: by day a hundred times the traffic of the night, some errors always,
// one host slow by night, pauses, and at the end an outage of one of both.
func traffic() [2][]block {
	var hosts [2][]block
	for i := range blocks {
		for h := range hosts {
			b := block{all: 10000 + 1000*(i*7%5), errors: i * 13 % 30, slow: i * 11 % 40}
			if i%288 >= 144 {
				b = block{all: 100, errors: i * 5 % 2, slow: h * 12}
			}
			if i%288 >= 200 && i%288 < 206 {
				b = block{}
			}
			if i >= blocks-7 && h == 1 {
				b.errors = b.all / 2
			}
			hosts[h] = append(hosts[h], b)
		}
	}
	return hosts
}

// promSeries writes a counter in promtool's notation: what it grows by in each scrape of each block.
func promSeries(list []block, growth func(block) int) string {
	var b strings.Builder
	value := 1_000_000 // a counter that begins near zero makes increase() guess when it was zero
	b.WriteString("1000000")
	for _, bl := range list {
		step := growth(bl)
		fmt.Fprintf(&b, " %d+%dx%d", value+step, step, scrapes-1)
		value += step * scrapes
	}
	return b.String()
}

type (
	promTest struct {
		RuleFiles          []string    `yaml:"rule_files"`
		GroupEvalOrder     []string    `yaml:"group_eval_order,omitempty"`
		EvaluationInterval string      `yaml:"evaluation_interval"`
		Tests              []promGroup `yaml:"tests"`
	}
	promGroup struct {
		Interval    string       `yaml:"interval"`
		InputSeries []promInput  `yaml:"input_series"`
		Expr        []promExpect `yaml:"promql_expr_test"`
	}
	promInput struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	}
	promExpect struct {
		Expr    string       `yaml:"expr"`
		Time    string       `yaml:"eval_time"`
		Samples []promSample `yaml:"exp_samples"`
	}
	promSample struct {
		Labels string  `yaml:"labels"`
		Value  float64 `yaml:"value"`
	}
)

// inputs are the counters of both hosts for both indicators.
func inputs(hosts [2][]block) []promInput {
	var list []promInput
	for h, blocks := range hosts {
		for name, bad := range map[string]func(block) int{
			"errors": func(b block) int { return b.errors }, "slow": func(b block) int { return b.slow },
		} {
			for outcome, growth := range map[string]func(block) int{
				"bad": bad, "good": func(b block) int { return b.all - bad(b) },
			} {
				list = append(list, promInput{
					fmt.Sprintf(`sli_events_total{job="shop",instance="host%d",sli_name=%q,sli_outcome=%q}`, h, name, outcome),
					promSeries(blocks, growth),
				})
			}
		}
	}
	return list
}

// follow gives a tracker the traffic of both hosts together and returns its status after a time.
func follow(o slo.Objective, hosts [2][]block, after time.Duration) slo.Status {
	tr := slo.NewTracker(o)
	now := time.Unix(0, 0).UTC()
	for i := range int(after / blockLength) {
		now = now.Add(blockLength)
		var sum block
		for _, list := range hosts {
			sum.all, sum.errors, sum.slow = sum.all+list[i].all, sum.errors+list[i].errors, sum.slow+list[i].slow
		}
		var counts []slo.Counts
		for _, m := range o.Members {
			bad := map[string]int{"errors": sum.errors, "slow": sum.slow}[m.Indicator.Name]
			counts = append(counts, slo.Counts{Good: uint64(scrapes * (sum.all - bad)), Bad: uint64(scrapes * bad), Measured: blockLength})
		}
		tr.Add(now, counts)
	}
	tr.Add(now.Add(time.Nanosecond), make([]slo.Counts, len(o.Members))) // a slice is over with what comes after it
	return tr.Status(now)
}

// expectations says what a Prometheus must compute after a time: what the host itself says.
func expectations(o slo.Objective, s slo.Status, after time.Duration) []promExpect {
	at := after.String()
	yes := []promSample{{"{}", 1}}
	agrees := func(series string, want, share float64) promExpect {
		return promExpect{fmt.Sprintf("sum(abs(%s{slo_name=%q} - %g)) <= bool %g", series, o.Name, want, share*max(1, abs(want))), at, yes}
	}
	var list []promExpect
	for _, b := range s.Burns {
		if b.Window > o.Period() {
			continue
		}
		share := 1e-5 // of recorded increments and slices: exact but for millionths
		if o.Method == slo.Occurrences && b.Window <= 2*time.Hour {
			share = 0.01 // increase() leaves out what came before the first sample
		}
		list = append(list, agrees(burnSeries+slo.Shorthand(b.Window), b.Rate, share))
	}
	list = append(list, agrees(budgetSeries, s.Remaining, 1e-5))
	for _, a := range o.Alerts {
		fires := 0.0
		for _, f := range s.Firing {
			if f.Name == a.Name {
				fires = 1
			}
		}
		list = append(list, promExpect{
			fmt.Sprintf(`sum(ALERTS{alertname="SLOBurn",alertstate="firing",slo_name=%q,slo_alert=%q}) or vector(0)`, o.Name, a.Name),
			at,
			[]promSample{{"{}", fires}},
		})
	}
	spent := 0.0
	if s.Remaining <= 0 {
		spent = 1
	}
	return append(list, promExpect{
		fmt.Sprintf(`sum(ALERTS{alertname="SLOBudgetSpent",slo_name=%q}) or vector(0)`, o.Name), at, []promSample{{"{}", spent}},
	})
}

func abs(f float64) float64 { return max(f, -f) }

// TestRulesAgreeWithTheHost evaluates the rules over the counters of two hosts, and compares burn rates, budgets and
// alerts with what a host says that has the traffic of both.
func TestRulesAgreeWithTheHost(t *testing.T) {
	tool := promtool(t)
	dir := t.TempDir()
	list, hosts := objectives(t), traffic()
	writeRules(t, filepath.Join(dir, "rules.yaml"), list)
	test := promTest{
		RuleFiles: []string{"rules.yaml"}, EvaluationInterval: "5m",
		Tests: []promGroup{{Interval: "15s", InputSeries: inputs(hosts)}},
	}
	states := map[slo.State]int{}
	test.GroupEvalOrder = []string{"slid-increments"}
	for _, o := range list {
		for _, g := range (builder{o}).groups() { // slices before what reads them
			test.GroupEvalOrder = append(test.GroupEvalOrder, g.Name)
		}
		for _, after := range []time.Duration{early, end} {
			s := follow(o, hosts, after)
			states[s.State]++
			test.Tests[0].Expr = append(test.Tests[0].Expr, expectations(o, s, after)...)
		}
	}
	if states[slo.Breached] == 0 || states[slo.Burning] == 0 {
		t.Errorf("the traffic tells no states apart: %v", states)
	}
	write(t, filepath.Join(dir, "test.yaml"), test)
	run(t, dir, tool, "test", "rules", "test.yaml")

	// The test must be able to fail.
	test.Tests[0].Expr = test.Tests[0].Expr[:1]
	test.Tests[0].Expr[0].Samples[0].Value = 0
	write(t, filepath.Join(dir, "wrong.yaml"), test)
	if out, err := command(dir, tool, "test", "rules", "wrong.yaml").CombinedOutput(); err == nil {
		t.Errorf("promtool accepts a wrong burn rate:\n%s", out)
	}
}

// TestGuards: absent counters, low coverage and missing data alert; two bad events do not.
func TestGuards(t *testing.T) {
	tool := promtool(t)
	dir := t.TempDir()
	list := objectives(t)
	gone := withPolicies(t)
	gone.Members = []slo.Member{gone.Members[0]}
	gone.Members[0].Indicator.Name = "gone"
	writeRules(t, filepath.Join(dir, "rules.yaml"), append(list[:1], gone))
	alert := func(selector string, want float64) promExpect {
		return promExpect{fmt.Sprintf("count(ALERTS{alertstate=\"firing\",%s}) or vector(0)", selector), "2h", []promSample{{"{}", want}}}
	}
	test := promTest{
		RuleFiles: []string{"rules.yaml"}, EvaluationInterval: "5m",
		// Not at random: the alerts look at the increments.
		GroupEvalOrder: []string{"slid-increments", "slid-" + list[0].Name, "slid-" + gone.Name},
		Tests: []promGroup{{
			Interval: "1m",
			InputSeries: []promInput{
				{`sli_events_total{sli_name="errors",sli_outcome="good"}`, "0x120"},
				{`sli_events_total{sli_name="errors",sli_outcome="bad"}`, "0x116 1 2 2 2"},
				{`sli_coverage_ratio{sli_name="errors",instance="a"}`, "1x120"},
				{`sli_coverage_ratio{sli_name="errors",instance="b"}`, "0.98x120"},
			},
			Expr: []promExpect{
				alert(`alertname="SLOBurn"`, 0),
				alert(`alertname="SLICoverageLow",slo_name="by-events"`, 1),
				alert(`alertname="SLIAbsent",slo_name="by-events"`, 0),
				alert(`alertname="SLIAbsent",slo_name="calendar"`, 1),
				alert(`alertname="SLONoData",slo_name="calendar"`, 1),
			},
		}},
	}
	write(t, filepath.Join(dir, "test.yaml"), test)
	run(t, dir, tool, "test", "rules", "test.yaml")

	test.Tests[0].InputSeries[1].Values = "0x116 1 2 3 3" // the third pages
	test.Tests[0].Expr = []promExpect{alert(`alertname="SLOBurn",severity="page"`, 2)}
	write(t, filepath.Join(dir, "test.yaml"), test)
	run(t, dir, tool, "test", "rules", "test.yaml")
}

func TestRulesAreSound(t *testing.T) {
	tool := promtool(t)
	dir := t.TempDir()
	brief := objectives(t)[0]
	brief.Name, brief.Window = "brief", slo.Window{Span: slo.Span{Count: 1, Unit: slo.Hour}}
	writeRules(t, filepath.Join(dir, "rules.yaml"), append(objectives(t), withPolicies(t), brief))
	writeRules(t, filepath.Join(dir, "none.yaml"), nil)
	run(t, dir, tool, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", "none.yaml")
}

// TestNotes: what the rules lack is said.
func TestNotes(t *testing.T) {
	o := withPolicies(t)
	o.Alerts, o.Target = nil, 0.9
	var out bytes.Buffer
	if err := Prometheus(&out, []slo.Objective{o}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# calendar: no alert page-1h (burn 14.4 in 1h): even if all is bad the budget burns slower.\n",
		"# calendar: no slo:budget_remaining:ratio, since Prometheus knows no calendar; each host does.\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func writeRules(t *testing.T, path string, list []slo.Objective) {
	t.Helper()
	var out bytes.Buffer
	if err := Prometheus(&out, list); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, document any) {
	t.Helper()
	data, err := yaml.Marshal(document)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	return cmd
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	if out, err := command(dir, name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%.6000s", strings.Join(args, " "), err, out)
	}
}
