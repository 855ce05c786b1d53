package bpf

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// longRoute has the most bytes that a route may have.
var longRoute = "/" + strings.Repeat("x", 63)

// anything is a step that every event meets.
func anything(rule, outcome int) HTTPStep {
	s := HTTPStep{
		Routes: math.MaxUint64, Most: math.MaxInt64, Methods: 1<<10 - 1, Rule: uint8(rule), Outcome: uint8(outcome), AllStatuses: 1,
	}
	for i := range s.Statuses {
		s.Statuses[i] = math.MaxUint64
	}
	return s
}

// step is a step that is made piece by piece.
type step HTTPStep

// below limits a step to statuses below a code.
func (s step) below(code int) step {
	for i := range 512 {
		if 100+i >= code {
			s.Statuses[i/64] &^= 1 << (i % 64)
		}
	}
	s.AllStatuses = 0
	return s
}

func (s step) within(d time.Duration) step { s.Most = uint64(d); return s }
func (s step) on(routes uint64) step       { s.Routes = routes; return s }

// last returns steps whose rules end where the next one has another.
func last(list ...step) []HTTPStep {
	var out []HTTPStep
	for i, s := range list {
		if i+1 == len(list) || list[i+1].Rule != s.Rule {
			s.Last = 1
		}
		out = append(out, HTTPStep(s))
	}
	return out
}

// newObjectives attaches a probe with one set of objectives.
func newObjectives(tb testing.TB, set HTTPSet) *HTTP {
	tb.Helper()
	return newHTTPWith(tb, &HTTPSets{Sets: []HTTPSet{set}})
}

// newObjectivesAtInterfaces does so at the loopback interface.
func newObjectivesAtInterfaces(tb testing.TB, set HTTPSet) *HTTP {
	tb.Helper()
	return atInterfaces(tb, &HTTPSets{Sets: []HTTPSet{set}})
}

// talkTo opens a connection to a service that has the first set.
func talkTo(tb testing.TB, h *HTTP) *talk {
	tb.Helper()
	c := connect(tb, "127.0.0.1")
	if err := h.Expect(HTTPEndpoint{Port: uint32(c.port)}, HTTPFirstSet); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = h.Expect(HTTPEndpoint{Port: uint32(c.port)}, HTTPUnbound) })
	return c
}

// eventsOf returns what was counted for the service on the port.
func eventsOf(tb testing.TB, h *HTTP, port int) (e HTTPEvents) {
	tb.Helper()
	if slot := slotOf(tb, h, port); slot != 0 {
		if err := h.Events(slot, &e); err != nil {
			tb.Fatal(err)
		}
	}
	return e
}

// outcomes writes counts as "rule 0: 2 good, 1 bad".
func outcomes(e HTTPEvents) []string {
	var list []string
	for rule, counts := range &e.Rules {
		for k, name := range []string{"good", "bad", "excluded", "unknown", "head", "untimed", "cut", "aborted"} {
			if counts[k] != 0 {
				list = append(list, fmt.Sprintf("%d: %d %s", rule, counts[k], name))
			}
		}
	}
	if e.Unbound != 0 {
		list = append(list, fmt.Sprintf("%d unbound", e.Unbound))
	}
	return list
}

func checkOutcomes(t *testing.T, h *HTTP, port int, want ...string) {
	t.Helper()
	var diff string
	for range 200 {
		if diff = cmp.Diff(want, outcomes(eventsOf(t, h, port))); diff == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("counted (-want +got):\n%s", diff)
}

// TestObjectivesOfConversations plays whole connections against three objectives: 0, status < 500 within 150 ms below
// /pay/; 1, status < 500 of everything but 404; 2, everything within 10 s.
func TestObjectivesOfConversations(t *testing.T) {
	const pay = 1 << 1
	excluded := step(anything(1, HTTPExcluded)).below(405)
	for i := range 404 - 100 { // 404 alone
		excluded.Statuses[i/64] &^= 1 << (i % 64)
	}
	set := HTTPSet{Routes: []string{"/pay/"}, Steps: last(
		step(anything(0, HTTPGood)).below(500).within(150*time.Millisecond).on(pay), step(anything(0, HTTPBad)).on(pay),
		excluded, step(anything(1, HTTPGood)).below(500), step(anything(1, HTTPBad)),
		step(anything(2, HTTPGood)).within(10*time.Second), step(anything(2, HTTPBad)),
	)}
	t.Run("cgroup", func(t *testing.T) { playObjectives(t, newObjectives(t, set)) })
	t.Run("tcx", func(t *testing.T) { playObjectives(t, newObjectivesAtInterfaces(t, set)) })
}

func playObjectives(t *testing.T, h *HTTP) {
	const getPay = "GET /pay/1 HTTP/1.1\r\nHost: test\r\n\r\n"
	wait := func() { time.Sleep(200 * time.Millisecond) }
	for name, test := range map[string]struct {
		play func(*talk)
		want []string
	}{
		"good":                             {func(c *talk) { c.request(getPay); c.answer(ok) }, []string{"0: 1 good", "1: 1 good", "2: 1 good"}},
		"bad status":                       {func(c *talk) { c.request(getPay); c.answer("HTTP/1.1 503 X\r\n\r\n") }, []string{"0: 1 bad", "1: 1 bad", "2: 1 good"}},
		"late":                             {func(c *talk) { c.request(getPay); wait(); c.answer(ok) }, []string{"0: 1 bad", "1: 1 good", "2: 1 good"}},
		"late at its end":                  {func(c *talk) { c.request(getPay); c.answer("HTTP/1.1 200 X\r\n\r\n"); wait(); c.answer("x") }, []string{"0: 1 bad", "1: 1 good", "2: 1 good"}},
		"excluded":                         {func(c *talk) { c.request(getPay); c.answer("HTTP/1.1 404 X\r\n\r\n") }, []string{"0: 1 good", "1: 1 excluded", "2: 1 good"}},
		"another route":                    {func(c *talk) { c.request(get); c.answer(ok) }, []string{"1: 1 good", "2: 1 good"}},
		"an upgrade":                       {func(c *talk) { c.request(getPay); c.answer("HTTP/1.1 101 X\r\n\r\n") }, []string{"0: 1 good", "1: 1 good", "2: 1 good"}},
		"keep-alive":                       {func(c *talk) { c.request(getPay); c.answer(ok); c.request(get); c.answer(ok) }, []string{"0: 1 good", "1: 2 good", "2: 2 good"}},
		"split before the end of the path": {func(c *talk) { c.request("GET /pay/1234567890"); c.request("1 HTTP/1.1\r\n\r\n"); c.answer(ok) }, []string{"0: 1 head", "1: 1 good", "2: 1 good"}},
		"split, and the status is bad": {func(c *talk) {
			c.request("GET /pa")
			c.request("y/ HTTP/1.1\r\n\r\n")
			c.answer("HTTP/1.1 500 X\r\n\r\n")
		}, []string{"0: 1 head", "1: 1 bad", "2: 1 good"}},
		"split behind the path":            {func(c *talk) { c.request("GET /pay/1 "); c.request("HTTP/1.1\r\n\r\n"); c.answer(ok) }, []string{"0: 1 good", "1: 1 good", "2: 1 good"}},
		"aborted soon":                     {func(c *talk) { c.request(getPay) }, []string{"0: 1 aborted", "1: 1 aborted", "2: 1 aborted"}},
		"aborted too late to be good":      {func(c *talk) { c.request(getPay); wait() }, []string{"0: 1 bad", "1: 1 aborted", "2: 1 aborted"}},
		"aborted on another route":         {func(c *talk) { c.request(get); wait() }, []string{"1: 1 aborted", "2: 1 aborted"}},
		"pipelined":                        {func(c *talk) { c.request(getPay + getPay); c.answer(ok); c.answer(ok) }, []string{"0: 1 good", "0: 1 unknown", "1: 1 good", "1: 1 unknown", "2: 1 good", "2: 1 unknown"}},
		"timeout of an unfinished request": {func(c *talk) { c.request("GET"); c.answer("HTTP/1.1 408 X\r\n\r\n") }, []string{"0: 1 head", "1: 1 good", "2: 1 good"}},
		"100-continue": {func(c *talk) {
			c.request("POST /pay/ HTTP/1.1\r\n\r\n")
			c.answer("HTTP/1.1 100 Continue\r\n\r\n")
			c.request("body")
			c.answer(ok)
		}, []string{"0: 1 good", "1: 1 good", "2: 1 good"}},
		"no HTTP": {func(c *talk) { c.request("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"); c.answer("\x16\x03") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := talkTo(t, h)
			test.play(c)
			c.close()
			checkOutcomes(t, h, c.port, test.want...)
			forget(t, h, c.port)
		})
	}
}

// TestObjectivesOfDeferredAccepts has a request that only the listening socket saw: it is known as any other is.
func TestObjectivesOfDeferredAccepts(t *testing.T) {
	h := newObjectives(t, HTTPSet{Routes: []string{"/path"}, Steps: last(
		step(anything(0, HTTPGood)).below(500), step(anything(0, HTTPBad)),
		step(anything(1, HTTPGood)).within(time.Minute), step(anything(1, HTTPBad)),
		step(anything(2, HTTPGood)).on(1<<1),
		step(anything(3, HTTPGood)).below(200).within(time.Minute), step(anything(3, HTTPBad)),
	)})
	port, ask := deferredServer(t)
	if err := h.Expect(HTTPEndpoint{Port: uint32(port)}, HTTPFirstSet); err != nil {
		t.Fatal(err)
	}
	ask(get)
	ask(get)
	ask("")
	checkOutcomes(t, h, port, "0: 2 good", "1: 2 good", "2: 2 good", "3: 2 bad")
}

// TestObjectivesOfQuietResponses has the iterator close a response that then goes on: what was counted stays, and that it
// may be wrong is counted for those objectives for which it may.
func TestObjectivesOfQuietResponses(t *testing.T) {
	h := newObjectives(t, HTTPSet{Steps: last(
		step(anything(0, HTTPGood)).within(time.Minute), step(anything(0, HTTPBad)),
		step(anything(1, HTTPGood)).below(500), step(anything(1, HTTPBad)),
	)})
	c := talkTo(t, h)
	c.request(get)
	c.answer(ok)
	checkOutcomes(t, h, c.port)
	time.Sleep(1100 * time.Millisecond)
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	checkOutcomes(t, h, c.port, "0: 1 good", "1: 1 good")
	c.answer("it did go on")
	checkOutcomes(t, h, c.port, "0: 1 good", "0: 1 cut", "1: 1 good")
	c.request(get)
	c.answer(ok)
	c.close()
	checkOutcomes(t, h, c.port, "0: 2 good", "0: 1 cut", "1: 2 good")
}

// TestObjectivesOfSlots binds a slot after its first events, and retires it.
func TestObjectivesOfSlots(t *testing.T) {
	h := newObjectives(t, HTTPSet{Steps: last(step(anything(0, HTTPGood)))})
	c := connect(t, "127.0.0.1")
	for range 3 {
		c.request(get)
		c.answer(ok)
	}
	checkOutcomes(t, h, c.port, "2 unbound") // the third may go on yet
	slot := slotOf(t, h, c.port)
	if err := h.Bind(slot, HTTPFirstSet); err != nil {
		t.Fatal(err)
	}
	if set, err := h.Bound(slot); set != HTTPFirstSet || err != nil {
		t.Errorf("bound to %d, %v", set, err)
	}
	c.request(get)
	c.answer(ok)
	c.close()
	checkOutcomes(t, h, c.port, "0: 2 good", "2 unbound")
	if err := h.Retire(slot); err != nil {
		t.Fatal(err)
	}
	var e HTTPEvents
	if err := h.Events(slot, &e); err != nil || outcomes(e) != nil {
		t.Errorf("a retired slot still has %v, %v", outcomes(e), err)
	}
}

// perRoute has an objective for each route, 0 being all other paths, so that it shows which one a request had.
func perRoute(routes ...string) HTTPSet {
	set := HTTPSet{Routes: routes}
	for i := range len(routes) + 1 {
		set.Steps = append(set.Steps, last(step(anything(i, HTTPGood)).on(1<<i))...)
	}
	return set
}

// routeCounted plays one request and returns its route, or -1 if it could not be told.
func routeCounted(t *testing.T, h *HTTP, c *talk, segments ...string) int {
	t.Helper()
	before := eventsOf(t, h, c.port)
	for _, s := range segments {
		c.request(s)
	}
	c.answer("HTTP/1.1 200 X\r\n\r\n")
	c.request(get) // ends the one before
	c.answer("HTTP/1.1 200 X\r\n\r\n")
	c.request("HEAD /none HTTP/1.1\r\n\r\n") // and this one
	c.answer("HTTP/1.1 200 X\r\n\r\n")
	after := eventsOf(t, h, c.port)
	found, others := -2, uint64(0)
	for rule := range after.Rules {
		good, head := after.Rules[rule][HTTPGood]-before.Rules[rule][HTTPGood], after.Rules[rule][HTTPHead]-before.Rules[rule][HTTPHead]
		switch {
		case rule == 0:
			others = good
		case good == 1 && found == -2:
			found = rule
		case head == 1 && found < 0:
			found = -1
		case good+head != 0:
			t.Fatalf("%q: counted %v", segments, outcomes(after))
		}
	}
	if found == -2 && others >= 2 {
		return 0
	}
	return found
}

func TestRoutesOfHeads(t *testing.T) {
	h := newObjectives(t, perRoute("/pay/", "/pay/card", longRoute, "/%C3%BC"))
	c := talkTo(t, h)
	c.request(get)
	c.answer(ok)
	const end = " HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, tt := range []struct {
		head string
		want int
	}{
		{"GET /pay/" + end, 1},
		{"GET /pay/x" + end, 1},
		{"GET /pay" + end, 0},
		{"GET /pay?/pay/" + end, 0},
		{"GET /pay/?a=/pay/card" + end, 1},
		{"GET /pay/car" + end, 1},
		{"GET /pay/card" + end, 2},
		{"GET /pay/cards/7" + end, 2},
		{"POST /pay/card" + end, 2},
		{"DELETE /pay/card/1" + end, 2},
		{"SUBSCRIBE-LOTS /pay/" + end, 1},
		{"SUBSCRIBE-A-LOT /pay/" + end, -1}, // the target is beyond the bytes that tell a request
		{"GET /PAY/" + end, 0},
		{"GET //pay/" + end, 0},
		{"GET /%70ay/" + end, 0},
		{"GET /%C3%BC/x" + end, 4},
		{"GET /%c3%bc/x" + end, 0},
		{"GET " + longRoute + end, 3},
		{"GET " + longRoute + "y" + end, 3},
		{"GET " + longRoute[:63] + end, 0},
		{"GET " + longRoute[:63] + "?" + end, 0},
		{"GET /" + strings.Repeat("y", 5000) + end, 0},
		{"GET /pay/" + strings.Repeat("y", 5000) + end, 1},
		{"GET http://host/pay/" + end, 1},
		{"GET HTTPS://host:8080/pay/card" + end, 2},
		{"GET http://[::1]:80/pay/" + end, 1},
		{"GET http://host" + end, 0},
		{"GET http://host?/pay/" + end, 0},
		{"GET http://pay//pay/" + end, 0},
		{"GET http://" + strings.Repeat("h", 140) + "/pay/" + end, 1},
		{"GET http://" + strings.Repeat("h", 200) + "/pay/" + end, -1},
		{"GET http:/pay/" + end, -1},
		{"GET host/pay/" + end, -1},
		{"OPTIONS *" + end, 0},
		{"GET /pay/\r\n", 1},
		{"GET /\r\n", 0},
		{"GET /pay/\x00\xff\x80" + end, 1},
		{"GET /pa\x00y/" + end, 0},
	} {
		if got := routeCounted(t, h, c, tt.head); got != tt.want {
			t.Errorf("%.60q: route %d, want %d", tt.head, got, tt.want)
		}
	}
	for _, tt := range []struct {
		segments []string
		want     int
	}{
		{[]string{"GET /pay/card", " HTTP/1.1\r\n\r\n"}, -1}, // may be longer
		{[]string{"GET /pay/card?", "a HTTP/1.1\r\n\r\n"}, 2},
		{[]string{"G", "ET /pay/card?a HTTP/1.1\r\n\r\n"}, -1},
		{[]string{"GET ", "/pay/card?a HTTP/1.1\r\n\r\n"}, -1},
		{[]string{"GET http://host", "/pay/card HTTP/1.1\r\n\r\n"}, -1},
		{[]string{"GET " + longRoute, " HTTP/1.1\r\n\r\n"}, 3},
	} {
		if got := routeCounted(t, h, c, tt.segments...); got != tt.want {
			t.Errorf("%.60q: route %d, want %d", tt.segments, got, tt.want)
		}
	}
}

func TestRootIsARoute(t *testing.T) {
	h := newObjectives(t, perRoute("/"))
	c := talkTo(t, h)
	for _, target := range []string{"/", "/a", "http://a/x", "http://a", "//", "*"} {
		c.request("OPTIONS " + target + " HTTP/1.1\r\n\r\n")
		c.answer(ok)
	}
	c.close()
	checkOutcomes(t, h, c.port, "0: 1 good", "1: 5 good")
}

func TestMethodsOfHeads(t *testing.T) {
	set := HTTPSet{}
	for i := range 10 {
		s := step(anything(i, HTTPGood))
		s.Methods = 1 << i
		set.Steps = append(set.Steps, last(s)...)
	}
	h := newObjectives(t, set)
	other := 9
	for method, want := range map[string]int{
		"GET": 0, "HEAD": 1, "POST": 2, "PUT": 3, "DELETE": 4, "OPTIONS": 6, "TRACE": 7, "PATCH": 8,
		"PROPFIND": other, "GETX": other, "PUTS": other, "OPTIONSX": other, "HEA": other, "M-SEARCH": other,
	} {
		c := talkTo(t, h)
		c.request(method + " / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.answer(ok)
		c.close()
		checkOutcomes(t, h, c.port, fmt.Sprintf("%d: 1 good", want))
		forget(t, h, c.port)
	}
	c := talkTo(t, h)
	c.request("CONNECT a:80 HTTP/1.1\r\n\r\n")
	c.answer(ok)
	checkOutcomes(t, h, c.port, "5: 1 good")
}

// TestRoutesFollowTheModel sends random targets and compares their routes with the longest start that a model finds.
func TestRoutesFollowTheModel(t *testing.T) {
	routes := []string{"/a", "/a/", "/a/b", "/a/b/" + strings.Repeat("c", 59), "/ab", "/b%2F", "/a;b", "/.."}
	h := newObjectives(t, perRoute(routes...))
	c := talkTo(t, h)
	c.request(get)
	c.answer(ok)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	parts := []string{"/", "a", "b", "c", "/a", "/a/b", "/a/b/", strings.Repeat("c", 59), "?", "%2F", ";", ".", "\x80", "#", "//"}
	seen := map[int]int{}
	for range 1500 {
		target := "/"
		if r.IntN(2) == 0 {
			target = routes[r.IntN(len(routes))]
		}
		for range r.IntN(6) {
			target += parts[r.IntN(len(parts))]
		}
		path, _, _ := strings.Cut(target, "?")
		want := 0
		for i, route := range routes {
			if strings.HasPrefix(path, route) && (want == 0 || len(route) > len(routes[want-1])) {
				want = i + 1
			}
		}
		if r.IntN(4) == 0 {
			target = "http://host" + target
		}
		method := []string{"GET", "POST", "OPTIONS", "X-Y_Z"}[r.IntN(3)]
		if got := routeCounted(t, h, c, method+" "+target+" HTTP/1.1\r\nHost: a\r\n\r\n"); got != want {
			t.Fatalf("seed %d: %q: route %d, want %d", seed, target, got, want)
		}
		seen[want]++
	}
	if len(seen) < len(routes) {
		t.Errorf("only these routes occurred: %v", seen)
	}
}
