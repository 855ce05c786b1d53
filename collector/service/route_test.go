package service

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/bpf"
)

// perRoute is what was counted by "route method status": responses, and those with a duration.
type perRoute map[string]int64

func routesOf(tb testing.TB, service string, routes ...string) *Objectives {
	tb.Helper()
	o := &Objectives{}
	if what, remedy := o.AddRoutes(service, routes); what != "" {
		tb.Fatal(what, remedy)
	}
	return o
}

// route finds the longest of some routes that a path begins with.
func route(path string, routes []string) string {
	best := otherRoute
	for _, r := range routes {
		if strings.HasPrefix(path, r) && (best == otherRoute || len(r) > len(best)) {
			best = r
		}
	}
	return best
}

// byRoute counts a server's own log by routes.
func byRoute(log []request, routes []string) perRoute {
	n := perRoute{}
	for _, r := range log {
		n[fmt.Sprintf("%s %s %d", route(r.path, routes), r.method, r.status)]++
	}
	return n
}

// routes returns what slid counted on a port. Series without a route count under the class of their status.
func (r *rig) routes(port int) (responses, durations perRoute) {
	responses, durations = perRoute{}, perRoute{}
	count := func(into perRoute, p metricdata.DataPoint[int64]) {
		at, _ := p.Attributes.Value(portKey)
		if at.AsInt64() != int64(port) || p.Value == 0 {
			return
		}
		route, _ := p.Attributes.Value(routeKey)
		method, _ := p.Attributes.Value(methodKey)
		status, known := p.Attributes.Value(statusKey)
		what := fmt.Sprintf("%s %s %d", route.AsString(), method.AsString(), status.AsInt64())
		if class, ok := p.Attributes.Value(classKey); ok && !known {
			what = class.AsString()
		} else if route.AsString() == "" {
			what = fmt.Sprintf("%dxx", status.AsInt64()/100)
		}
		into[what] += p.Value
	}
	for _, sum := range points[metricdata.Sum[int64]](r, "http.server.response.count") {
		for _, p := range sum.DataPoints {
			count(responses, p)
		}
	}
	for _, h := range points[metricdata.ExponentialHistogram[float64]](r, "http.server.request.duration") {
		for _, p := range h.DataPoints {
			count(durations, metricdata.DataPoint[int64]{Attributes: p.Attributes, Value: int64(p.Count)})
		}
	}
	return responses, durations
}

// checkRoutes collects until the counts are as wanted.
func (r *rig) checkRoutes(t *testing.T, port int, want perRoute) {
	t.Helper()
	var diff string
	for range 200 {
		r.collect()
		responses, durations := r.routes(port)
		if diff = cmp.Diff([]perRoute{want, want}, []perRoute{responses, durations}); diff == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("responses and durations (-want +got):\n%s", diff)
}

// TestRoutesEqualTheServersLog has a Go server's log by route, method and status, with objectives of other routes beside.
func TestRoutesEqualTheServersLog(t *testing.T) {
	s := startLogged(t)
	routes := []string{"/", "/pay/", "/pay/card/", "/cart"}
	for name, list := range map[string][]string{"all": routes, "few": {"/pay/", "/cart"}, "one": {"/pay/card/200/1"}} {
		t.Run(name, func(t *testing.T) {
			before := len(s.entries())
			o := objectivesOf(t, standardIndicators(t)...)
			if what, _ := o.AddRoutes("tested", list); what != "" {
				t.Fatal(what)
			}
			r := newRigWith(t, cgroupMount(t), o, Override{Name: "tested", Command: ownCommand(t)})
			drive(t, s)
			s.raw(t, fmt.Sprintf("GET http://shop.example:%d/pay/card/200/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", s.port))
			s.raw(t, "GET /pay/503/1?a ", "HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			want := byRoute(s.entries()[before:], list)
			r.checkRoutes(t, s.port, want)
			t.Logf("the server and slid agree on %d series, %v", len(want), want)
			for _, i := range standardIndicators(t) {
				r.check(t, i.Name, judge(i, s.entries()[before:]))
			}
		})
	}
}

// drive sends requests of all kinds over connections of all kinds.
func drive(t *testing.T, s *logged) {
	t.Helper()
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	keep := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, CheckRedirect: stay}
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: stay}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 7))
			pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
			for range 150 {
				path := pick("/pay/", "/pay/card/", "/pays/", "/cart/", "/carts/", "/", "/other/") + pick("200", "201", "302", "404", "500") + "/1"
				client := keep
				if rnd.IntN(4) == 0 {
					client = fresh
				}
				q, err := http.NewRequest(pick("GET", "GET", "POST", "HEAD"), fmt.Sprintf("http://127.0.0.1:%d%s", s.port, path), strings.NewReader(""))
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := client.Do(q)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	keep.CloseIdleConnections()
}

// TestRoutesEqualNginxLog counts nginx's files, errors and empty answers by route, under keep-alive and new connections.
func TestRoutesEqualNginxLog(t *testing.T) {
	n := startNginx(t, true)
	routes := []string{"/file", "/file-slow", "/mis"}
	r := newRigWith(t, cgroupMount(t), routesOf(t, "tested", routes...), Override{Name: "tested", Port: uint16(n.port)})
	for path, requests := range map[string]string{"": "3000", "missing": "1000", "broken": "1000", "file": "1000", "file-slow": "16"} {
		url := fmt.Sprintf("http://127.0.0.1:%d/%s", n.port, path)
		run(t, "ab", "-q", "-k", "-c8", "-n"+requests, url)
		run(t, "ab", "-q", "-c8", "-n16", url)
	}
	run(t, "wrk", "-t1", "-c32", "-d1s", fmt.Sprintf("http://127.0.0.1:%d/", n.port))
	want := byRoute(n.requests(t), routes)
	r.checkRoutes(t, n.port, want)
	t.Logf("nginx and slid agree on %v", want)
}

// TestRoutesOverALife follows counts by route through the life of a service: come without notice, restarted, gone.
func TestRoutesOverALife(t *testing.T) {
	o := routesOf(t, "tested", "/pay/")
	r := newRigWith(t, cgroupMount(t), o, Override{Name: "tested", Command: ownCommand(t)})
	s := startLogged(t)
	ask := func(path string) {
		s.raw(t, "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	}
	ask("/pay/200/0")
	want := perRoute{"2xx": 1}
	r.checkRoutes(t, s.port, want) // nobody knew yet whose request it was: it counts, without a route
	ask("/pay/200/0")
	ask("/cart/200/0")
	want["/pay/ GET 200"], want["_OTHER GET 200"] = 1, 1
	r.checkRoutes(t, s.port, want)
	r.retire(t, s.port)
	r.checkRoutes(t, s.port, want)
	ask("/pay/200/0") // in another slot, known at the next tick
	want["2xx"]++
	r.checkRoutes(t, s.port, want)
	ask("/pay/200/0")
	want["/pay/ GET 200"]++
	r.checkRoutes(t, s.port, want)
	for i := range r.traffic.probe.Cells() {
		if key, used := r.traffic.probe.CellKey(i); used && int(key.Slot&0xffff) != r.slotOf(s.port) {
			t.Errorf("cell %d is still in use by slot %d", i, key.Slot&0xffff)
		}
	}
}

// TestRoutesOverTheCells has more combinations than cells: what finds none counts without its route, and says so.
func TestRoutesOverTheCells(t *testing.T) {
	s := startLogged(t)
	r := newRigWith(t, cgroupMount(t), routesOf(t, "tested", "/a/"), Override{Name: "tested", Command: ownCommand(t)})
	cells := r.traffic.probe.Cells()
	requests := cells + 30
	for i := range requests {
		s.raw(t, fmt.Sprintf("GET /a/%d/0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200+i))
	}
	var with, without int64
	for range 200 {
		r.collect()
		with, without = 0, 0
		responses, _ := r.routes(s.port)
		for series, n := range responses {
			if strings.HasPrefix(series, "/a/ ") {
				with += n
			} else {
				without += n
			}
		}
		if with+without == int64(requests) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if with != int64(cells) || without != 30 || r.traffic.noCell.Value() != 30 {
		t.Errorf("%d with their route, %d without, %d said to be; want %d, 30, 30", with, without, r.traffic.noCell.Value(), cells)
	}
}

// TestRoutesOfAnotherService has a port where another service listens than was expected: its routes mean nothing.
func TestRoutesOfAnotherService(t *testing.T) {
	s := startLogged(t)
	r := newRigWith(t, cgroupMount(t), routesOf(t, "expected", "/pay/"),
		Override{Name: "actual", Command: ownCommand(t)}, Override{Name: "expected", Port: uint16(s.port)})
	e := bpf.HTTPEndpoint{Port: uint32(s.port)}
	if err := r.traffic.probe.Expect(e, bpf.HTTPFirstSet); err != nil {
		t.Fatal(err)
	}
	s.raw(t, "GET /pay/200/0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	r.checkRoutes(t, s.port, perRoute{"2xx": 1})
	s.raw(t, "GET /pay/200/0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	r.checkRoutes(t, s.port, perRoute{"2xx": 2})
}

func TestRoutesAllocateNothing(t *testing.T) {
	s := startLogged(t)
	r := newRigWith(t, cgroupMount(t), routesOf(t, "tested", "/pay/", "/cart/"), Override{Name: "tested", Command: ownCommand(t)})
	drive(t, s)
	r.collect()
	r.checkAllocatesNothing(t)
}

func TestTooManyRoutes(t *testing.T) {
	var many []string
	for i := range bpf.HTTPRoutes + 1 {
		many = append(many, fmt.Sprintf("/r%d/", i))
	}
	o := &Objectives{}
	what, remedy := o.AddRoutes("shop", many)
	if want := "shop has 64 routes with it: 63 are told apart at most"; what != want || remedy == "" {
		t.Errorf("%q, %q", what, remedy)
	}
	if !o.none() {
		t.Error("it was added all the same")
	}
	if what, _ := o.AddRoutes("shop", many[1:]); what != "" {
		t.Error(what)
	}
	if what, _ := o.Add(objectiveOf(indicator(t, "x", "/other/", "status < 500", ""))); what != "" {
		t.Error("another service's objective does not fit:", what)
	}
}

// TestCountedRoutesFollowTheModel compares the numbers of a set's routes with a search for the longest.
func TestCountedRoutesFollowTheModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	some := func() []string {
		set := map[string]bool{}
		for range rnd.IntN(8) {
			set["/"+strings.Repeat("a", rnd.IntN(3))+strings.Repeat("b", rnd.IntN(2))] = true
		}
		return slices.Sorted(maps.Keys(set))
	}
	for range 500 {
		counted := some()
		set := slices.Compact(slices.Sorted(slices.Values(slices.Concat(counted, some()))))
		p := &promises{routes: counted}
		numbers := counts(set, counted)
		if len(counted) == 0 {
			if numbers != nil {
				t.Fatal(numbers)
			}
			continue
		}
		for i, r := range set {
			if got := p.routeOf(int(numbers[i+1])); got != route(r, counted) {
				t.Fatalf("%q of %q counts as %q", r, counted, got)
			}
		}
	}
}
