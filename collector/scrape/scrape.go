// Package scrape takes good and bad events from counters that services show by themselves, in the formats of Prometheus.
//
// Each address has a schedule of its own, like that of probes (internal/schedule): a goroutine asks it once per interval, and
// ticks copy what came of that (target.go, fetch.go). An answer is read in a stream; only lines of metrics that some
// indicator names are kept, and given to Prometheus' own parser (answer.go). What the counters grew by, series by series,
// are the events (tally.go).
//
// It reads no kernel file and needs no privilege. Collect takes 0.5 us for each indicator and allocates nothing. A scrape of
// 1,000 lines of which 10 are wanted takes 0.5 to 1 ms with both ends on one host, 0.14 to 0.3 of them to read it, and
// allocates 170 KiB (BenchmarkScrape, BenchmarkParse); the wanted lines of an answer are bounded by 1 MiB.
package scrape

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/schedule"
	"github.com/slid-agent/slid/internal/sli"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	// Name is the name of the collector in verdicts; an indicator's own begins with it.
	Name = "service/scrape"
	// SeriesPerIndicator is how many series an indicator has.
	SeriesPerIndicator = sli.Fixed + int(reasons)
	// maxScrapes bounds the scrapes that are under way at once.
	maxScrapes = 8
	// maxTimeout bounds the time of one; shorter intervals bound it further.
	maxTimeout = 10 * time.Second
)

// reason is why events were lost, or a scrape that would have told them.
type reason int

const (
	connect      reason = iota // nobody answers at the address
	timeout                    // the answer took too long
	status                     // the answer says no, or leads elsewhere
	protocol                   // the answer is none that Prometheus could read
	tooLarge                   // it does not end, or has too many series
	duplicate                  // it has a series twice
	missing                    // it has no such series any more
	bucket                     // its histogram has no such bound
	inconsistent               // more events are good, or bad, than there are
	missed                     // slid itself did not ask in time
	restart                    // the server began anew: what it counted last is not known
	reasons
)

func (r reason) String() string {
	return [...]string{
		"connect", "timeout", "status", "protocol", "too_large", "duplicate", "missing", "bucket", "inconsistent", "missed", "restart",
	}[r]
}

// A failure is an error whose reason is known.
type failure struct {
	reason reason
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(r reason, format string, args ...any) error {
	return &failure{r, fmt.Errorf(format, args...)}
}

// Scrapes counts the indicators of objectives whose source is scrape: once per interval it asks the addresses for their
// metrics, and what the counters grew by since the last answer are the events. The first answer is the base. A counter that
// fell, or of a process that started later than the last answer, began anew at zero. A scrape that failed counts as one
// event lost, by its reason; the next answer has the events of that time, too, unless the server began anew meanwhile
// (restart). Answers that contradict themselves (duplicate, inconsistent) are not counted.
//
// Scrapes are marked by the User-Agent slid/VERSION (scrape); service/traffic counts those of servers on the same host. No
// redirect is followed, no proxy used, and 16 MiB are read at most. It implements collector.Collector.
type Scrapes struct {
	targets  []*target
	stop     context.CancelFunc
	ctx      context.Context //nolint:containedctx // it ends with Close, not with a call
	tasks    *sync.WaitGroup
	scraping bool
}

// NewScrapes begins to ask at the first tick; without an objective about counters of a service it is off. It needs no privilege.
func NewScrapes(env collector.Env, version string, interval time.Duration, list []slo.Indicator) (collector.Collector, error) {
	s := &Scrapes{tasks: &sync.WaitGroup{}}
	families := sli.Declare(env.Metrics, sli.Declaration{
		Source: slo.ScrapeSource, From: "the service's own metrics", Reasons: Reasons(),
		Event:   "Events that the service counted by itself, by whether they were good.",
		Lost:    "Scrapes that failed, by their reason, each for at least one event; events of answers that contradict themselves (inconsistent).",
		Covered: "Share of the time since the last tick of which the service's counters told.",
	})
	slots := make(chan struct{}, maxScrapes)
	hostID := hostOf(env.Host)
	now := time.Now()
	for _, i := range list {
		if i.Source() != slo.ScrapeSource {
			continue
		}
		t := s.target(i.Scrape.URL)
		if t == nil {
			u, err := url.Parse(i.Scrape.URL)
			if err != nil {
				return nil, fmt.Errorf("scrape: %w", err)
			}
			t = newTarget(u, "slid/"+version+" (scrape)", env.Log, schedule.Schedule{
				Interval: interval, Timeout: min(interval, maxTimeout), Own: make(chan struct{}, 1), All: slots,
				Offset: schedule.Offset(hostID, i.Scrape.URL, interval),
			})
			s.targets = append(s.targets, t)
		}
		t.add(i, families.Of(i.Name, i.Select.Service, env.Host, now))
	}
	if len(s.targets) == 0 {
		return nil, &verdict.UnavailableError{Reason: "no objective is about counters of a service"}
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Reasons returns the values of loss.reason, in the order of their registers.
func Reasons() (list []string) {
	for r := range reasons {
		list = append(list, r.String())
	}
	return list
}

// target returns the one of an address, or nil.
func (s *Scrapes) target(address string) *target {
	for _, t := range s.targets {
		if t.url.String() == address {
			return t
		}
	}
	return nil
}

// hostOf returns what tells the host from others.
func hostOf(r *resource.Resource) string {
	text := func(key attribute.Key) string {
		v, _ := r.Set().Value(key)
		return v.AsString()
	}
	return cmp.Or(text("host.id"), text("host.name"))
}

// Collect copies what the scrapes added up to. The first one lets them begin: objectives follow from the first tick on. It
// allocates nothing.
func (s *Scrapes) Collect(_ context.Context, now time.Time) error {
	for _, t := range s.targets {
		if !s.scraping {
			s.tasks.Go(func() { t.run(s.ctx, s.tasks) })
		}
		t.store(now)
	}
	s.scraping = true
	return nil
}

// Verdicts has a row for all, and one for each indicator that cannot be counted at present.
func (s *Scrapes) Verdicts() []verdict.Verdict {
	indicators := 0
	var troubled []verdict.Verdict
	for _, t := range s.targets {
		indicators += len(t.indicators)
		troubled = t.appendVerdicts(troubled)
	}
	all := verdict.Verdict{
		Name: Name, State: verdict.Active, Hook: fmt.Sprintf("addresses %d, indicators %d", len(s.targets), indicators),
	}
	return append([]verdict.Verdict{all}, troubled...)
}

// Close ends every scrape and waits for it. Those that it breaks off are not counted.
func (s *Scrapes) Close() error {
	s.stop()
	s.tasks.Wait()
	return nil
}

// logPeriod is the shortest time between two lines about an address: one that comes and goes.
const logPeriod = time.Minute

// A chronicle writes to the log when something changes, but not too often.
type chronicle struct {
	log  *slog.Logger
	last string
	at   time.Time
}

func (c *chronicle) note(err error) {
	what := ""
	if err != nil {
		what = err.Error()
	}
	if now := time.Now(); what != c.last && now.Sub(c.at) >= logPeriod {
		c.last, c.at = what, now
		c.log.Info("scrape has another outcome", "error", err)
	}
}
