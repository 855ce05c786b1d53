package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/rules"
	"github.com/slid-agent/slid/internal/slo"
)

// A ruleWriter writes objectives in a form that another program reads.
type ruleWriter = func(io.Writer, []slo.Objective) error

func rulesCommand() command {
	return command{
		name: "rules", summary: "write the objectives as rules for Prometheus, or as OpenSLO",
		about: `Writes for the objectives of the configuration and of the OpenSLO documents beside it (slo.d/*.yaml)
  prometheus  recording rules for burn rates and budgets, and alerts. They add up the counters of all
              hosts (sli_events_total)
  openslo     OpenSLO v1 documents

SLOs whose metrics come from another vendor's source are left out and named on stderr.`,
		setup: func(flags *flag.FlagSet) action {
			write := choose(flags, "o", "write `FORMAT`", []option[ruleWriter]{
				{"prometheus", rules.Prometheus}, {"openslo", rules.OpenSLO},
			})
			path := flags.String("config", "", "read `FILE` (default "+config.DefaultPath+", if it exists)")
			return func(_ context.Context, t terminal, _ []string) error { return writeRules(t, *path, *write) }
		},
	}
}

func writeRules(t terminal, path string, write ruleWriter) error {
	c, docs, err := loadObjectives(path)
	if err != nil {
		return err
	}
	for _, n := range docs.NotLocal {
		fmt.Fprintf(t.stderr, "slid: %s is not local: measured by %q, left out (%s)\n", n.SLO, n.Source, n.Place)
	}
	if len(c.SLOs) == 0 {
		fmt.Fprintln(t.stderr, "slid: there are no objectives")
	}
	return write(t.stdout, c.SLOs)
}
