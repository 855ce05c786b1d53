package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// simulation is a model of how Linux accounts processes: what a process used goes to its parent when that waits for
// it. It writes the files of /proc.
type simulation struct {
	t       *rapid.T
	root    string
	clock   uint64
	lastPID int
	byPID   map[int]*simulated
	listed  map[int]bool  // by the present walk: the kernel uses every other pid before it uses one again
	ignore  bool          // some parents ignore SIGCHLD
	used    [flows]uint64 // by all processes together
}

type simulated struct {
	pid, start int
	parent     *simulated
	name       string
	own        [2]uint64
	children   [2]uint64
	io         [2]uint64 // with that of children
	faults     uint64    // of itself
	reaped     uint64    // page faults of children
	zombie     bool
	ignores    bool
	subreaper  bool
}

const simulatedPIDs = 40 // so few that they are used again and again

func newSimulation(t *rapid.T, root string, ignore bool) *simulation {
	s := &simulation{t: t, root: root, byPID: map[int]*simulated{}, ignore: ignore}
	first := &simulated{pid: 1, name: "init", subreaper: true}
	s.byPID[1], s.lastPID = first, 1
	return s
}

func (s *simulation) pick(what string, good func(*simulated) bool) *simulated {
	var list []*simulated
	for pid := range simulatedPIDs {
		if p := s.byPID[pid]; p != nil && good(p) {
			list = append(list, p)
		}
	}
	if list == nil {
		return nil
	}
	return rapid.SampledFrom(list).Draw(s.t, what)
}

// step lets something happen.
func (s *simulation) step() {
	s.clock++
	alive := func(p *simulated) bool { return !p.zombie }
	switch rapid.IntRange(0, 9).Draw(s.t, "action") {
	case 0, 1, 2:
		s.run(s.pick("runs", alive))
	case 3, 4:
		s.fork(s.pick("forks", alive))
	case 5:
		if p := s.pick("execs", alive); p.pid != 1 {
			p.name = fmt.Sprint("program", rapid.IntRange(0, 30).Draw(s.t, "program"))
		}
	case 6, 7:
		if p := s.pick("exits", func(p *simulated) bool { return !p.zombie && p.pid != 1 }); p != nil {
			s.exit(p)
		}
	default:
		if p := s.pick("is waited for", func(p *simulated) bool { return p.zombie }); p != nil {
			s.wait(p)
		}
	}
}

func (s *simulation) run(p *simulated) {
	p.faults++
	for i := range 2 {
		ticks := rapid.Uint64Range(0, 50).Draw(s.t, "ticks")
		bytes := rapid.Uint64Range(0, 1).Draw(s.t, "blocks") << 12
		if ticks == 0 { // I/O without any use of a processor is not seen
			bytes = 0
		}
		p.own[i] += ticks
		p.io[i] += bytes
		s.used[i] += ticks
		s.used[flowRead+i] += bytes
	}
}

func (s *simulation) fork(p *simulated) {
	pid := s.lastPID
	for range simulatedPIDs {
		if pid = pid%(simulatedPIDs-1) + 1; s.byPID[pid] == nil && !s.listed[pid] {
			break
		}
	}
	if s.byPID[pid] != nil || s.listed[pid] {
		return
	}
	s.lastPID = pid
	s.byPID[pid] = &simulated{
		pid: pid, start: int(s.clock), parent: p, name: p.name, faults: 1,
		ignores:   s.ignore && rapid.IntRange(0, 3).Draw(s.t, "ignores") == 0,
		subreaper: rapid.IntRange(0, 3).Draw(s.t, "subreaper") == 0,
	}
}

func (s *simulation) exit(p *simulated) {
	p.zombie = true
	heir := p.parent
	for heir.zombie || !heir.subreaper {
		heir = heir.parent
	}
	for pid := range simulatedPIDs {
		if child := s.byPID[pid]; child != nil && child.parent == p {
			child.parent = heir
			if child.zombie && heir.ignores {
				delete(s.byPID, pid)
			}
		}
	}
	if p.parent.ignores {
		delete(s.byPID, p.pid)
	}
}

func (s *simulation) wait(p *simulated) {
	for i := range 2 {
		p.parent.children[i] += p.own[i] + p.children[i]
		p.parent.io[i] += p.io[i]
	}
	p.parent.reaped += p.faults + p.reaped
	delete(s.byPID, p.pid)
}

// show writes the files of a process as they are now, or removes them.
func (s *simulation) show(pid int) {
	p := s.byPID[pid]
	if p == nil {
		_ = os.RemoveAll(filepath.Join(s.root, fmt.Sprint(pid)))
		return
	}
	f := fakeProcess{
		pid: pid, name: p.name, state: "S", start: p.start, cpu: p.own, children: p.children, faults: p.reaped,
		io: p.io, rss: 10,
	}
	if p.zombie {
		f.state = "Z"
	}
	if p.parent != nil {
		f.parent = p.parent.pid
	}
	if err := f.write(s.root); err != nil {
		s.t.Fatal(err)
	}
}

// walk lets the collector walk over the processes while things go on happening.
func (s *simulation) walk(p *Processes, steps int) {
	var pids []int
	s.listed = map[int]bool{}
	for pid := range simulatedPIDs {
		if s.byPID[pid] != nil {
			pids = append(pids, pid)
			s.listed[pid] = true
		}
	}
	p.table.begin()
	for _, pid := range pids {
		for range rapid.IntRange(0, steps).Draw(s.t, "steps") {
			s.step()
		}
		s.show(pid)
		p.table.next(int32(pid))
	}
	p.table.end()
	s.listed = nil
}

// ledger follows the exported counters.
type ledger struct {
	t    *rapid.T
	last map[string]uint64 // by series: name, attributes and start
}

// flowOf returns which flow an exported counter is of, and its value in the unit of the flow.
func flowOf(key string, value float64) (flow int, total uint64, ok bool) {
	for flow, parts := range [flows][2]string{
		{"process.cpu.time{", "user"},
		{"process.cpu.time{", "system"},
		{"process.disk.io{", "read"},
		{"process.disk.io{", "write"},
	} {
		if strings.HasPrefix(key, parts[0]) && strings.Contains(key, parts[1]) {
			if flow < flowRead {
				value *= userHz
			}
			return flow, uint64(value + 0.5), true
		}
	}
	return 0, 0, false
}

// check looks at the exported counters: none falls, and together they grew up to now by total.
func (l *ledger) check(exported points) (total [flows]uint64) {
	for key, p := range exported {
		_, value, ok := flowOf(key, p.value)
		if !ok {
			continue
		}
		id := fmt.Sprint(key, p.start.UnixNano())
		if value < l.last[id] {
			l.t.Fatalf("%s fell from %d to %d", key, l.last[id], value)
		}
		l.last[id] = value
	}
	for id, value := range l.last {
		flow, _, _ := flowOf(id, 0)
		total[flow] += value
	}
	return total
}

// TestProcessCountersAddUp: whatever processes do, and while the walk goes on, no counter falls, nothing is counted
// that was not used, and once all is quiet everything is counted, if all parents wait for their children.
func TestProcessCountersAddUp(t *testing.T) {
	root := t.TempDir()
	for name, ignore := range map[string]bool{"all are waited for": false, "some are not": true} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				proc := filepath.Join(root, "proc")
				remove(t, proc)
				if err := os.MkdirAll(filepath.Join(proc, "1"), 0o700); err != nil {
					rt.Fatal(err)
				}
				s := newSimulation(rt, proc, ignore)
				s.show(1)
				r := start(t, envAt(root), NewProcesses)
				defer r.Close()
				p := r.Collector.(*Processes)
				l := &ledger{t: rt, last: map[string]uint64{}}
				tickOf := func() (counted [flows]uint64) {
					now := tick(r.ticks)
					r.ticks++
					p.publish(now)
					r.env.Metrics.Collected(now)
					counted = l.check(r.points())
					for flow, n := range counted {
						if n > s.used[flow] {
							rt.Fatalf("flow %d: counted %d, used %d", flow, n, s.used[flow])
						}
					}
					return counted
				}
				s.walk(p, 0) // the first walk takes all there is for certain
				tickOf()
				for range rapid.IntRange(1, 12).Draw(rt, "walks") {
					for range rapid.IntRange(0, 20).Draw(rt, "between") {
						s.step()
					}
					s.walk(p, 2)
					tickOf()
				}
				var counted [flows]uint64
				for range 8 {
					s.walk(p, 0)
					counted = tickOf()
				}
				if !ignore && counted != s.used {
					rt.Fatalf("counted %d, used %d", counted, s.used)
				}
			})
		})
	}
}
