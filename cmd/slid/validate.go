package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/slo"
)

// manyFiles is more than a command line has room for.
const manyFiles = math.MaxInt

func validateCommand() command {
	return command{
		name: "validate", summary: "check configuration files and OpenSLO documents", operands: "FILE...", most: manyFiles,
		about: `Reads configuration files and OpenSLO v1 documents and says what it understood: the objectives, what is
good, the alerts, and which SLOs are not local, that is measured by others. Documents may refer to each
other if all of their files are named:

    slid validate /etc/slid/slid.yaml /etc/slid/slo.d/*.yaml

What is wrong stands on stderr, one line each: file:line: key: what is wrong; what to do.
The exit status is then 78.`,
		setup: func(*flag.FlagSet) action { return validate },
	}
}

func validate(_ context.Context, t terminal, paths []string) error {
	if len(paths) == 0 {
		return &usageError{what: "name a file", command: "validate"}
	}
	var documents []config.File
	var configurations []config.Config
	var names []string // of configurations
	var problems []error
	for _, path := range paths {
		f, err := config.ReadFile(path)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if config.IsOpenSLO(f) {
			documents = append(documents, f)
			continue
		}
		c, err := config.Parse(f.Name, f.Data)
		if err == nil {
			err = checkCollectors(c)
		}
		configurations, names, problems = append(configurations, c), append(names, f.Name), append(problems, err)
	}
	docs, err := config.ParseDocuments(documents...)
	problems = append(problems, err)
	whole := configurations
	if len(whole) == 0 {
		whole = []config.Config{config.Default()}
	}
	for _, c := range whole {
		err := c.Merge(docs) // into a copy: each file is shown with its own
		if err == nil {
			err = checkObjectives(c)
		}
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return &configError{err}
	}
	var b strings.Builder
	for i, c := range configurations {
		describeConfig(&b, names[i], c)
	}
	if len(documents) > 0 {
		describeDocuments(&b, documents, docs)
	}
	_, err = t.stdout.WriteString(b.String())
	return err
}

// describeConfig says what a configuration file has.
func describeConfig(b *strings.Builder, name string, c config.Config) {
	fmt.Fprintf(b, "%s: configuration: %s, %s, %s\n", name,
		plural(len(c.Services), "service"), plural(len(c.SLOs), "objective"), plural(len(c.Export), "destination"))
	for _, o := range c.SLOs {
		describeObjective(b, o)
	}
}

// describeDocuments says what a set of OpenSLO documents has.
func describeDocuments(b *strings.Builder, files []config.File, docs config.Documents) {
	var names, kinds []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	for _, k := range docs.Kinds {
		kinds = append(kinds, fmt.Sprintf("%d %s", k.Count, k.Name))
	}
	fmt.Fprintf(b, "%s: OpenSLO v1: %s\n", strings.Join(names, ", "), orElse(strings.Join(kinds, ", "), "nothing"))
	for _, o := range docs.Objectives {
		describeObjective(b, o)
	}
	for _, n := range docs.NotLocal {
		fmt.Fprintf(b, "  %s: not local: measured by %q, skipped (%s)\n", n.SLO, n.Source, n.Place)
	}
	for _, w := range docs.Warnings {
		fmt.Fprintf(b, "  warning: %v\n", w)
	}
}

// describeObjective says what is promised, what is counted and what will alert.
func describeObjective(b *strings.Builder, o slo.Objective) {
	how := ""
	switch o.Method {
	case slo.Timeslices:
		how = fmt.Sprintf(" of slices of %s with %g %%", slo.Shorthand(o.Slice), 100*o.SliceTarget)
	case slo.RatioTimeslices:
		how = " in the mean of slices of " + slo.Shorthand(o.Slice)
	}
	fmt.Fprintf(b, "  %s: %s promises %.6g %%%s over %s\n", o.Name, o.Service, 100*o.Target, how, o.Window)
	for _, m := range o.Members {
		describeIndicator(b, m.Indicator)
	}
	alerts := o.Alerts
	if len(alerts) == 0 {
		alerts = slo.StandardAlerts(o.Period(), o.Target)
		for _, s := range slo.Skipped(o.Period(), o.Target) {
			fmt.Fprintf(b, "    no alert %s\n", s)
		}
	}
	for _, a := range alerts {
		fmt.Fprintf(b, "    alert %s: %s if it burns %s %.4g in %s and in %s%s\n", a.Name, a.Severity, a.Op.Symbol(),
			a.Threshold, slo.Shorthand(a.Long), slo.Shorthand(a.Short), detection(a, o.Target))
	}
}

// describeIndicator says which events are good, and of which.
func describeIndicator(b *strings.Builder, i slo.Indicator) {
	word, good, of := "good", i.Good.String(), selected(i.Select)
	switch i.Source() {
	case slo.ScrapeSource:
		part, bad := i.Scrape.Part()
		if bad {
			word = "bad "
		}
		good, of = part.String(), fmt.Sprintf("%s, shown at %s", i.Scrape.Total, i.Scrape.URL)
	case slo.UnitSource:
		good, of = i.Unit.String()+" runs", "ticks"
	case slo.ResourceSource:
		good, of = i.Resource.String(), "readings"
	}
	fmt.Fprintf(b, "    %s  %s\n    of    %s\n", word, good, of)
	if !i.Exclude.Empty() {
		fmt.Fprintf(b, "    not   %s\n", i.Exclude)
	}
}

// detection says how soon an alert comes when everything is bad.
func detection(a slo.Alert, target float64) string {
	d, ok := a.Detection(target, 1)
	if !ok || a.Op == slo.LT || a.Op == slo.LTE {
		return ""
	}
	return fmt.Sprintf(" (a total outage after %s)", (d + a.After).Round(time.Second))
}

// selected says in words which requests count.
func selected(s slo.Selection) string {
	text := "requests to " + s.Service
	if s.Methods != slo.AllMethods {
		text = strings.Join(s.Methods.Names(), ", ") + " " + text
	}
	if s.Route != "" {
		text += " below " + s.Route
	}
	return text
}
