package host

import (
	"fmt"
	"unicode/utf8"

	"github.com/slid-agent/slid/internal/cgroup"
)

// What processes use up. CPU time is in ticks, I/O in bytes.
const (
	flowUser = iota
	flowSystem
	flowRead
	flowWrite
	flows
)

// processEntry is what is kept of a process from walk to walk.
//
// When a process ends and its parent waits for it, the kernel adds all that it used to the parent's totals of
// children: cutime and cstime, and for I/O, which has no separate totals, simply read_bytes and write_bytes. A part
// of that was counted already while the child was seen alive; the rest is what it used after the last walk, or all
// of it if it was never seen. So each process has an account: what came from children, less what those of them that
// were seen had been counted for. What is left over is credited to the group of the parent.
//
// A walk is not one moment. A child may be read alive and end before its parent is read, or be missed after its
// parent was read. Therefore what came is credited one walk later, when every child behind it has been missed; and an
// account may stay short for one walk, until what was missed has come. It is short for longer only if nobody waited
// for the child (the parent ignores SIGCHLD), or another did: then it takes from the accounts of its ancestors, of
// whom one has adopted the child. So time may come late or be lost, but is not counted twice.
type processEntry struct {
	pid, parent int32
	fd          int // of stat, kept open; 0 for none
	start       uint64
	group       *processGroup
	own         [2]uint64     // CPU time of itself, counted
	taken       [flows]uint64 // totals of its children; for I/O of itself and its children
	faults      uint64        // page faults of its children
	came        [flows]int64  // in this walk, and what was pending
	owed        [flows]int64  // in this walk: what ended children had been counted for
	pending     [flows]int64  // the account after the previous walk
	kernel      bool
	reaped      bool // children were waited for since the previous walk
	ioDenied    bool
}

// The values of process.state. Blocked is not in OpenTelemetry's list: processes in uninterruptible sleep, which wait
// for I/O and make up the load beside those that run.
const (
	processRunning = iota
	processSleeping
	processBlocked
	processStopped
	processDefunct
	processStates
)

// processState translates the letter of /proc/PID/stat, which is that of the main thread. One that has ended before
// the others leaves a process that is alive, and sleeps as far as can be told. Idle and parked threads of the kernel
// (I, P) sleep too.
func processState(letter byte, threads uint64) int {
	switch letter {
	case 'R':
		return processRunning
	case 'D':
		return processBlocked
	case 'T', 't':
		return processStopped
	case 'Z', 'X', 'x':
		if threads <= 1 {
			return processDefunct
		}
	}
	return processSleeping
}

// processCounts are what one walk found.
type processCounts struct {
	states  [processStates]int64
	hidden  int  // whose stat may not be read (hidepid=1)
	denied  int  // whose io may not be read
	capable bool // though slid has the capabilities for it
	failed  int
	failure error // the first of failed
}

// processTable has all processes. It is a list by pid, the order in which the kernel lists them, so a walk merges the
// new list with the old one: there is no hashing and no garbage.
type processTable struct {
	reader *processReader
	groups processGroups
	owners map[string]cgroup.Owner // by the content of /proc/PID/cgroup
	io     bool                    // the kernel accounts I/O

	now, before, gone []processEntry
	rest              []processEntry // of before: what the present walk has not come to
	busy              []int32        // indices into now: accounts that are not empty
	walks             int            // so far
	counts            processCounts
	unclaimed         uint64 // ended processes whose account stayed short, at least

	stat processStat
	name []byte
}

// walk reads all processes and credits what they used to their groups. On an error nothing has changed.
func (t *processTable) walk() error {
	pids, err := t.reader.list()
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("no processes in %s", t.reader.root)
	}
	t.begin()
	for _, pid := range pids {
		t.next(pid)
	}
	t.end()
	return nil
}

// close gives back all descriptors. It may be called again.
func (t *processTable) close() error {
	for i := range t.now {
		t.reader.release(&t.now[i].fd)
	}
	return t.reader.close()
}

// begin starts a walk.
func (t *processTable) begin() {
	t.groups.begin()
	t.counts = processCounts{}
	clear(t.before) // lest it holds groups that are gone
	clear(t.gone)
	t.gone = shrink(t.gone)[:0]
	t.now, t.before = shrink(t.before)[:0], t.now
	t.rest = t.before
}

// next merges the next pid of the list with the previous walk. The processes between have ended.
func (t *processTable) next(pid int32) {
	for len(t.rest) > 0 && t.rest[0].pid < pid {
		t.gone, t.rest = append(t.gone, t.rest[0]), t.rest[1:]
	}
	var known *processEntry
	if len(t.rest) > 0 && t.rest[0].pid == pid {
		known, t.rest = &t.rest[0], t.rest[1:]
	}
	t.visit(pid, known)
}

// end closes the accounts.
func (t *processTable) end() {
	t.gone = append(t.gone, t.rest...)
	t.rest = nil
	t.walks++
	t.counts.capable = t.counts.denied > 0 && mayTrace()
	t.settle()
}

// visit reads one process; known is its pid's entry of the previous walk, or nil.
func (t *processTable) visit(pid int32, known *processEntry) {
	err := t.readStat(pid, known)
	if err == nil && known != nil && known.start != t.stat.start { // the pid was given to another
		t.gone = append(t.gone, *known)
		known = nil
	}
	switch {
	case err == nil && known != nil:
		t.now = append(t.now, *known)
	case err == nil:
		t.now = append(t.now, processEntry{pid: pid, start: t.stat.start})
	case vanished(err):
		if known != nil {
			t.gone = append(t.gone, *known)
		}
		return
	default:
		t.keep(pid, known, err)
		return
	}
	t.update(&t.now[len(t.now)-1])
}

// readStat reads and parses stat. That of a process seen before stays open: most that are new soon end.
func (t *processTable) readStat(pid int32, known *processEntry) error {
	var b []byte
	var err error
	if known == nil {
		b, err = t.reader.read(pid, "stat")
	} else {
		b, err = t.reader.readKept(pid, &known.fd)
	}
	if err != nil {
		return err
	}
	return t.stat.parse(b)
}

// keep keeps a process that cannot be read, for it has not ended.
func (t *processTable) keep(pid int32, known *processEntry, err error) {
	if known != nil {
		known.group.processes++
		t.now = append(t.now, *known)
	}
	if denied(err) {
		t.counts.hidden++
		return
	}
	t.fail(pid, "stat", err)
}

// fail notes a file that is damaged or cannot be read.
func (t *processTable) fail(pid int32, file string, err error) {
	if t.counts.failed++; t.counts.failed == 1 {
		t.counts.failure = t.reader.pathError(pid, file, err)
	}
}

// update stores what stat says of a process.
func (t *processTable) update(p *processEntry) {
	s := &t.stat
	t.counts.states[processState(s.state, s.threads)]++
	p.parent, p.kernel = s.parent, s.kernel
	t.name = programName(t.name, s)
	if p.group == nil || p.group.name != string(t.name) { // it is new, or began another program
		p.group, p.ioDenied = t.groups.find(t.name, t.owner(p)), false
	}
	p.group.processes++
	p.group.rss += s.rss

	ran := false
	for flow, v := range s.cpu {
		if v > p.own[flow] {
			p.group.gained[flow] += v - p.own[flow]
			p.own[flow] = v
			ran = true
		}
	}
	p.reaped = p.faults != s.faults
	p.faults = s.faults
	for flow, v := range s.children {
		p.take(flow, v)
		p.reaped = p.reaped || p.came[flow] != 0
	}
	if ran || p.reaped {
		t.updateIO(p)
	}
	if p.ioDenied {
		t.counts.denied++
	}
}

// take enters a total into the account.
func (p *processEntry) take(flow int, total uint64) {
	if total > p.taken[flow] {
		p.came[flow] = int64(total - p.taken[flow])
		p.taken[flow] = total
	}
}

// updateIO reads the I/O of a process. That is done only for those that ran: the others can have done none.
func (t *processTable) updateIO(p *processEntry) {
	if !t.io || p.ioDenied {
		return
	}
	b, err := t.reader.read(p.pid, "io")
	var total processIO
	if err == nil {
		err = total.parse(b)
	}
	switch {
	case err == nil:
		p.take(flowRead, total[0])
		p.take(flowWrite, total[1])
	case denied(err):
		p.ioDenied = true // until it begins another program
	case !vanished(err):
		t.fail(p.pid, "io", err)
	}
}

// programName copies the name of the program of a process into buf, fit for an attribute. Of the kernel's threads it
// takes the part before the slash: kworker/0:1-events and all its kin are kworker.
func programName(buf []byte, s *processStat) []byte {
	buf = append(buf[:0], s.comm...)
	for i := 0; i < len(buf); {
		r, size := utf8.DecodeRune(buf[i:])
		switch {
		case r == '/' && s.kernel && i > 0:
			return buf[:i]
		case r == utf8.RuneError && size == 1, r < ' ', r == 0x7f:
			buf[i] = '?'
		}
		i += size
	}
	if len(buf) == 0 {
		buf = append(buf, '?')
	}
	return buf
}

// maxOwners bounds the contents of /proc/PID/cgroup that are remembered.
const maxOwners = 1024

// owner returns the unit or container that a process belongs to. It is asked when a process is new or begins another
// program; who is moved later keeps the owner.
func (t *processTable) owner(p *processEntry) cgroup.Owner {
	if p.kernel {
		return cgroup.Owner{}
	}
	b, err := t.reader.read(p.pid, "cgroup")
	if err != nil {
		return cgroup.Owner{}
	}
	owner, ok := t.owners[string(b)]
	if !ok {
		if t.owners == nil || len(t.owners) >= maxOwners {
			t.owners = map[string]cgroup.Owner{}
		}
		content := string(b)
		owner = cgroup.ParseProc(content)
		t.owners[content] = owner
	}
	return owner
}

// settle closes the accounts of a walk.
func (t *processTable) settle() {
	for i := range t.gone {
		t.reader.release(&t.gone[i].fd)
		t.charge(&t.gone[i])
	}
	t.busy = shrink(t.busy)[:0]
	var none [flows]int64
	for i := range t.now {
		p := &t.now[i]
		if p.came != none || p.owed != none || p.pending != none {
			t.busy = append(t.busy, int32(i))
			p.open()
		}
	}
	for _, i := range t.busy {
		if t.coverOverdue(&t.now[i]) {
			t.unclaimed++
		}
	}
	for _, i := range t.busy {
		t.coverOwed(&t.now[i])
	}
	for _, i := range t.busy {
		t.now[i].credit(t.walks == 1)
	}
}

// charge enters what an ended process had been counted for into the account of who waited for it, as far as can be
// told: the nearest ancestor that is alive. Threads of the kernel are not waited for.
func (t *processTable) charge(gone *processEntry) {
	if gone.kernel {
		return
	}
	p := t.heir(gone)
	if p == nil {
		return
	}
	for flow := range flows {
		counted := int64(gone.taken[flow]) - gone.pending[flow]
		if flow < len(gone.own) {
			counted += int64(gone.own[flow])
		}
		p.owed[flow] += counted
	}
}

// maxAncestors bounds a walk up the tree of processes, which in a damaged /proc may be none.
const maxAncestors = 64

// heir returns the nearest ancestor of an ended process that is alive, or the first process.
func (t *processTable) heir(gone *processEntry) *processEntry {
	for range maxAncestors {
		if p := findProcess(t.now, gone.parent); p != nil && p.start <= gone.start {
			return p
		}
		parent := findProcess(t.gone, gone.parent)
		if parent == nil {
			break
		}
		gone = parent
	}
	return findProcess(t.now, 1)
}

// findProcess returns the entry of a pid in a list by pid, or nil.
func findProcess(list []processEntry, pid int32) *processEntry {
	low, high := 0, len(list)
	for low < high {
		middle := (low + high) / 2
		if list[middle].pid < pid {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(list) || list[low].pid != pid {
		return nil
	}
	return &list[low]
}

// open adds what was pending to what came. I/O of a process that has no ended children is its own and is credited
// at once.
func (p *processEntry) open() {
	for flow := range flows {
		if flow >= flowRead && !p.reaped && p.pending[flow] == 0 && p.owed[flow] == 0 {
			p.group.gained[flow] += uint64(p.came[flow])
			p.came[flow] = 0
			continue
		}
		p.came[flow] += p.pending[flow]
		p.pending[flow] = max(0, p.pending[flow])
	}
}

// certain is the part of an account behind which no child can still be missed: what was pending, less what is owed.
func (p *processEntry) certain(flow int) int64 {
	return max(0, min(p.pending[flow], p.came[flow])-p.owed[flow])
}

// coverOverdue makes up for what an account has been short of since the previous walk, from those of the ancestors
// at that walk. It goes before what those owe since this walk, for which there is still time. What is left is written
// off; it says whether that was processor time.
func (t *processTable) coverOverdue(p *processEntry) (unclaimed bool) {
	for flow := range flows {
		former := findProcess(t.before, p.pid) // an account that is short was there before
		for range maxAncestors {
			if p.came[flow] >= 0 || former == nil {
				break
			}
			if former = findProcess(t.before, former.parent); former == nil {
				break
			}
			if ancestor := findProcess(t.now, former.pid); ancestor != nil && ancestor.start == former.start {
				p.draw(ancestor, flow, min(-p.came[flow], ancestor.came[flow]))
			}
		}
		if p.came[flow] < 0 {
			p.came[flow] = 0
			unclaimed = unclaimed || flow < len(p.own)
		}
	}
	return unclaimed
}

// coverOwed makes up for what an account became short of in this walk, from what is certain in those of the
// ancestors: it would be credited now. The rest has time until the next walk.
func (t *processTable) coverOwed(p *processEntry) {
	for flow := range flows {
		ancestor := p
		for range maxAncestors {
			if p.came[flow] >= p.owed[flow] {
				break
			}
			if ancestor = findProcess(t.now, ancestor.parent); ancestor == nil {
				break
			}
			p.draw(ancestor, flow, min(p.owed[flow]-p.came[flow], ancestor.certain(flow)))
		}
	}
}

// draw moves an amount from the account of an ancestor.
func (p *processEntry) draw(ancestor *processEntry, flow int, part int64) {
	if part <= 0 {
		return
	}
	p.came[flow] += part
	ancestor.came[flow] -= part
	ancestor.pending[flow] = max(0, ancestor.pending[flow]-part)
}

// credit credits what is certain of an account to the group of the process and carries the balance over. At the first
// walk all is credited: nothing had been counted before.
func (p *processEntry) credit(first bool) {
	for flow := range flows {
		certain := p.certain(flow)
		if first {
			certain = p.came[flow]
		}
		p.group.gained[flow] += uint64(certain)
		p.pending[flow] = p.came[flow] - p.owed[flow] - certain
	}
	p.came, p.owed = [flows]int64{}, [flows]int64{}
}

// asError returns what went wrong in a walk, or nil.
func (c *processCounts) asError() error {
	switch c.failed {
	case 0:
		return nil
	case 1:
		return c.failure
	}
	return fmt.Errorf("%w (and %d more files)", c.failure, c.failed-1)
}
