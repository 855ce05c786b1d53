package service

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/metric"
)

// families are the declared metrics of services.
type families struct {
	responses   metric.IntFamily
	duration    metric.HistogramFamily
	firstByte   metric.HistogramFamily
	aborted     metric.IntFamily
	connections metric.IntFamily
	coverage    metric.FloatFamily
	events      metric.IntFamily
	excluded    metric.IntFamily
	eventTime   metric.HistogramFamily
	lost        metric.IntFamily
	untimed     metric.IntFamily
}

const (
	portKey     attribute.Key = "server.port"
	statusKey   attribute.Key = "http.response.status_code"
	classKey    attribute.Key = "http.response.status_class"
	protocolKey attribute.Key = "network.protocol.name"
	sourceKey   attribute.Key = "sli.source"
	reasonKey   attribute.Key = "loss.reason"
)

func declare(g *metric.Group) families {
	const source = "cgroup_skb on the cgroup2 root (bpf/http.bpf.c)"
	f := families{
		responses: g.Int(metric.Desc{
			Name: "http.server.response.count", Unit: "{response}", Kind: metric.Counter, Source: source,
			Description: "Final HTTP/1.x responses that the server sent, by status; of services that are counted by route, also by route and method.",
			Attributes:  []attribute.Key{portKey, statusKey, routeKey, methodKey},
		}),
		duration: g.Histogram(metric.Desc{
			Name: "http.server.request.duration", Unit: "s", Source: source,
			Description: "Time from the first byte of the request reaching the host to the last new byte of the response leaving the server.",
			Attributes:  []attribute.Key{portKey, classKey, statusKey, routeKey, methodKey},
		}),
		firstByte: g.Histogram(metric.Desc{
			Name: "http.server.time_to_first_byte", Unit: "s", Source: source,
			Description: "Time from the first byte of the request reaching the host to the first byte of the final response leaving the server.",
			Attributes:  []attribute.Key{portKey},
		}),
		aborted: g.Int(metric.Desc{
			Name: "http.server.request.aborted", Unit: "{request}", Kind: metric.Counter, Source: source,
			Description: "Requests whose connection ended before a response began.",
			Attributes:  []attribute.Key{portKey},
		}),
		connections: g.Int(metric.Desc{
			Name: "service.connection.count", Unit: "{connection}", Kind: metric.Counter, Source: source,
			Description: "Connections to the server that carried data: HTTP/1.x ones, and those of protocols that are not understood (TLS, HTTP/2, others).",
			Attributes:  []attribute.Key{portKey, protocolKey},
		}),
		coverage: g.Float(metric.Desc{
			Name: "sli.coverage", Unit: "1", Kind: metric.Gauge, Source: source,
			Description: "Share of the requests of the last interval that was understood: of a port, or of those that an objective's indicator is about.",
			Attributes:  []attribute.Key{portKey, sliNameKey},
		}),
		lost: g.Int(metric.Desc{
			Name: "sli.events.lost", Unit: "{event}", Kind: metric.Counter, Source: source,
			Description: "Responses and ends of connections that could not be attributed to a request; of an indicator, events of which it is not known whether they were good.",
			Attributes:  []attribute.Key{portKey, sliNameKey, sourceKey, reasonKey},
		}),
		untimed: g.Int(metric.Desc{
			Name: "sli.durations.lost", Unit: "{event}", Kind: metric.Counter, Source: source,
			Description: "Responses that were counted without a true duration: their request was not seen (untimed), or they went on after a second of silence (cut).",
			Attributes:  []attribute.Key{portKey, sourceKey, reasonKey},
		}),
	}
	f.declareEvents(g, source)
	return f
}

// declareEvents declares what is counted for objectives.
func (f *families) declareEvents(g *metric.Group, source string) {
	f.events = g.Int(metric.Desc{
		Name: "sli.events", Unit: "{event}", Kind: metric.Counter, Source: source,
		Description: "Requests that an objective's indicator is about, by whether they were good, at exactly its conditions.",
		Attributes:  []attribute.Key{sliNameKey, sourceKey, outcomeKey},
	})
	f.eventTime = g.Histogram(metric.Desc{
		Name: "sli.event.duration", Unit: "s", Source: source,
		Description: "Durations of the requests that an objective's indicator is about, as in http.server.request.duration: of those whose duration is known.",
		Attributes:  []attribute.Key{sliNameKey, outcomeKey},
	})
	f.excluded = g.Int(metric.Desc{
		Name: "sli.events.excluded", Unit: "{event}", Kind: metric.Counter, Source: source,
		Description: "Requests that an objective's indicator leaves out by its own words.",
		Attributes:  []attribute.Key{sliNameKey, exclusionKey},
	})
}

// An endpointKey tells endpoints apart on the wire.
type endpointKey struct {
	identity
	port uint16
}

// A served is one port of one service: its registers, and the kernel slots that feed them.
type served struct {
	families *families
	entity   *metric.Entity
	port     attribute.KeyValue
	slots    []int

	base   *bpf.HTTPService // what slots had counted that were given up since; nil if none
	total  bpf.HTTPService  // base and slots in sum, without what cells counted
	routes []*routed        // what cells counted
	seen   uint64           // understood and not understood requests of the previous sum
	known  uint64           // understood ones of these

	codes     [len(bpf.HTTPService{}.Codes)]*metric.Int // by status, made when it first occurs
	durations [len(bpf.HTTPService{}.Duration)]*metric.Hist
	firstByte *metric.Hist
	aborted   *metric.Int
	http      *metric.Int
	opaque    *metric.Int
	unknown   *metric.Int
	untimed   *metric.Int
	cut       *metric.Int
	coverage  *metric.Float
}

func newServed(f *families, g *metric.Group, res *resource.Resource, port uint16, start time.Time) *served {
	e := &served{families: f, entity: g.Entity(res, start), port: portKey.Int(int(port))}
	traffic := sourceKey.String("traffic")
	e.http = f.connections.With(e.entity, e.port, protocolKey.String("http"))
	e.opaque = f.connections.With(e.entity, e.port, protocolKey.String("opaque"))
	e.aborted = f.aborted.With(e.entity, e.port)
	e.unknown = f.lost.With(e.entity, e.port, traffic, reasonKey.String("unknown"))
	e.untimed = f.untimed.With(e.entity, e.port, traffic, reasonKey.String("untimed"))
	e.cut = f.untimed.With(e.entity, e.port, traffic, reasonKey.String("cut"))
	e.coverage = f.coverage.With(e.entity, e.port)
	e.firstByte = f.firstByte.With(e.entity, e.port)
	return e
}

// read sums up what the kernel counted for the endpoint.
func (e *served) read(probe *bpf.HTTP, scratch *bpf.HTTPService) error {
	e.total = bpf.HTTPService{}
	if e.base != nil {
		e.total = *e.base
	}
	for _, slot := range e.slots {
		if err := probe.Service(slot, scratch); err != nil {
			return err
		}
		addService(&e.total, scratch)
	}
	for _, r := range e.routes {
		r.sum = r.base
	}
	return nil
}

// store brings the sum into the registers. It allocates only when a status or class occurs for the first time.
func (e *served) store(now time.Time) {
	t := &e.total
	for i, n := range &t.Codes {
		if n != 0 && e.codes[i] == nil {
			e.codes[i] = e.families.responses.With(e.entity, e.port, statusKey.Int(bpf.HTTPFirstStatus+i))
		}
		if e.codes[i] != nil {
			e.codes[i].Observe(n, now)
		}
	}
	for i := range t.Duration {
		if e.durations[i] == nil && count(&t.Duration[i]) != 0 {
			e.durations[i] = e.families.duration.With(e.entity, e.port, classOf(100*(i+1)))
		}
		if e.durations[i] != nil {
			load(e.durations[i], &t.Duration[i])
		}
	}
	load(e.firstByte, &t.FirstByte)
	e.http.Observe(t.HttpConnections, now)
	e.opaque.Observe(t.OpaqueConnections, now)
	e.aborted.Observe(t.Aborted, now)
	e.unknown.Observe(t.Unknown, now)
	e.untimed.Observe(t.Untimed, now)
	e.cut.Observe(t.Cut, now)
	e.storeRoutes(now)
	e.cover()
}

// cover computes the coverage of the interval. Without requests it stays what it was.
func (e *served) cover() {
	known := requests(&e.total) + e.routedResponses()
	seen := known + e.total.Unknown
	if seen > e.seen {
		e.coverage.Set(float64(known-e.known) / float64(seen-e.seen))
	}
	e.seen, e.known = seen, known
}

// requests returns the requests that were understood, without those that cells counted.
func requests(s *bpf.HTTPService) uint64 {
	n := s.Aborted
	for _, c := range &s.Codes {
		n += c
	}
	return n
}

// drop takes a slot off the endpoint and keeps what it counted.
func (e *served) drop(slot int, last *bpf.HTTPService) {
	for i, s := range e.slots {
		if s == slot {
			e.slots = append(e.slots[:i], e.slots[i+1:]...)
			break
		}
	}
	if e.base == nil {
		e.base = &bpf.HTTPService{}
	}
	addService(e.base, last)
}

func addService(sum, s *bpf.HTTPService) {
	sum.HttpConnections += s.HttpConnections
	sum.OpaqueConnections += s.OpaqueConnections
	sum.Aborted += s.Aborted
	sum.Unknown += s.Unknown
	sum.Untimed += s.Untimed
	sum.Cut += s.Cut
	for i, n := range &s.Codes {
		sum.Codes[i] += n
	}
	addHist(&sum.FirstByte, &s.FirstByte)
	for i := range s.Duration {
		addHist(&sum.Duration[i], &s.Duration[i])
	}
}

func addHist(sum, h *bpf.HTTPHist) {
	sum.Zero += h.Zero
	sum.Overflow += h.Overflow
	sum.SumNs += h.SumNs
	for i, n := range &h.Buckets {
		sum.Buckets[i] += n
	}
}

func count(h *bpf.HTTPHist) uint64 {
	n := h.Zero
	for _, b := range &h.Buckets {
		n += b
	}
	return n
}

func load(dst *metric.Hist, h *bpf.HTTPHist) {
	dst.Load(h.Zero, h.Overflow, float64(h.SumNs)/1e9, func(i int) uint64 { return h.Buckets[i] })
}
