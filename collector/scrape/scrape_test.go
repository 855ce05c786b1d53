package scrape

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.uber.org/goleak"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func selector(t testing.TB, text string) slo.Selector {
	t.Helper()
	s, err := slo.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ratio is an indicator of good and all events at an address.
func ratio(t testing.TB, address, good, total string) slo.Indicator {
	t.Helper()
	return slo.Indicator{
		Name: "i", Select: slo.Selection{Service: "shop"},
		Scrape: &slo.Scrape{URL: address, Good: selector(t, good), Total: selector(t, total)},
	}
}

// A lab is the collector and what a destination gets of it.
type lab struct {
	*Scrapes
	group    *metric.Group
	snapshot *metric.Snapshot
	now      time.Time
}

// newLab returns a collector that scrapes when the test says so.
func newLab(t testing.TB, list ...slo.Indicator) *lab {
	t.Helper()
	registry := metric.NewRegistry(instrumentation.Scope{})
	group := registry.Group(Name, metric.ClassService, 1000)
	c, err := NewScrapes(collector.Env{Metrics: group, Host: resource.Empty(), Log: slog.New(slog.DiscardHandler)}, "test", 10*time.Second, list)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Scrapes: c.(*Scrapes), group: group, snapshot: registry.NewSnapshot(), now: time.Now()}
	l.scraping = true
	for _, target := range l.targets {
		target.schedule.Timeout = 2 * time.Second
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// scrape asks every address once, and then ticks.
func (l *lab) scrape(t testing.TB) {
	t.Helper()
	for _, target := range l.targets {
		target.attempt(t.Context(), time.Now())
	}
	l.tick(t)
}

func (l *lab) tick(t testing.TB) {
	t.Helper()
	l.now = l.now.Add(10 * time.Second)
	if err := l.Collect(t.Context(), l.now); err != nil {
		t.Fatal(err)
	}
	l.group.Collected(l.now)
	l.snapshot.Take(l.now)
}

// figures are the values of an indicator.
type figures struct {
	good, bad int64
	lost      string // the reasons that are not zero, e.g. "status 1"
	coverage  float64
	told      bool // there are events at all
	at        time.Time
}

func (l *lab) figures(name string) (f figures) {
	f.coverage = math.NaN()
	text := func(set attribute.Set, key attribute.Key) string {
		v, _ := set.Value(key)
		return v.AsString()
	}
	var lost []string
	for _, rm := range l.snapshot.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					if text(p.Attributes, "sli.name") != name {
						continue
					}
					switch reason := text(p.Attributes, "loss.reason"); {
					case m.Name == "sli.events" && text(p.Attributes, "sli.outcome") == "good":
						f.good, f.told, f.at = p.Value, true, p.Time
					case m.Name == "sli.events":
						f.bad = p.Value
					case m.Name == "sli.events.lost" && p.Value > 0:
						lost = append(lost, fmt.Sprint(reason, " ", p.Value))
					}
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					if text(p.Attributes, "sli.name") == name {
						f.coverage = p.Value
					}
				}
			}
		}
	}
	f.lost = strings.Join(lost, ", ")
	return f
}

func (l *lab) want(t *testing.T, good, bad int64, lost string, coverage float64) {
	t.Helper()
	f := l.figures("i")
	if f.good != good || f.bad != bad || f.lost != lost || !(math.Abs(f.coverage-coverage) < 0.01) {
		t.Errorf("%d good, %d bad, lost %q, coverage %v; want %d, %d, %q, %v", f.good, f.bad, f.lost, f.coverage, good, bad, lost, coverage)
	}
}

// trouble returns the reason in the verdict on the indicator, or nothing.
func (l *lab) trouble() string {
	for _, v := range l.Verdicts() {
		if v.Name == Name+"/i" && v.State == verdict.Unavailable {
			return v.Reason
		}
	}
	return ""
}

// A shop is a server that counts what it serves and shows it. The test counts, too.
type shop struct {
	mu    sync.Mutex
	codes map[string]int
	extra string
	reply http.HandlerFunc // instead of the metrics
}

func (s *shop) serve(code string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.codes == nil {
		s.codes = map[string]int{}
	}
	s.codes[code] += n
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reply != nil {
		s.reply(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	fmt.Fprint(w, "# HELP http_requests_total All of them.\n# TYPE http_requests_total counter\n")
	for code, n := range s.codes {
		fmt.Fprintf(w, "http_requests_total{code=%q,path=\"/\\\"\"} %d\n", code, n)
	}
	fmt.Fprint(w, s.extra)
}

const good, total = `http_requests_total{code!~"5.."}`, `http_requests_total`

// TestEventsAreTheServersOwn: what is counted is what the server served since the first answer, however its series come and go.
func TestEventsAreTheServersOwn(t *testing.T) {
	s := &shop{}
	server := httptest.NewServer(s)
	defer server.Close()
	l := newLab(t, ratio(t, server.URL+"/metrics", good, total))
	s.serve("200", 1000)
	if l.tick(t); l.figures("i").told {
		t.Error("events before anything was asked")
	}
	l.scrape(t)
	l.want(t, 0, 0, "", 1) // the base
	s.serve("200", 90)
	s.serve("503", 10)
	l.scrape(t)
	l.want(t, 90, 10, "", 1)
	l.tick(t)
	before := l.figures("i").at
	l.tick(t)
	if f := l.figures("i"); !f.at.Equal(before) {
		t.Error("a tick without an answer has a new time")
	}
	s.serve("404", 7)
	s.serve("500", 3)
	l.scrape(t)
	l.want(t, 97, 13, "", 1)
	if !l.figures("i").at.After(before) {
		t.Error("an answer has no new time")
	}
	s.mu.Lock()
	delete(s.codes, "404") // a series that goes and comes back
	s.mu.Unlock()
	l.scrape(t)
	s.serve("404", 8)
	l.scrape(t)
	l.want(t, 98, 13, "", 1)
}

// TestRestarts: a server that begins anew, seen by its counters or by when its process started.
func TestRestarts(t *testing.T) {
	s := &shop{}
	server := httptest.NewServer(s)
	defer server.Close()
	l := newLab(t, ratio(t, server.URL, good, total))
	s.serve("200", 1000)
	s.serve("500", 5)
	l.scrape(t)
	s.codes = map[string]int{"200": 40, "500": 2}
	l.scrape(t)
	l.want(t, 40, 2, "restart 1", 1)

	s.extra = fmt.Sprintf("process_start_time_seconds %v\n", float64(time.Now().Add(-time.Hour).Unix()))
	l.scrape(t)
	l.want(t, 40, 2, "restart 1", 1)
	l.targets[0].indicators[0].tally.last = time.Now().Add(-100 * time.Second)
	s.extra = fmt.Sprintf("process_start_time_seconds %v\n", float64(time.Now().Add(-25*time.Second).UnixMilli())/1e3)
	s.codes = map[string]int{"200": 60, "500": 2} // more than before: the counters alone would not tell
	l.scrape(t)
	l.want(t, 100, 4, "restart 2", 0.25)
	l.scrape(t)
	l.want(t, 100, 4, "restart 2", 1)
	// A process that has served nothing yet shows no series: no event is lost by that.
	s.extra = fmt.Sprintf("process_start_time_seconds %v\n", time.Now().Unix()+10)
	s.codes = nil
	l.scrape(t)
	s.serve("200", 1)
	l.scrape(t)
	l.want(t, 101, 4, "restart 3", 1)
}

// TestBadAnswers: each is a class of its own, none is an event, and the next good answer goes on.
func TestBadAnswers(t *testing.T) {
	text := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, body)
		}
	}
	long := strings.Repeat("x", maxLine+10)
	for _, tt := range []struct {
		name, lost, verdict string
		reply               http.HandlerFunc
	}{
		{"100 MB", "too_large 1", "the answer does not end within 16 MiB", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", fmt.Sprint(100<<20))
			for range 100 << 10 {
				if _, err := io.WriteString(w, strings.Repeat("a", 1023)+"\n"); err != nil {
					return
				}
			}
		}},
		{"endless line", "too_large 1", "the answer does not end within 16 MiB", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, long); err != nil {
					return
				}
			}
		}},
		{"endless and slow", "timeout 1", "no answer within 2s", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for r.Context().Err() == nil {
				io.WriteString(w, "http_requests_total 1\n")
				w.(http.Flusher).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		}},
		{"silent", "timeout 1", "no answer within 2s", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"redirect", "status 1", `the status is 302, to "http://elsewhere/": write that address if it is meant`, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://elsewhere/", http.StatusFound)
		}},
		{"error", "status 1", "the status is 500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		{"page", "protocol 1", `the answer is "text/html", want the text format of Prometheus (text/plain)`, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, "http_requests_total 5000\n")
		}},
		{"no content type", "protocol 1", `the content type ";" is none`, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ";")
		}},
		{"compressed", "protocol 1", `the answer is compressed by "gzip", which was not asked for`, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Encoding", "gzip")
		}},
		{
			"broken text", "protocol 1", "broken text: text format parsing error in line 1: expected '\"' at start of label value, found '2'",
			text("http_requests_total{code=200} 5000\n"),
		},
		{"no number", "protocol 1", `broken text: text format parsing error in line 1: expected float as value, got "many"`, text("http_requests_total many\n")},
		{"cut number", "protocol 1", `the answer ends amid a line: "http_requests_total 50"`, text("http_requests_total 50")},
		{"cut connection", "protocol 1", "no whole answer: unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "http_requests_total 5000\n")
		}},
		{"long line", "protocol 1", "a line has more than 65536 bytes", text("http_requests_total{code=\"" + long + "\"} 1\n")},
		{
			"duplicate series", "duplicate 1", `a series is there twice: http_requests_total{code="200"}`,
			text("http_requests_total{code=\"200\"} 5000\nother 1\nhttp_requests_total{code=\"200\"} 5001\n"),
		},
		{"negative", "protocol 1", "http_requests_total{} is -1, which no counter is", text("http_requests_total -1\n")},
		{"not a number", "protocol 1", "http_requests_total{} is NaN, which no counter is", text("http_requests_total NaN\n")},
		{"infinite", "protocol 1", "http_requests_total{} is +Inf, which no counter is", text("http_requests_total +Inf\n")},
		{"vanished", "missing 1", "no series matches http_requests_total any more", text("other 1\n")},
		{"empty", "missing 1", "no series matches http_requests_total any more", text("")},
		{"too many", "too_large 1", "more than 2000 series match http_requests_total", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for n := range maxSeries + 1 {
				fmt.Fprintf(w, "http_requests_total{code=\"5%d\"} 1\n", n)
			}
		}},
		{"too much", "too_large 1", "the wanted metrics have more than 1024 KiB", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for n := range 200 {
				fmt.Fprintf(w, "http_requests_total{code=\"%d\",x=%q} 1\n", n, long[:8000])
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &shop{}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.mu.Lock()
				reply := s.reply
				s.mu.Unlock()
				if reply != nil {
					reply(w, r)
					return
				}
				s.ServeHTTP(w, r)
			}))
			defer server.Close()
			l := newLab(t, ratio(t, server.URL, good, total))
			s.serve("200", 100)
			l.scrape(t)
			s.reply = tt.reply
			l.scrape(t)
			l.want(t, 0, 0, tt.lost, 0)
			if got := l.trouble(); got != tt.verdict {
				t.Errorf("verdict %q, want %q", got, tt.verdict)
			}
			s.mu.Lock()
			s.reply = nil
			s.mu.Unlock()
			s.serve("200", 9)
			s.serve("500", 1)
			l.scrape(t)
			l.want(t, 9, 1, tt.lost, 1)
			if got := l.trouble(); got != "" {
				t.Errorf("still %q", got)
			}
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	server := httptest.NewServer(&shop{})
	address := server.URL
	server.Close()
	l := newLab(t, ratio(t, address, good, total))
	l.scrape(t)
	l.want(t, 0, 0, "connect 1", 0)
	if l.figures("i").told || !strings.Contains(l.trouble(), "connection refused") {
		t.Errorf("%+v, %q", l.figures("i"), l.trouble())
	}
	unknown := newLab(t, ratio(t, "http://nobody.invalid/", good, total))
	unknown.scrape(t)
	unknown.want(t, 0, 0, "connect 1", 0)

	secure := httptest.NewTLSServer(&shop{})
	defer secure.Close()
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	untrusted := newLab(t, ratio(t, secure.URL, good, total))
	untrusted.scrape(t)
	untrusted.want(t, 0, 0, "connect 1", 0)
	if !strings.Contains(untrusted.trouble(), "certificate") {
		t.Errorf("%q", untrusted.trouble())
	}
}

// TestGoodAndBadContradictTotal: what is no part of the total is lost; a few that came between two counters are not.
func TestGoodAndBadContradictTotal(t *testing.T) {
	s := &shop{}
	server := httptest.NewServer(s)
	defer server.Close()
	show := func(ok, all int) { s.extra = fmt.Sprintf("ok_total %d\nall_total %d\n", ok, all) }
	l := newLab(t, ratio(t, server.URL, "ok_total", "all_total"))
	show(0, 0)
	l.scrape(t)
	show(103, 100) // three were counted as good already
	l.scrape(t)
	l.want(t, 100, 0, "", 1)
	show(200, 204)
	l.scrape(t)
	l.want(t, 200, 4, "", 1)
	show(400, 304)
	l.scrape(t)
	l.want(t, 200, 4, "inconsistent 100", 0)
	if want := "ok_total grew by 200 and all_total by 100: it is no part of it"; l.trouble() != want {
		t.Errorf("%q", l.trouble())
	}
	show(490, 404)
	l.scrape(t)
	l.want(t, 290, 14, "inconsistent 100", 1)

	bad := newLab(t, slo.Indicator{
		Name: "i", Scrape: &slo.Scrape{URL: server.URL, Bad: selector(t, "ok_total"), Total: selector(t, "all_total")},
	})
	bad.scrape(t)
	show(500, 504)
	bad.scrape(t)
	bad.want(t, 90, 10, "", 1)
}

// TestSeriesThatNeverWere: nothing was measured, and the verdict says what is missing; a series that comes counts in full.
func TestSeriesThatNeverWere(t *testing.T) {
	s := &shop{}
	server := httptest.NewServer(s)
	defer server.Close()
	l := newLab(t, ratio(t, server.URL, good, total))
	for range 3 {
		l.scrape(t)
	}
	if f := l.figures("i"); f.told || f.lost != "" {
		t.Errorf("%+v", f)
	}
	if want := "no series matches http_requests_total: nothing was counted yet, or it is mistyped"; l.trouble() != want {
		t.Errorf("%q", l.trouble())
	}
	s.serve("500", 3)
	l.scrape(t)
	l.want(t, 0, 3, "", 1)
}

// TestHistogram: the good events are those of one bucket; a bound that there is not is told with those that there are.
func TestHistogram(t *testing.T) {
	s := &shop{}
	server := httptest.NewServer(s)
	defer server.Close()
	show := func(fast, slow int) {
		s.extra = fmt.Sprintf(`# TYPE h histogram
h_bucket{code="200",le="0.1"} 0
h_bucket{code="200",le="0.30"} %d
h_bucket{code="200",le="+Inf"} %d
h_sum{code="200"} 1
h_count{code="200"} %[2]d
h_bucket{code="500",le="0.1"} 0
h_bucket{code="500",le="0.30"} 1000
h_bucket{code="500",le="+Inf"} 1000
h_sum{code="500"} 1
h_count{code="500"} 1000
`, fast, fast+slow)
	}
	l := newLab(t, ratio(t, server.URL, `h_bucket{code="200",le="0.3"}`, `h_count{code="200"}`))
	wrong := newLab(t, ratio(t, server.URL, `h_bucket{le="0.2"}`, `h_count`))
	show(10, 0)
	l.scrape(t)
	show(1010, 17)
	l.scrape(t)
	l.want(t, 1000, 17, "", 1)
	wrong.scrape(t)
	wrong.want(t, 0, 0, "bucket 1", 0)
	if want := "h_bucket has no bucket of 0.2; its bounds are 0.1, 0.3, +Inf"; wrong.trouble() != want {
		t.Errorf("%q", wrong.trouble())
	}
}

// TestOneScrapeForAll: indicators at one address share a scrape, and each has its own troubles.
func TestOneScrapeForAll(t *testing.T) {
	var asked atomic.Int64
	s := &shop{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.UserAgent() != "slid/test (scrape)" || r.Header.Get("Accept") != acceptText || r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("%v", r.Header)
		}
		asked.Add(1)
		s.ServeHTTP(w, r)
	}))
	defer server.Close()
	all, typo := ratio(t, server.URL, good, total), ratio(t, server.URL, good, "http_request_total")
	typo.Name = "typo"
	l := newLab(t, all, typo)
	s.serve("200", 1)
	l.scrape(t)
	s.serve("200", 1)
	l.scrape(t)
	l.want(t, 1, 0, "", 1)
	if f := l.figures("typo"); f.told || asked.Load() != 2 {
		t.Errorf("%+v, asked %d times", f, asked.Load())
	}
}

// TestScrapesNeverDelayATick: however many servers hang, a tick takes no time; no more than some are asked at once, and the
// rest counts as missed. At the start each has its turn.
func TestScrapesNeverDelayATick(t *testing.T) {
	var under, most atomic.Int64
	var list []slo.Indicator
	for n := range 2 * maxScrapes {
		var asked atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			most.Store(max(most.Load(), under.Add(1)))
			defer under.Add(-1)
			if asked.Add(1) > 1 {
				<-r.Context().Done()
			}
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "http_requests_total 1\n")
		}))
		t.Cleanup(server.Close)
		i := ratio(t, server.URL, good, total)
		i.Name = fmt.Sprint(n)
		list = append(list, i)
	}
	l := newLab(t, list...)
	l.scraping = false
	for _, target := range l.targets {
		target.schedule.Interval, target.schedule.Timeout, target.schedule.Offset = 500*time.Millisecond, time.Minute, 0
	}
	patiently := func(what string, done func(f figures) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			begun := time.Now()
			l.tick(t)
			if took := time.Since(begun); took > 200*time.Millisecond {
				t.Errorf("a tick took %v", took)
			}
			n := 0
			for i := range list {
				if done(l.figures(fmt.Sprint(i))) {
					n++
				}
			}
			if n == len(list) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d are %s", n, len(list), what)
			}
		}
	}
	patiently("asked once", func(f figures) bool { return f.told })
	patiently("missed", func(f figures) bool { return strings.HasPrefix(f.lost, "missed ") })
	if most.Load() != maxScrapes || under.Load() != maxScrapes {
		t.Errorf("%d at once, and now %d; want %d", most.Load(), under.Load(), maxScrapes)
	}
	begun := time.Now()
	if err := l.Close(); err != nil || time.Since(begun) > time.Second {
		t.Errorf("the end took %v, %v", time.Since(begun), err)
	}
}

// TestTicksDoNotAllocate: what is not scraped costs nothing.
func TestTicksDoNotAllocate(t *testing.T) {
	s := &shop{}
	server := httptest.NewServer(s)
	defer server.Close()
	l := newLab(t, ratio(t, server.URL, good, total))
	s.serve("200", 1)
	l.scrape(t)
	l.scrape(t)
	if n := testing.AllocsPerRun(100, func() { _ = l.Collect(context.Background(), l.now) }); n != 0 {
		t.Errorf("a tick allocates %v times", n)
	}
}

// TestPanicIsAFailure: nothing that a server sends may end slid.
func TestPanicIsAFailure(t *testing.T) {
	l := newLab(t, ratio(t, "http://127.0.0.1:1", good, total))
	l.targets[0].url = nil
	l.scrape(t)
	l.want(t, 0, 0, "protocol 1", 0)
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("a_total{code=\"200\"} 1\n# x\nb 2\n"), false)
	f.Add([]byte("a_bucket{le=\"0.3\"} 1\na_count 5\nprocess_start_time_seconds 1e9\n"), false)
	f.Add([]byte("\x0a\x0a\x01a\x18\x04"), true)
	f.Fuzz(func(t *testing.T, data []byte, proto bool) {
		a := &answer{wanted: wanted{"a_total": nil, "a_bucket": {0.3, 0.5}, "a_count": nil, startMetric: nil}}
		read := a.readText
		if proto {
			read = a.readProto
		}
		if read(strings.NewReader(string(data))) != nil {
			return
		}
		for _, s := range a.samples {
			if !a.wanted.has(s.metric) {
				t.Errorf("%+v is not wanted", s)
			}
		}
		c := newTally(slo.Scrape{
			Good:  slo.Selector{Metric: "a_bucket", Matchers: []slo.Matcher{{Label: "le", Op: slo.Equal, Value: "0.3"}}},
			Total: slo.Selector{Metric: "a_count"},
		})
		for n := range 3 {
			c.take(a, time.Unix(int64(n), 0))
		}
		if good, bad := c.events(); good+bad != 0 {
			t.Errorf("%d good, %d bad of an answer that is always the same", good, bad)
		}
	})
}

// BenchmarkScrape is one scrape of 1,000 lines of which 10 are wanted, both ends on this host.
func BenchmarkScrape(b *testing.B) {
	s := &shop{}
	var text strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&text, "node_something_total{device=\"sd%d\",mode=\"idle\",cpu=\"%d\"} 1.2345e+06\n", n, n)
	}
	s.extra = text.String()
	for n := range 10 {
		s.serve(fmt.Sprint(200+n), 1000)
	}
	server := httptest.NewServer(s)
	defer server.Close()
	l := newLab(b, ratio(b, server.URL, good, total))
	b.ReportAllocs()
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		l.targets[0].attempt(b.Context(), time.Now())
	}
	if l.trouble() != "" {
		b.Fatal(l.trouble())
	}
}

// BenchmarkParse is the same without the network.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&text, "node_something_total{device=\"sd%d\",mode=\"idle\",cpu=\"%d\"} 1.2345e+06\n", n, n)
		if n%100 == 0 {
			fmt.Fprintf(&text, "http_requests_total{code=\"%d\"} 17\n", 200+n)
		}
	}
	c := newTally(slo.Scrape{Good: selector(b, good), Total: selector(b, total)})
	b.ReportAllocs()
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		a := &answer{wanted: wanted{"http_requests_total": nil}}
		if err := a.readText(strings.NewReader(text.String())); err != nil {
			b.Fatal(err)
		}
		if _, err := c.take(a, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTick copies what one indicator's scrapes added up to.
func BenchmarkTick(b *testing.B) {
	s := &shop{}
	server := httptest.NewServer(s)
	defer server.Close()
	l := newLab(b, ratio(b, server.URL, good, total))
	s.serve("200", 1)
	l.scrape(b)
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Collect(b.Context(), l.now)
	}
}

// TestReasonsHaveNames: every class has a name of its own.
func TestReasonsHaveNames(t *testing.T) {
	names := Reasons()
	slices.Sort(names)
	if len(slices.Compact(names)) != int(reasons) {
		t.Errorf("%v", names)
	}
}

// TestGuideKnowsTheLimits: docs/slo.md gives the limits as they are.
func TestGuideKnowsTheLimits(t *testing.T) {
	data, err := os.ReadFile("../../docs/slo.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(data)), " ") // it breaks its lines where it likes
	for _, want := range []string{
		fmt.Sprintf("more than %d MiB, than %d MiB of wanted lines, or than %d,%03d series of a selector", maxBody>>20, maxKept>>20, maxSeries/1000, maxSeries%1000),
		fmt.Sprintf("the answer took longer than the interval, or %.0f s", maxTimeout.Seconds()),
		fmt.Sprintf("not count both at one moment: %d, and %g %% of the total", aheadFew, 100*aheadShare),
		map[int]string{8: "or eight others"}[maxScrapes],
	} {
		if want == "" || !strings.Contains(page, want) {
			t.Errorf("the guide does not say %q", want)
		}
	}
}
