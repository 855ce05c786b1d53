package host

import (
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
)

// The resources by which groups of processes are ranked.
const (
	topCPU = iota
	topMemory
	topIO
	tops
)

// processGroup is all processes of one program in one unit or container.
type processGroup struct {
	name  string
	owner cgroup.Owner

	processes int           // alive at the present walk
	rss       uint64        // pages
	gained    [flows]uint64 // since the previous walk
	score     [tops]uint64
	shown     [tops]*processSeries // nil while it is among the others
}

// processGroups has the groups that have processes or series.
type processGroups struct {
	list  []*processGroup
	byKey map[string]*processGroup
	most  int // groups since byKey was made; a map does not shrink
	key   []byte
}

// appendGroupKey appends what tells a group from the others.
func appendGroupKey[S string | []byte](b []byte, name S, owner cgroup.Owner) []byte {
	b = append(b, name...)
	b = append(b, 0)
	b = append(b, owner.Unit...)
	b = append(b, 0)
	return append(b, owner.Container...)
}

// find returns the group of a program, which is made if need be.
func (s *processGroups) find(name []byte, owner cgroup.Owner) *processGroup {
	s.key = appendGroupKey(s.key[:0], name, owner)
	if g, ok := s.byKey[string(s.key)]; ok {
		return g
	}
	if s.byKey == nil {
		s.byKey = map[string]*processGroup{}
	}
	g := &processGroup{name: string(name), owner: owner}
	s.byKey[string(s.key)] = g
	s.list = append(s.list, g)
	s.most = max(s.most, len(s.list))
	return g
}

// begin starts a walk.
func (s *processGroups) begin() {
	for _, g := range s.list {
		g.processes, g.rss, g.gained = 0, 0, [flows]uint64{}
	}
}

// sweep forgets groups that have neither processes nor series.
func (s *processGroups) sweep() {
	kept := s.list[:0]
	for _, g := range s.list {
		if g.processes > 0 || g.shown != [tops]*processSeries{} {
			kept = append(kept, g)
			continue
		}
		s.key = appendGroupKey(s.key[:0], g.name, g.owner)
		delete(s.byKey, string(s.key))
	}
	clear(s.list[len(kept):])
	s.list = shrink(kept)
	const small = 256
	if s.most > small && len(s.list) < s.most/3 {
		byKey := make(map[string]*processGroup, len(s.list))
		maps.Copy(byKey, s.byKey)
		s.byKey, s.most = byKey, len(s.list)
	}
}

// rate draws the scores of all groups: what they used of late, halved with every walk, and their memory. What was
// used before the first walk is forgotten at the second.
func (s *processGroups) rate(forget bool) {
	const unit = 1 << 8 // so that halving does not lose small numbers
	for _, g := range s.list {
		if forget {
			g.score = [tops]uint64{}
		}
		g.score[topCPU] = g.score[topCPU]/2 + (g.gained[flowUser]+g.gained[flowSystem])*unit
		g.score[topIO] = g.score[topIO]/2 + (g.gained[flowRead] + g.gained[flowWrite])
		g.score[topMemory] = g.rss
	}
}

const (
	// topSize is how many groups have series of their own for each resource: those that come first.
	topSize = 10
	// topSlots is how many have them at most, for who falls out of the first places keeps its series for a while.
	topSlots = 2 * topSize
	// topPatience is for how many walks, unless the place is needed: 5 minutes at 10 seconds.
	topPatience = 30
)

// otherPrograms is the process.executable.name of the series that stands for all groups without series of their own.
const otherPrograms = "other"

// processSeries has the series of one group for one resource, or of all others.
type processSeries struct {
	group  *processGroup // nil for all others
	entity *metric.Entity
	totals [2]uint64 // by direction or mode; of memory only the first
	store  processStore
	absent int // walks since it was in the first places
}

// processStore stores the totals of a series into its registers.
type processStore func(totals [2]uint64, now time.Time)

// processTop has the series of one resource.
//
// Counters of a group begin when it gets its place: what it used before stays in other, and what it uses after it
// has lost the place goes to other. So no counter ever falls, and what all series together grow by is what all
// processes used. The last totals of series that ended are not added to other: a backend has seen them grow, and
// would see it twice.
type processTop struct {
	resource int
	amount   bool // of the present, not a total
	measure  func(*processGroup) [2]uint64
	register func(*metric.Entity, ...attribute.KeyValue) processStore
	series   []*processSeries
	best     []*processGroup // the first places
	other    *processSeries
}

// choose gives series to the groups that come first; open makes their entities.
func (t *processTop) choose(groups []*processGroup, open func() *metric.Entity) {
	t.rank(groups)
	for _, s := range t.series {
		s.absent++
	}
	for _, g := range t.best {
		if s := g.shown[t.resource]; s != nil {
			s.absent = 0
		}
	}
	for i, s := range slices.Backward(t.series) {
		if s.absent > topPatience {
			t.remove(i)
		}
	}
	for _, g := range t.best {
		if g.shown[t.resource] != nil {
			continue
		}
		if len(t.series) == topSlots {
			t.remove(t.leastWanted())
		}
		g.shown[t.resource] = t.add(g, open())
		t.series = append(t.series, g.shown[t.resource])
	}
}

// add makes the series of a group, or of all others if it is nil.
func (t *processTop) add(g *processGroup, e *metric.Entity) *processSeries {
	return &processSeries{group: g, entity: e, store: t.register(e, g.attributes()...)}
}

// remove ends the series of a group.
func (t *processTop) remove(i int) {
	s := t.series[i]
	s.entity.Remove()
	s.group.shown[t.resource] = nil
	last := len(t.series) - 1
	t.series[i], t.series[last] = t.series[last], nil
	t.series = t.series[:last]
}

// leastWanted returns the index of the series that was out of the first places for longest.
func (t *processTop) leastWanted() int {
	least := 0
	for i, s := range t.series {
		l := t.series[least]
		if s.absent > l.absent || s.absent == l.absent && t.ahead(l.group, s.group) {
			least = i
		}
	}
	return least
}

// rank finds the groups of the highest scores. A program that is really called other is one of the others.
func (t *processTop) rank(groups []*processGroup) {
	t.best = t.best[:0]
	for _, g := range groups {
		if g.score[t.resource] == 0 || g.name == otherPrograms {
			continue
		}
		i := len(t.best)
		for i > 0 && t.ahead(g, t.best[i-1]) {
			i--
		}
		if i == topSize {
			continue
		}
		if len(t.best) < topSize {
			t.best = append(t.best, nil)
		}
		copy(t.best[i+1:], t.best[i:])
		t.best[i] = g
	}
}

// ahead says whether a comes before b: at equal scores who has series already, then by name.
func (t *processTop) ahead(a, b *processGroup) bool {
	if a.score[t.resource] != b.score[t.resource] {
		return a.score[t.resource] > b.score[t.resource]
	}
	if shown := a.shown[t.resource] != nil; shown != (b.shown[t.resource] != nil) {
		return shown
	}
	return a.name < b.name
}

// share adds what every group used to its series or to that of the others.
func (t *processTop) share(groups []*processGroup) {
	if t.amount {
		t.other.totals = [2]uint64{}
		for _, s := range t.series {
			s.totals = [2]uint64{}
		}
	}
	for _, g := range groups {
		s := g.shown[t.resource]
		if s == nil {
			s = t.other
		}
		for i, v := range t.measure(g) {
			s.totals[i] += v
		}
	}
}

// storeAll stores the totals into registers.
func (t *processTop) storeAll(now time.Time) {
	t.other.store(t.other.totals, now)
	for _, s := range t.series {
		s.store(s.totals, now)
	}
}

// attributes returns what names a group.
func (g *processGroup) attributes() []attribute.KeyValue {
	const program = attribute.Key("process.executable.name")
	if g == nil {
		return []attribute.KeyValue{program.String(otherPrograms)}
	}
	list := []attribute.KeyValue{program.String(g.name)}
	if g.owner.Unit != "" {
		list = append(list, attribute.String("systemd.unit.name", text(g.owner.Unit)))
	}
	if g.owner.Container != "" {
		list = append(list, attribute.String("container.id", g.owner.Container))
	}
	return list
}
