package service

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/testneed"
)

// indicator makes an indicator of the service "tested".
func indicator(tb testing.TB, name, route, good, exclude string) slo.Indicator {
	tb.Helper()
	parse := func(text string) slo.Condition {
		if text == "" {
			return slo.Condition{}
		}
		c, err := slo.ParseCondition(text)
		if err != nil {
			tb.Fatal(err)
		}
		return c
	}
	return slo.Indicator{
		Name: name, Select: slo.Selection{Service: "tested", Route: route, Methods: slo.AllMethods}, Good: parse(good), Exclude: parse(exclude),
	}
}

func objectiveOf(i slo.Indicator) slo.Objective {
	return slo.Objective{Name: i.Name, Service: i.Select.Service, Members: []slo.Member{{Indicator: i}}}
}

// objectivesOf makes objectives of indicators.
func objectivesOf(tb testing.TB, list ...slo.Indicator) *Objectives {
	tb.Helper()
	o := &Objectives{}
	for _, i := range list {
		if what, remedy := o.Add(objectiveOf(i)); what != "" {
			tb.Fatal(what, remedy)
		}
	}
	return o
}

// request is a line of a server's own log.
type request struct {
	status   int
	method   string
	path     string
	duration time.Duration
}

// meets judges a request by clauses. It knows nothing of what the kernel does.
func (r request) meets(c slo.Condition) bool {
	return slices.ContainsFunc(c.Clauses, func(c slo.Clause) bool {
		set, ok := slo.MethodsOf(r.method)
		if !ok {
			set, _ = slo.MethodsOf("_OTHER")
		}
		return c.Status.Has(r.status) && c.Methods&set != 0 && c.Routes.Has(r.path) && c.Above < r.duration && r.duration <= c.UpTo
	})
}

// judged is what was counted for an indicator, zeros left out.
type judged map[string]int64

// judge counts a log by an indicator.
func judge(i slo.Indicator, log []request) judged {
	j := judged{}
	for _, r := range log {
		switch {
		case !r.meets(i.Select.Condition()):
		case r.meets(i.Exclude):
			j["excluded"]++
		case r.meets(i.Good):
			j["good"]++
		default:
			j["bad"]++
		}
	}
	return j
}

// judged returns the series of an indicator; lost ones are called "lost reason". Those without a slot are left out: tests of
// other packages that run at the same time may take all slots.
func (r *rig) judged(name string) judged {
	j := judged{}
	for metric, prefix := range map[string]string{"sli.events": "", "sli.events.excluded": "", "sli.events.lost": "lost "} {
		for _, sum := range points[metricdata.Sum[int64]](r, metric) {
			for _, p := range sum.DataPoints {
				if v, _ := p.Attributes.Value(sliNameKey); v.AsString() != name || p.Value == 0 {
					continue
				}
				what := "excluded"
				if v, ok := p.Attributes.Value(outcomeKey); ok {
					what = v.AsString()
				} else if v, ok := p.Attributes.Value(reasonKey); ok {
					what = v.AsString()
				}
				if what != "no_slot" {
					j[prefix+what] += p.Value
				}
			}
		}
	}
	return j
}

// checkTimes checks that each good and each bad event has its duration, and that those are the server's.
func (r *rig) checkTimes(t *testing.T, name string, want judged) {
	t.Helper()
	for _, h := range points[metricdata.ExponentialHistogram[float64]](r, "sli.event.duration") {
		for _, p := range h.DataPoints {
			if v, _ := p.Attributes.Value(sliNameKey); v.AsString() != name {
				continue
			}
			outcome, _ := p.Attributes.Value(outcomeKey)
			if n := want[outcome.AsString()]; int64(p.Count) != n {
				t.Errorf("%s: %d durations of %d events that are %s", name, p.Count, n, outcome.AsString())
			}
		}
	}
}

// checkCoverage checks sli.coverage of an indicator, unless other tests took all slots.
func (r *rig) checkCoverage(t *testing.T, name string, want float64) {
	t.Helper()
	if r.traffic.noSlot.Value() > 0 {
		t.Log("other tests took all slots: coverage is not looked at")
		return
	}
	for _, g := range points[metricdata.Gauge[float64]](r, "sli.coverage") {
		for _, p := range g.DataPoints {
			if v, _ := p.Attributes.Value(sliNameKey); v.AsString() == name && p.Value != want {
				t.Errorf("%s: coverage %v, want %v", name, p.Value, want)
			}
		}
	}
}

// logged is a Go server that keeps a log of its own. A path says what to do: /anything/STATUS/MILLISECONDS; in chunks if
// it is chunks, and with a file if it is file.
type logged struct {
	*http.Server
	port int
	file string // what /file/... is answered with

	mu  sync.Mutex
	log []request
}

func startLogged(t *testing.T) *logged {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &logged{port: l.Addr().(*net.TCPAddr).Port, file: filepath.Join(t.TempDir(), "file")}
	if err := os.WriteFile(s.file, bytes.Repeat([]byte("0123456789"), 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Server = &http.Server{Handler: s}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (s *logged) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	began := time.Now()
	parts := strings.Split(q.URL.Path, "/")
	status, ms := 200, 0
	if len(parts) > 2 {
		status, _ = strconv.Atoi(parts[len(parts)-2])
		ms, _ = strconv.Atoi(parts[len(parts)-1])
	}
	_, _ = io.Copy(io.Discard, q.Body)
	time.Sleep(time.Duration(ms) * time.Millisecond)
	if strings.HasPrefix(q.URL.Path, "/file/") {
		http.ServeFile(w, q, s.file) // by sendfile
	} else {
		w.WriteHeader(status)
	}
	if q.Method != http.MethodHead && (q.Header.Get("X-Chunks") != "" || parts[1] == "chunks") {
		for range 5 {
			_, _ = io.WriteString(w, "some of it")
			_ = http.NewResponseController(w).Flush()
		}
	}
	_ = http.NewResponseController(w).Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, request{status, q.Method, q.URL.Path, time.Since(began)})
}

func (s *logged) entries() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// raw sends segments over a connection of its own and reads the answer.
func (s *logged) raw(tb testing.TB, segments ...string) {
	tb.Helper()
	c := s.dial(tb)
	defer c.Close()
	for i, data := range segments {
		if i > 0 {
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := io.WriteString(c, data); err != nil {
			tb.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		tb.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
}

func (s *logged) dial(tb testing.TB) *net.TCPConn {
	tb.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		tb.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// standardIndicators are conditions of every kind.
func standardIndicators(t *testing.T) []slo.Indicator {
	list := []slo.Indicator{
		indicator(t, "pay-fast", "/pay/", "status < 500 && duration <= 100ms", ""),
		indicator(t, "pay-but-health", "/pay/", "status < 500", `route == "/pay/health/"`),
		indicator(t, "all", "", "status < 500 && duration <= 100ms", "status == 404 || method == OPTIONS"),
		indicator(t, "card", "/pay/card/", "!(status in [429, 500, 503])", ""),
		indicator(t, "slow-too", "", `duration <= 10s && route != "/other/"`, ""),
	}
	posts := indicator(t, "posts", "", "status < 400", "")
	posts.Select.Methods, _ = slo.MethodsOf("POST", "PUT")
	return append(list, posts)
}

func cgroupMount(tb testing.TB) string {
	tb.Helper()
	mount, err := cgroup.Mount("/")
	if err != nil {
		tb.Skip(err)
	}
	return mount
}

// TestObjectivesEqualTheServersLog has a Go server judge its own log by the same indicators. Its delays are far from the
// threshold, so that everything must be equal.
func TestObjectivesEqualTheServersLog(t *testing.T) {
	s := startLogged(t)
	list := standardIndicators(t)
	r := newRigWith(t, cgroupMount(t), objectivesOf(t, list...), Override{Name: "tested", Command: ownCommand(t)})
	paths := []string{"/pay/", "/pay/card/", "/pay/health/", "/other/", "/"}
	codes := []string{"200", "200", "200", "201", "302", "404", "429", "500", "503"}
	keepAlive := &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 8},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: keepAlive.CheckRedirect}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 5))
			for range 150 {
				method := []string{"GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "PURGE"}[rnd.IntN(7)]
				path := paths[rnd.IntN(len(paths))] + codes[rnd.IntN(len(codes))] + "/" + []string{"0", "1", "3", "0", "1", "3", "200"}[rnd.IntN(7)]
				var body io.Reader
				if method == "POST" || method == "PUT" {
					body = strings.NewReader(strings.Repeat("GET /pay/ HTTP/1.1\r\n", rnd.IntN(2000)))
				}
				q, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s?q=/pay/", s.port, path), body)
				if err != nil {
					t.Error(err)
					return
				}
				if rnd.IntN(3) == 0 {
					q.Header.Set("X-Chunks", "yes")
				}
				client := keepAlive
				if rnd.IntN(4) == 0 {
					client = fresh
				}
				resp, err := client.Do(q)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	keepAlive.CloseIdleConnections()
	for range 20 {
		s.raw(t, fmt.Sprintf("GET http://shop.example:%d/pay/card/200/1 HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n", s.port))
		s.raw(t, "GET /pay/503/1?a ", "HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") // split behind the path
	}
	for _, i := range list {
		want := judge(i, s.entries())
		r.check(t, i.Name, want)
		r.checkTimes(t, i.Name, want)
		t.Logf("%s: the server and slid agree on %v", i.Name, want)
	}
	for _, i := range list {
		r.checkCoverage(t, i.Name, 1)
	}
}

// TestLostEventsOfObjectives sends what cannot be judged in full: it is lost for those objectives to which it matters.
func TestLostEventsOfObjectives(t *testing.T) {
	s := startLogged(t)
	list := standardIndicators(t)
	r := newRigWith(t, cgroupMount(t), objectivesOf(t, list...), Override{Name: "tested", Command: ownCommand(t)})
	const rest = " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for range 10 {
		s.raw(t, "GET /pay/200/1"+rest)
		s.raw(t, "GET /pay/ca", "rd/200/1"+rest)
	}
	abort := func(path string, after time.Duration) {
		c := s.dial(t)
		if _, err := io.WriteString(c, "GET "+path+rest); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		_ = c.SetLinger(0)
		c.Close()
	}
	for range 5 {
		abort("/pay/200/300", 20*time.Millisecond)
		abort("/pay/200/300", 150*time.Millisecond)
	}
	time.Sleep(400 * time.Millisecond)
	r.collect()
	for name, want := range map[string]judged{
		"pay-fast":       {"good": 10, "bad": 5, "lost head": 10, "lost aborted": 5},
		"pay-but-health": {"good": 10, "lost head": 10, "lost aborted": 10},
		"all":            {"good": 20, "lost aborted": 10}, // it may have become a 404, which is excluded
		"card":           {"lost head": 10},
		"slow-too":       {"good": 10, "lost head": 10, "lost aborted": 10},
		"posts":          {},
	} {
		if diff := cmp.Diff(want, r.judged(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	r.checkCoverage(t, "pay-fast", 0.5)
}

// TestObjectivesAtTheThreshold has delays around the threshold. The server's clock starts a little later and stops a
// little earlier or later than the kernel's, so that only those within 2 ms of the threshold may be judged otherwise.
func TestObjectivesAtTheThreshold(t *testing.T) {
	const threshold, slack = 30 * time.Millisecond, 2 * time.Millisecond
	s := startLogged(t)
	i := indicator(t, "at-threshold", "", "duration <= 30ms", "")
	r := newRigWith(t, cgroupMount(t), objectivesOf(t, i), Override{Name: "tested", Command: ownCommand(t)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for range 100 {
				resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/a/200/%d", s.port, rand.IntN(61)))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	time.Sleep(50 * time.Millisecond)
	r.collect()
	var near, good, total int64
	for _, q := range s.entries() {
		total++
		if q.duration <= threshold {
			good++
		}
		if q.duration > threshold-slack && q.duration < threshold+slack {
			near++
		}
	}
	got := r.judged(i.Name)
	if got["good"]+got["bad"] != total {
		t.Errorf("counted %v, the server %d", got, total)
	}
	// A busy machine may let a request wait for the handler, which the server does not see.
	if d := good - got["good"]; d > near+total/100 || -d > near {
		t.Errorf("counted %v; the server says %d good, %d of %d near the threshold", got, good, near, total)
	}
	t.Logf("good: slid %d, the server %d of %d; %d within %v of the threshold", got["good"], good, total, near, slack)
}

// TestObjectivesEqualNginxLog compares with nginx's access log.
func TestObjectivesEqualNginxLog(t *testing.T) {
	n := startNginx(t, true)
	override := Override{Name: "tested", Port: uint16(n.port)}
	list := []slo.Indicator{
		indicator(t, "files", "/file", "status < 500 && duration <= 400ms", ""),
		indicator(t, "slow-files", "/file-slow", "status < 500 && duration <= 400ms", ""),
		indicator(t, "missing", "/missing", "status < 400", ""),
		indicator(t, "all", "", "status < 500 && duration <= 400ms", "status == 404"),
	}
	r := newRigWith(t, cgroupMount(t), objectivesOf(t, list...), override)
	for path, requests := range map[string]string{"": "3000", "missing": "1000", "broken": "1000", "file": "1000", "file-slow": "16", "file?/missing": "500"} {
		url := fmt.Sprintf("http://127.0.0.1:%d/%s", n.port, path)
		run(t, "ab", "-q", "-k", "-c8", "-n"+requests, url)
	}
	run(t, "ab", "-q", "-c8", "-n1000", fmt.Sprintf("http://127.0.0.1:%d/missing", n.port))
	run(t, "ab", "-q", "-i", "-c8", "-n500", fmt.Sprintf("http://127.0.0.1:%d/file", n.port)) // HEAD
	run(t, "wrk", "-t1", "-c32", "-d2s", fmt.Sprintf("http://127.0.0.1:%d/", n.port))
	log := n.requests(t)
	r.collect()
	for _, i := range list {
		want := judge(i, log)
		if diff := cmp.Diff(want, r.judged(i.Name)); diff != "" {
			t.Errorf("%s (-nginx +slid):\n%s", i.Name, diff)
		}
		t.Logf("%s: nginx and slid agree on %v", i.Name, want)
	}
}

// requests reads nginx's access log once it stands still.
func (n nginx) requests(tb testing.TB) (list []request) {
	tb.Helper()
	n.logged(tb)
	data, err := os.ReadFile(n.log)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var r request
		var seconds float64
		if _, err := fmt.Sscan(string(line), &r.status, &r.method, &r.path, &seconds); err != nil {
			tb.Fatalf("line in the access log: %q: %v", line, err)
		}
		r.duration = time.Duration(seconds * 1e9)
		list = append(list, r)
	}
	return list
}

// TestObjectivesBeforeAndAfter follows an objective through the life of its service: not there yet, come without notice,
// restarted, gone.
func TestObjectivesBeforeAndAfter(t *testing.T) {
	i := indicator(t, "life", "", "status < 500", "")
	r := newRigWith(t, cgroupMount(t), objectivesOf(t, i), Override{Name: "tested", Command: ownCommand(t)})
	r.collect()
	zero := 0
	for _, sum := range points[metricdata.Sum[int64]](r, "sli.events") {
		for _, p := range sum.DataPoints {
			if p.Value != 0 || p.StartTime.IsZero() {
				t.Errorf("%+v", p)
			}
			zero++
		}
	}
	if zero != 2 || r.serviceWith("sli.events") != "tested" {
		t.Errorf("%d series of %q; want good and bad at zero", zero, r.serviceWith("sli.events"))
	}

	s := startLogged(t)
	send(t, s.port, 1, 10)
	time.Sleep(100 * time.Millisecond)
	r.check(t, "life", judged{"lost unidentified": 10})
	send(t, s.port, 1, 10)
	r.check(t, "life", judged{"good": 10, "lost unidentified": 10})

	// A minute later the endpoint is known, so that another slot is bound from its first event on.
	if err := r.traffic.prune(time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	r.retire(t, s.port)
	send(t, s.port, 1, 7)
	r.check(t, "life", judged{"good": 17, "lost unidentified": 10})

	// The service goes; its counts stay.
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first notes that there was traffic
		if err := r.traffic.prune(time.Now(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if r.slotOf(s.port) != 0 {
		t.Error("the service still has a slot")
	}
	r.check(t, "life", judged{"good": 17, "lost unidentified": 10})
}

// check collects until the counts of an indicator are as wanted: the end of a connection may still be on its way.
func (r *rig) check(t *testing.T, name string, want judged) {
	t.Helper()
	var diff string
	for range 200 {
		r.collect()
		if diff = cmp.Diff(want, r.judged(name)); diff == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s (-want +got):\n%s", name, diff)
}

// retire gives a slot up as prune does.
func (r *rig) retire(t *testing.T, port int) {
	t.Helper()
	if err := r.traffic.retire(r.slotOf(port)); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) slotOf(port int) int {
	for i := range r.traffic.slots {
		if int(r.traffic.slots[i].key.Port) == port {
			return i
		}
	}
	return 0
}

// serviceWith returns the service.name of the resource that has the metric.
func (r *rig) serviceWith(metric string) string {
	for _, res := range r.snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			if m.Name == metric {
				v, _ := res.Resource.Set().Value("service.name")
				return v.AsString()
			}
		}
	}
	return ""
}

// TestObjectivesOfAnotherService expects a service at a port where another one comes: what was counted by the wrong rules
// is void.
func TestObjectivesOfAnotherService(t *testing.T) {
	i := indicator(t, "mine", "", "status < 500", "")
	other := i
	other.Name, other.Select.Service = "other", "another"
	r := newRigWith(t, cgroupMount(t), objectivesOf(t, i, other), Override{Name: "tested", Command: ownCommand(t)})
	s := startLogged(t)
	key := bpf.HTTPEndpoint{Port: uint32(s.port)}
	if err := r.traffic.probe.Expect(key, r.traffic.objectives.number("another")); err != nil {
		t.Fatal(err)
	}
	send(t, s.port, 1, 10)
	time.Sleep(100 * time.Millisecond)
	r.collect()
	send(t, s.port, 1, 5)
	r.check(t, "mine", judged{"good": 5, "lost unidentified": 10})
	r.check(t, "other", judged{})
}

func TestObjectivesAllocateNothing(t *testing.T) {
	s := startLogged(t)
	r := newRigWith(t, cgroupMount(t), objectivesOf(t, standardIndicators(t)...), Override{Name: "tested", Command: ownCommand(t)})
	send(t, s.port, 1, 10)
	r.collect()
	r.checkAllocatesNothing(t)
}

func TestTooManyObjectives(t *testing.T) {
	o := &Objectives{}
	for n := range bpf.HTTPRules {
		if what, _ := o.Add(objectiveOf(indicator(t, fmt.Sprint("i", n), "", "status < 500", ""))); what != "" {
			t.Fatal(n, what)
		}
	}
	again := objectiveOf(indicator(t, "i3", "", "status < 500", ""))
	if what, _ := o.Add(again); what != "" {
		t.Error("an indicator that is counted already:", what)
	}
	what, remedy := o.Add(objectiveOf(indicator(t, "more", "", "status < 500", "")))
	if want := "is one too many for tested: 16 indicators of a service are counted at most"; what != want || remedy == "" {
		t.Errorf("%q, want %q", what, want)
	}
	for n := 1; ; n++ {
		i := indicator(t, fmt.Sprint("x", n), "", "status < 500", "")
		i.Select.Service = fmt.Sprint("s", n)
		if what, _ = o.Add(objectiveOf(i)); what != "" {
			break
		}
	}
	if want := "is one too many: 256 indicators of traffic are counted at most"; what != want || o.total != 256 {
		t.Errorf("%q after %d, want %q", what, o.total, want)
	}
	var routes []string
	for n := range 32 {
		routes = append(routes, fmt.Sprintf("%q", fmt.Sprintf("/%02d/", n)))
	}
	o = objectivesOf(t, indicator(t, "a", "", "status < 500 && route in ["+strings.Join(routes, ",")+"]", ""))
	for n := range routes {
		routes[n] = strings.Replace(routes[n], "/", "/x", 1)
	}
	what, _ = o.Add(objectiveOf(indicator(t, "b", "", "status < 500 && route in ["+strings.Join(routes, ",")+"]", "")))
	if want := "tested has 64 routes with it: 63 are told apart at most"; what != want {
		t.Errorf("%q, want %q", what, want)
	}
}

// TestCompiledConditionsFollowTheModel has the kernel judge requests by random conditions. A condition's duration is one
// that all requests or none take, so that the answer is certain.
func TestCompiledConditionsFollowTheModel(t *testing.T) {
	testneed.Root(t, "to load BPF programs")
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	s := startLogged(t)
	paths := []string{"/", "/a", "/a/", "/a/b", "/ab", "/b/"}
	one := func(list ...string) string { return list[rnd.IntN(len(list))] }
	atom := func() string {
		switch rnd.IntN(4) {
		case 0:
			return "status " + one("<", "<=", ">", ">=", "==", "!=") + " " + one("200", "404", "500", "503")
		case 1:
			return "method " + one("==", "!=") + " " + one("GET", "POST", "_OTHER")
		case 2:
			return "route " + one("==", "!=") + " " + strconv.Quote(paths[rnd.IntN(len(paths))])
		}
		return "duration <= " + one("1ns", "1h")
	}
	condition := func(n int) string {
		text := atom()
		for range rnd.IntN(n) {
			text = one("!(", "(") + text + ")" + one(" && ", " && ", " || ") + atom()
		}
		return text
	}
	for range 6 {
		var list []slo.Indicator
		for len(list) < 8 {
			good, err := slo.ParseCondition(condition(3))
			if err != nil {
				continue
			}
			i := slo.Indicator{Name: fmt.Sprint("i", len(list)), Good: good, Select: slo.Selection{Service: "tested", Methods: slo.AllMethods}}
			if rnd.IntN(2) == 0 {
				i.Select.Route = paths[rnd.IntN(len(paths))]
			}
			if rnd.IntN(2) == 0 {
				i.Select.Methods, _ = slo.MethodsOf("GET", "_OTHER")
			}
			if rnd.IntN(2) == 0 {
				i.Exclude, _ = slo.ParseCondition(condition(4))
			}
			if what, _ := (&Objectives{}).Add(objectiveOf(i)); what == "" && len(compile(append(slices.Clone(list), i), nil).Steps) <= bpf.HTTPSteps {
				list = append(list, i)
			}
		}
		r := newRigWith(t, cgroupMount(t), objectivesOf(t, list...), Override{Name: "tested", Command: ownCommand(t)})
		before := len(s.entries())
		client := &http.Client{Transport: &http.Transport{}}
		for range 150 {
			path := paths[rnd.IntN(len(paths))] + one("", "b", "/") + "/" + one("200", "200", "404", "500", "503", "599") + "/0"
			q, err := http.NewRequest(one("GET", "POST", "PUT", "PURGE"), fmt.Sprintf("http://127.0.0.1:%d", s.port), http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			q.URL.Path = path
			resp, err := client.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		client.CloseIdleConnections()
		time.Sleep(20 * time.Millisecond)
		r.collect()
		for _, i := range list {
			if diff := cmp.Diff(judge(i, s.entries()[before:]), r.judged(i.Name)); diff != "" {
				t.Errorf("seed %d: good %s, not %s, of %+v (-model +kernel):\n%s", seed, i.Good, i.Exclude, i.Select, diff)
			}
		}
	}
}

// TestUnknownRoutesAreNeverGuessed sends heads in pieces, so that the kernel does not know their routes. A model tries all
// routes that there may be: what differs among them must be lost, and nothing else counted than what is the same for all.
func TestUnknownRoutesAreNeverGuessed(t *testing.T) {
	s := startLogged(t)
	list := append(standardIndicators(t),
		indicator(t, "any-route-is-bad", "", `status < 500 && route in ["/a", "/b"]`, ""),
		indicator(t, "all-but", "", `route != "/pay/"`, `status == 503`),
		indicator(t, "nested", "/pay/", `status != 404 && route != "/pay/card/"`, `route == "/pay/card/health" && status < 300`),
	)
	r := newRigWith(t, cgroupMount(t), objectivesOf(t, list...), Override{Name: "tested", Command: ownCommand(t)})
	paths := []string{"", "/", "/a", "/b", "/pay/", "/pay/card/", "/pay/card/health", "/pay/health/", "/other/"}
	var sent []request
	for _, method := range []string{"GET", "POST", "OPTIONS", "PURGE"} {
		for _, status := range []int{200, 404, 429, 500, 503} {
			s.raw(t, method+" ", fmt.Sprintf("/pay/%d/0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", status))
			sent = append(sent, request{status: status, method: method, duration: time.Millisecond})
		}
	}
	for _, i := range list {
		want := judged{}
		for _, q := range sent {
			outcomes := map[string]bool{}
			for _, q.path = range paths {
				j := judge(i, []request{q})
				for outcome := range j {
					outcomes[outcome] = true
				}
				if len(j) == 0 {
					outcomes["none"] = true
				}
			}
			if len(outcomes) > 1 {
				want["lost head"]++
				continue
			}
			for outcome := range outcomes {
				if outcome != "none" {
					want[outcome]++
				}
			}
		}
		r.check(t, i.Name, want)
		t.Logf("%s: %v", i.Name, want)
	}
}
