package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/collector/resource"
	"github.com/slid-agent/slid/collector/scrape"
	"github.com/slid-agent/slid/collector/unit"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/slo"
)

// fence finds the blocks of a page: their language and their text.
var fence = regexp.MustCompile("(?s)\n```(\\w*)\n(.*?)```\n")

// sloPage returns docs/slo.md and its blocks by language.
func sloPage(t *testing.T) (page string, blocks map[string][]string) {
	t.Helper()
	data, err := os.ReadFile("../../docs/slo.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks = make(map[string][]string)
	for _, m := range fence.FindAllStringSubmatch(string(data), -1) {
		blocks[m[1]] = append(blocks[m[1]], m[2])
	}
	return string(data), blocks
}

// TestExamplesOfTheGuide: what the guide shows is accepted, and answered as it says.
func TestExamplesOfTheGuide(t *testing.T) {
	page, blocks := sloPage(t)
	var documents []config.File
	var shorts []string // of slid's own form
	for i, text := range blocks["yaml"] {
		f := config.File{Name: fmt.Sprintf("block%d.yaml", i), Data: []byte(text)}
		if config.IsOpenSLO(f) {
			documents = append(documents, f)
			continue
		}
		shorts = append(shorts, text)
	}
	short := shorts[0]
	c, err := config.Parse("/etc/slid/slid.yaml", []byte(short))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := config.ParseDocuments(documents...)
	if err != nil || len(docs.Objectives) != 3 || len(docs.Warnings)+len(docs.NotLocal) > 0 {
		t.Errorf("%+v, %v", docs, err)
	}
	if err := c.Merge(docs); err != nil {
		t.Error(err)
	}

	var out strings.Builder
	c.SLOs = c.SLOs[:1]
	describeConfig(&out, "/etc/slid/slid.yaml", c)
	if diff := cmp.Diff("$ slid validate /etc/slid/slid.yaml\n"+out.String(), blocks[""][0]); diff != "" {
		t.Errorf("slid validate prints (-this +page):\n%s", diff)
	}

	_, err = config.Parse("slid.yaml", []byte(strings.NewReplacer("&& duration", "&& latency", "99.9%", "100%").Replace(short)))
	if diff := cmp.Diff(err.Error()+"\n", blocks[""][1]); diff != "" {
		t.Errorf("slid validate says (-this +page):\n%s", diff)
	}
	for _, name := range []string{"count", "Occurrences", "sli.events.lost", "`slid check`"} {
		if !strings.Contains(page, name) {
			t.Errorf("the page lost %q", name)
		}
	}
}

// TestSourcesOfTheGuide: what the guide shows of other sources is accepted, and understood as it says; every reason of a loss,
// every figure and every source has its place.
func TestSourcesOfTheGuide(t *testing.T) {
	page, blocks := sloPage(t)
	var shorts []string
	for _, text := range blocks["yaml"] {
		if !config.IsOpenSLO(config.File{Data: []byte(text)}) {
			shorts = append(shorts, text)
		}
	}
	if len(shorts) != 5 || len(blocks["text"]) != 3 {
		t.Fatalf("%d examples, %d answers", len(shorts), len(blocks["text"]))
	}
	if c, err := config.Parse("slid.yaml", []byte(shorts[1])); err != nil || len(c.Services) != 1 || len(c.Services[0].Routes) != 2 {
		t.Errorf("the routes of a service: %+v, %v", c.Services, err)
	}
	for i, text := range shorts[2:] {
		c, err := config.Parse("slid.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for _, o := range c.SLOs {
			describeIndicator(&out, o.Members[0].Indicator)
		}
		if diff := cmp.Diff(out.String(), blocks["text"][i]); diff != "" {
			t.Errorf("slid validate prints (-this +page):\n%s", diff)
		}
	}
	for _, name := range slices.Concat(slo.Figures(), slo.Sources(), scrape.Reasons(), unit.Reasons(), resource.Reasons()) {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("the guide does not explain %s", name)
		}
	}
}

// TestNumbersOfTheGuide computes the numbers of the guide. That they are right is tested in internal/slo.
func TestNumbersOfTheGuide(t *testing.T) {
	page, _ := sloPage(t)
	const day = 24 * time.Hour
	var rows [4]string // of the table of alerts, for the periods in turn
	for _, days := range []time.Duration{7, 28, 30, 90} {
		for i, share := range []float64{0.02, 0.05, 0.1, 0.1} {
			window := []time.Duration{time.Hour, 6 * time.Hour, day, 3 * day}[i]
			threshold := share * float64(days*day) / float64(window)
			cell := fmt.Sprintf("%.4g", threshold)
			if threshold < 1-1e-9 {
				cell = fmt.Sprintf("(%.3g)", threshold)
			}
			rows[i] += " | " + cell
		}
	}
	month := slo.Objective{Target: 0.999, Window: slo.Window{Span: slo.Span{Count: 30, Unit: slo.Day}}}
	one := slo.Counts{Good: 59, Bad: 1}
	ratio, _ := one.ErrorRatio()
	low, high := one.Interval()
	page1h := slo.StandardAlerts(30*day, 0.999)[0]
	detection := func(target, e float64) float64 {
		d, _ := page1h.Detection(target, e)
		return d.Seconds()
	}
	needed := func(target float64) float64 { return math.Ceil(slo.MinBad/(page1h.Threshold*(1-target)) - 1e-6) }
	single := 100 * month.Spent(slo.Counts{Good: 7199, Bad: 1, Measured: 30 * day}, 0.999)
	for _, want := range append(rows[:],
		time.Duration(month.Allowed()*float64(month.Period())).Round(time.Second).String()+" of 30 days",
		fmt.Sprintf("a single one is %.1f %%", single),
		fmt.Sprintf("99.9 %% of 28 days are %.0f minutes in which it may be down", (28*day/1000).Minutes()),
		fmt.Sprintf("an error ratio of\n%.2f %%", 100*ratio),
		fmt.Sprintf("between %.2f %% and %.1f %%: a burn rate of %.1f, or of %.1f, or of %.1f",
			100*low, 100*high, 1000*ratio, 1000*low, 1000*high),
		fmt.Sprintf("%.0f requests an hour at 99 %%, %.0f at 99.9 %% and %.0f at\n99.99 %%", needed(0.99), needed(0.999), needed(0.9999)),
		fmt.Sprintf("%.1f s after the start of a total outage, and %.0f s after errors of 10 %%", detection(0.999, 1), detection(0.999, 0.1)),
		fmt.Sprintf("pages after %.1f s", detection(0.9999, 1)),
		fmt.Sprintf("above %.2f %%", 100*(1-1/page1h.Threshold)),
		fmt.Sprintf("less than %.0f %% of the events", 100*slo.MinCoverage),
	) {
		// The page breaks its lines where it likes.
		if !strings.Contains(strings.Join(strings.Fields(page), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// TestGuideKnowsTheRules: the series and alerts of the guide are those that slid rules writes.
func TestGuideKnowsTheRules(t *testing.T) {
	page, blocks := sloPage(t)
	path := filepath.Join(t.TempDir(), "slid.yaml")
	if err := os.WriteFile(path, []byte(blocks["yaml"][0]), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := newSlid(t, "rules", "--config", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^ +- (?:alert|record): (\S+)$`).FindAllStringSubmatch(string(out), -1)
	if len(names) < 10 {
		t.Fatalf("only %d rules:\n%s", len(names), out)
	}
	for _, m := range names {
		name := m[1]
		if strings.HasPrefix(name, "slo:burn_rate:") {
			name = "slo:burn_rate:1h"
		}
		if !strings.Contains(page, "`"+name) {
			t.Errorf("the guide does not explain %s", name)
		}
	}
}
