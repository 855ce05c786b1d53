package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/internal/slo"
)

var update = flag.Bool("update", false, "write the expected messages anew")

// fileOf reads a file and names it by its base.
func fileOf(t testing.TB, path string) File {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return File{filepath.Base(path), data}
}

func TestWrongDocuments(t *testing.T) {
	files, err := filepath.Glob("testdata/openslo/invalid/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatal("only", len(files), "wrong documents", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := ParseDocuments(fileOf(t, file))
			checkMessages(t, file, err)
		})
	}
}

// span28 is a rolling window of 28 days.
func span28() slo.Window { return slo.Window{Span: slo.Span{Count: 28, Unit: slo.Day}} }

// member is one member of an objective on the service checkout.
func member(t *testing.T, name, route, good, exclude string, target float64) slo.Member {
	t.Helper()
	i := slo.Indicator{
		Name: name, Good: condition(t, good), Select: slo.Selection{Service: "checkout", Route: route, Methods: slo.AllMethods},
	}
	if exclude != "" {
		i.Exclude = condition(t, exclude)
	}
	return slo.Member{Indicator: i, Target: target, Weight: 1}
}

// TestDocuments reads every kind of object, inline and by reference, across two files.
func TestDocuments(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("needs the time zones of the world: apt-get install tzdata")
	}
	got, err := ParseDocuments(fileOf(t, "testdata/openslo/valid/checkout.yaml"), fileOf(t, "testdata/openslo/valid/shared.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	page := slo.Alert{
		Name: "page", Severity: "page", Threshold: 14.4, Op: slo.GTE, Long: time.Hour, Short: 5 * time.Minute,
		After: 2 * time.Minute, OnBurn: true, OnNoData: true,
	}
	ticket := slo.Alert{
		Name: "ticket", Severity: "sev3", Threshold: 1, Op: slo.GT, Long: 72 * time.Hour, Short: 6 * time.Hour, OnBurn: true,
	}
	fast := member(t, "checkout-fast", "/pay/", "status < 500 && duration <= 300ms", "status == 404 || method == OPTIONS", 0.999)
	most := fast
	most.Target = 0.99
	heavy := member(t, "slow", "", "duration <= 1s", "", 0.99)
	heavy.Weight = 0.5
	want := []slo.Objective{
		{
			Name: "checkout-fast-1", Service: "checkout", Description: "Paying is fast.", Members: []slo.Member{fast}, Target: 0.999,
			Window: span28(), Alerts: []slo.Alert{page, ticket},
		},
		{
			Name: "checkout-fast-2", Service: "checkout", Description: "Paying is fast.", Members: []slo.Member{most}, Target: 0.99,
			Window: span28(), Alerts: []slo.Alert{page, ticket},
		},
		{
			Name: "checkout-p99", Service: "checkout", Target: 0.95, Method: slo.Timeslices, Slice: 5 * time.Minute, SliceTarget: 0.99,
			Members: []slo.Member{member(t, "p99", "", "duration <= 300ms", "", 0.95)},
			Window:  slo.Window{Span: slo.Span{Count: 1, Unit: slo.Month}, Start: time.Date(2026, 1, 1, 0, 0, 0, 0, berlin)},
		},
		{
			Name: "checkout-all", Service: "checkout", Target: 0.999, Method: slo.RatioTimeslices, Slice: 10 * time.Minute,
			Members: []slo.Member{member(t, "errors", "", "status < 500", "", 0.999), heavy}, Window: span28(),
		},
	}
	if diff := cmp.Diff(want, got.Objectives); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantOther := []NotLocal{{"checkout-elsewhere", "Prometheus", "checkout.yaml:68"}}
	if diff := cmp.Diff(wantOther, got.NotLocal); diff != "" {
		t.Errorf("not local (-want +got):\n%s", diff)
	}
	var warnings []string
	for _, w := range got.Warnings {
		warnings = append(warnings, w.Error())
	}
	wantWarnings := []string{
		"checkout.yaml:59:7: spec.objectives[0]: op and value mean nothing with a ratioMetric; remove them",
		"shared.yaml:44:3: spec: the policy never alerts; add alertWhenBreaching: true",
		"shared.yaml:62:9: spec.condition.op: lte alerts as long as the budget does not burn; write gte for a burn rate that reaches the threshold",
	}
	if diff := cmp.Diff(wantWarnings, warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	wantKinds := []Kind{
		{"DataSource", 2}, {"SLO", 4}, {"SLI", 2}, {"AlertPolicy", 2}, {"AlertCondition", 2}, {"AlertNotificationTarget", 1}, {"Service", 1},
	}
	if diff := cmp.Diff(wantKinds, got.Kinds); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
}

func TestLoadDocuments(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "slid.yaml")
	if docs, err := LoadDocuments(config); err != nil || len(docs.Objectives) != 0 {
		t.Errorf("no folder: %v %v", docs, err)
	}
	folder := filepath.Join(dir, "slo.d")
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	noFolder := folder + ": cannot be read: not a directory; make it a folder that the user slid runs as may read"
	if _, err := LoadDocuments(config); err == nil || err.Error() != noFolder {
		t.Errorf("a file: %v", err)
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"checkout.yaml", "shared.yaml"} {
		write(name, fileOf(t, "testdata/openslo/valid/"+name).Data)
	}
	write("README.md", []byte("not: [yaml"))
	docs, err := LoadDocuments(config)
	if err != nil || len(docs.Objectives) != 4 {
		t.Fatalf("%d objectives, %v", len(docs.Objectives), err)
	}

	c, err := Parse("slid.yaml", []byte(`slos:
  - {name: checkout-fast-1, service: a, good: status < 500, target: 99%, window: 1d}
  - {name: errors, service: a, good: status < 500, target: 99%, window: 1d}
`))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Merge(docs)
	want := folder + "/checkout.yaml:23:7: spec.objectives[0]: has the name checkout-fast-1, as has slos[0] at slid.yaml:2; give each its own name\n" +
		folder + "/checkout.yaml:59:7: spec.objectives[0]: the indicator errors is another one than that of slos[1] at slid.yaml:3; give each its own name"
	if err == nil || err.Error() != want {
		t.Errorf("clash: %v\nwant   %s", err, want)
	}
	if len(c.SLOs) != 6 {
		t.Errorf("%d objectives", len(c.SLOs))
	}

	write("wrong.yaml", []byte("kind: SLO\n"))
	if _, err := LoadDocuments(config); err == nil || !strings.HasPrefix(err.Error(), folder+"/wrong.yaml:1:1: ") {
		t.Errorf("wrong document: %v", err)
	}
}

func TestIsOpenSLO(t *testing.T) {
	for text, want := range map[string]bool{
		"":                           false,
		"interval: 10s":              false,
		"apiVersion: openslo/v1":     true,
		"# text\n---\nkind: SLO\n":   true,
		"- kind: SLO":                false,
		"kind: SLO\n---\nbroken: [x": true,
	} {
		if got := IsOpenSLO(File{"f.yaml", []byte(text)}); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzDocuments(f *testing.F) {
	files, err := filepath.Glob("testdata/openslo/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		f.Add(fileOf(f, file).Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := ParseDocuments(File{"slid.yaml", data})
		if err != nil {
			for e := range strings.SplitSeq(err.Error(), "\n") {
				if !place.MatchString(e) || !strings.Contains(e, "; ") {
					t.Errorf("no place or remedy in %q", e)
				}
			}
			return
		}
		for _, o := range docs.Objectives {
			if o.Name == "" || o.Service == "" || o.Target <= 0 || o.Target >= 1 || len(o.Members) == 0 || o.Period() <= 0 ||
				o.Method != slo.Occurrences && o.Slice <= 0 {
				t.Errorf("objective %+v", o)
			}
			slo.NewTracker(o).Status(time.Unix(1e9, 0))
		}
	})
}
