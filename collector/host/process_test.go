package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/verdict"
)

// processBudget is the most series that the collector has: states, threads, unclaimed; memory of the groups that have
// places and of others; processor time and I/O of the same in two modes.
const processBudget = processStates + 2 + (topSlots+1)*5

// fakeProcess is a process of a /proc made of files.
type fakeProcess struct {
	pid, parent   int
	name, state   string
	start         int
	cpu, children [2]uint64
	faults        uint64 // of children
	io            [2]uint64
	rss           int
}

// write writes stat and io. What may be left of a longer content stands behind what is read: some file systems are
// slow to truncate.
func (p fakeProcess) write(proc string) error {
	if p.state == "" {
		p.state = "S"
	}
	dir := filepath.Join(proc, strconv.Itoa(p.pid))
	errs := os.MkdirAll(dir, 0o700)
	for name, content := range map[string]string{
		"stat": fmt.Sprintf("%d (%s) %s %d 1 1 0 -1 4194560 7 %d 0 0 %d %d %d %d 20 0 1 0 %d 0 %d 18446744073709551615\n",
			p.pid, p.name, p.state, p.parent, p.faults, p.cpu[0], p.cpu[1], p.children[0], p.children[1], p.start, p.rss),
		"io": fmt.Sprintf("rchar: 1\nread_bytes: %d\nwrite_bytes: %d\ncancelled_write_bytes: 0\n", p.io[0], p.io[1]),
	} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			_, err = f.WriteString(content)
			err = errors.Join(err, f.Close())
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

// fakeProc returns an Env whose /proc has the processes.
func fakeProc(t testing.TB, list ...fakeProcess) collector.Env {
	t.Helper()
	env := envAt(t.TempDir())
	for _, p := range append(list, fakeProcess{pid: 1, name: "init"}) {
		if err := p.write(env.Proc); err != nil {
			t.Fatal(err)
		}
	}
	return env
}

// put writes processes of the rig's /proc.
func (r *rig) put(list ...fakeProcess) {
	r.t.Helper()
	for _, p := range list {
		if err := p.write(r.env.Proc); err != nil {
			r.t.Fatal(err)
		}
	}
}

func TestProcessOddTree(t *testing.T) {
	const id = "3f2a9c0d5e6b7a8f90123456789abcdef0123456789abcdef0123456789abcde"
	r := start(t, copyOf(t, "process/odd"), NewProcesses)
	p := r.fails("proc/400/stat", "file is cut short", "and 1 more")
	for key, want := range map[string]float64{
		"system.process.count{running}":                1,
		"system.process.count{sleeping}":               9, // one of them a process whose main thread has ended
		"system.process.count{blocked}":                1,
		"system.process.count{stopped}":                2,
		"system.process.count{defunct}":                1,
		"process.cpu.time{user,nginx,nginx.service}":   19.11, // with that of children: 0.01
		"process.cpu.time{system,nginx,nginx.service}": 10.22,
		"process.cpu.time{" + id + ",user,nginx}":      0.07,
		"process.cpu.time{user,systemd}":               5.3,
		"process.cpu.time{system,kworker}":             0.16,
		"process.cpu.time{user,a) R 1 (b? c)}":         0.03,
		"process.cpu.time{user,half dead}":             0.6,
		"process.cpu.time{user,über?}":                 0.01,
		"process.cpu.time{user,?}":                     0.01,
		"process.cpu.time{user,other}":                 0.09,
		"process.memory.usage{nginx,nginx.service}":    700 * float64(os.Getpagesize()),
		"process.memory.usage{other}":                  4 * float64(os.Getpagesize()),
		"process.disk.io{write,nginx,nginx.service}":   1114112,
		"process.disk.io{read,nginx,nginx.service}":    12288,
		"process.disk.io{write,kworker}":               8192,
		"process.disk.io{read,other}":                  0,
		"system.process.linux.unclaimed":               0,
	} {
		p.want(t, key, want)
	}
	p.without(t, "session-4")
	r.verdict(verdict.Degraded, "proc/400/stat")
	again := r.fails("proc/400/stat")
	for key, before := range p {
		if again[key] != before {
			t.Errorf("%s = %v at the second walk of the same, was %v", key, again[key], before)
		}
	}
}

func TestProcessRecordedTree(t *testing.T) {
	r := start(t, copyOf(t, "process/linux-6.18-vm"), NewProcesses)
	p := r.must()
	p.want(t, "system.process.count{sleeping}", 12)
	p.want(t, "process.cpu.time{user,init}", 5.24+3050.45)
	p.want(t, "process.cpu.time{system,ksoftirqd}", 2.31)
	p.want(t, "process.memory.usage{sleep}", (424+411)*float64(os.Getpagesize()))
	r.verdict(verdict.Active)
}

func TestProcessStatRefuses(t *testing.T) {
	good := "7 (x) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 10 11 12 13\n"
	var s processStat
	if err := s.parse([]byte(good)); err != nil || s.faults != 6 || s.cpu != [2]uint64{5, 6} ||
		s.children != [2]uint64{7, 8} || s.threads != 9 || s.start != 10 || s.rss != 12 || s.parent != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	for _, bad := range []string{
		"", "\n", "7", "7 x S 1", ")(", "7 (x", "7 x) S 1", good[:len(good)-1], "7 (x)\n", "7 (x) S\n",
		strings.Replace(good, " S ", " Sleeping ", 1), strings.Replace(good, " S 1 ", " S -1 ", 1),
		strings.Replace(good, " S 1 ", " S 4294967296 ", 1), strings.Replace(good, " 5 6 ", " 5 x ", 1),
		strings.Replace(good, " 5 6 ", " 5 99999999999999999999 ", 1),
		strings.Replace(good, " 5 6 ", " 5 9999999999999999 ", 1), "7 (x) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8\n",
	} {
		if err := s.parse([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a process: %+v", bad, s)
		}
	}
}

// FuzzProcessStat compares with a plain parser, and lets the name of the program be anything.
func FuzzProcessStat(f *testing.F) {
	f.Add("x", "S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 10 11 12 13\n")
	f.Add("a) R 1 (b\n", "R 2 7 7 0 -1 2129984 1 2 3 4 5 6 7 8 20 0 9 0 10 11 12 13\n")
	f.Add("", "\x00\xff")
	f.Fuzz(func(t *testing.T, comm, rest string) {
		if strings.Contains(rest, ")") {
			return
		}
		var s processStat
		err := s.parse([]byte("7 (" + comm + ") " + rest))
		if _, _, whole := strings.Cut(rest, "\n"); !whole && err == nil {
			t.Fatalf("%q: taken without its end", rest)
		}
		line, _, _ := strings.Cut(rest, "\n")
		fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
		if err != nil {
			return
		}
		if string(s.comm) != comm || string(s.state) != fields[0] {
			t.Fatalf("name %q, state %c of %q %q", s.comm, s.state, comm, rest)
		}
		number := func(i int) uint64 {
			v, err := strconv.ParseUint(fields[i-3], 10, 64)
			if err != nil {
				t.Fatalf("field %d of %q: %v", i, rest, err)
			}
			return v
		}
		want := processStat{
			comm: s.comm, state: s.state, parent: int32(number(4)), kernel: number(9)&kernelThread != 0,
			threads: number(20), start: number(22), cpu: [2]uint64{number(14), number(15)},
			children: [2]uint64{number(16), number(17)}, faults: number(11) + number(13), rss: number(24),
		}
		if fmt.Sprint(want) != fmt.Sprint(s) || number(4) > math.MaxInt32 {
			t.Fatalf("%+v, want %+v", s, want)
		}
	})
}

func FuzzProcessIO(f *testing.F) {
	f.Add("rchar: 1\nread_bytes: 4096\nwrite_bytes: 0\ncancelled_write_bytes: 0\n")
	f.Fuzz(func(t *testing.T, content string) {
		var io processIO
		if err := io.parse([]byte(content)); err == nil && !strings.Contains(content, "read_bytes:") {
			t.Fatalf("%q gives %v", content, io)
		}
	})
}

func FuzzProcessEntries(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x18\x00\x0442\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, entries []byte) {
		for _, pid := range appendPIDs(nil, entries) {
			if pid <= 0 {
				t.Fatalf("pid %d", pid)
			}
		}
	})
}

// TestProcessPIDReuse gives a pid to another process between two walks.
func TestProcessPIDReuse(t *testing.T) {
	r := start(t, fakeProc(t, fakeProcess{pid: 9, parent: 1, name: "a", start: 5, cpu: [2]uint64{100, 0}}), NewProcesses)
	r.must().want(t, "process.cpu.time{user,a}", 1)
	// It has used more than the first: without a look at its start nothing would be noticed.
	r.put(fakeProcess{pid: 9, parent: 1, name: "a", start: 900, cpu: [2]uint64{130, 0}})
	r.must().want(t, "process.cpu.time{user,a}", 2.3)
}

// TestProcessVanishes covers a process that ends between listing and reading: it is no error.
func TestProcessVanishes(t *testing.T) {
	r := start(t, fakeProc(t, fakeProcess{pid: 9, parent: 1, name: "a"}), NewProcesses)
	r.must().want(t, "system.process.count{sleeping}", 2)
	remove(t, filepath.Join(r.env.Proc, "9/stat"))
	r.must().want(t, "system.process.count{sleeping}", 1)
	remove(t, filepath.Join(r.env.Proc, "9"))
	r.must().want(t, "system.process.count{sleeping}", 1)
	r.verdict(verdict.Active)
}

// TestProcessUnclaimed: what an ended child used goes to its parent, less what it was counted for, or is lost.
func TestProcessUnclaimed(t *testing.T) {
	parent := fakeProcess{pid: 5, parent: 1, name: "make", cpu: [2]uint64{10, 0}}
	child := fakeProcess{pid: 9, parent: 5, name: "cc", start: 3, cpu: [2]uint64{100, 20}}
	r := start(t, fakeProc(t, parent, child), NewProcesses)
	r.must()
	remove(t, filepath.Join(r.env.Proc, "9"))
	parent.children, parent.faults = [2]uint64{130, 25}, 7 // of which 0.30 s and 0.05 s were not seen
	r.put(parent)
	r.must().want(t, "process.cpu.time{user,make}", 0.1) // not before the next walk: see processEntry
	p := r.must()
	p.want(t, "process.cpu.time{user,make}", 0.4)
	p.want(t, "process.cpu.time{system,make}", 0.05)
	p.want(t, "process.cpu.time{user,cc}", 1)
	p.want(t, "system.process.linux.unclaimed", 0)

	r.put(child)
	r.must().want(t, "process.cpu.time{user,cc}", 2)
	remove(t, filepath.Join(r.env.Proc, "9")) // and nobody waits for it
	for range 3 {
		p = r.must()
	}
	p.want(t, "process.cpu.time{user,make}", 0.4)
	p.want(t, "process.cpu.time{user,cc}", 2)
	p.want(t, "system.process.linux.unclaimed", 1)
}

// TestProcessPlaces follows groups into the first places and out of them.
func TestProcessPlaces(t *testing.T) {
	const programs = 60
	process := func(i int, ticks uint64) fakeProcess {
		return fakeProcess{
			pid: 100 + i, parent: 1, name: fmt.Sprintf("p%02d", i), start: i, cpu: [2]uint64{ticks, ticks},
			io: [2]uint64{ticks << 12, ticks << 12}, rss: int(ticks),
		}
	}
	var list []fakeProcess
	used := make([]uint64, programs)
	for i := range programs {
		used[i] = 1 + uint64(i)
		list = append(list, process(i, used[i]))
	}
	r := start(t, fakeProc(t, list...), NewProcesses)
	use := func(i int, ticks uint64) points {
		used[i] += ticks
		r.put(process(i, used[i]))
		p := r.must()
		if live := r.env.Metrics.Live(); live > processBudget {
			t.Fatalf("%d series, want at most %d", live, processBudget)
		}
		return p
	}
	p := r.must()
	p.want(t, "process.cpu.time{user,p59}", 0.6)
	p.without(t, "p49")
	if start := p["process.cpu.time{user,p59}"].start; !start.Equal(boot) {
		t.Errorf("the series of the first walk start at %v, want the boot", start)
	}
	other := p["process.cpu.time{user,other}"].value

	p = use(3, 500)
	p.want(t, "process.cpu.time{user,p03}", 5) // not what it used before it had a place
	p.want(t, "process.cpu.time{user,other}", other)
	if start := p["process.cpu.time{user,p03}"].start; !start.Equal(tick(0)) {
		t.Errorf("a new series starts at %v, want the previous walk", start)
	}
	for i := range programs { // each in turn is ahead of all
		p = use(i, 1000<<(i%7))
		p.want(t, fmt.Sprintf("process.cpu.time{user,p%02d}", i), p[fmt.Sprintf("process.cpu.time{user,p%02d}", i)].value)
	}
	for range topPatience + 20 { // by then halving has forgotten all
		p = use(7, 1000)
	}
	if live, want := r.env.Metrics.Live(), processBudget; live >= want {
		t.Errorf("%d series after a long time with one busy program", live)
	}
	p.without(t, "process.cpu.time{user,p58}")
	if p["process.cpu.time{user,p07}"].value < 50 {
		t.Errorf("the busy program has %v", p["process.cpu.time{user,p07}"])
	}
}

func TestProcessStaysForAWhile(t *testing.T) {
	var list []fakeProcess
	for i := range topSize + 1 {
		list = append(list, fakeProcess{pid: 100 + i, parent: 1, name: fmt.Sprintf("p%02d", i), rss: 100 + i})
	}
	r := start(t, fakeProc(t, list...), NewProcesses)
	r.must().without(t, "p00")
	list[0].rss, list[1].rss = 500, 1 // they change places
	r.put(list...)
	for range topPatience {
		p := r.must()
		p.want(t, "process.memory.usage{p00}", 500*float64(os.Getpagesize()))
		p.want(t, "process.memory.usage{p01}", 1*float64(os.Getpagesize()))
	}
	r.must()
	p := r.must()
	p.without(t, "p01")
	p.want(t, "process.memory.usage{other}", 1*float64(os.Getpagesize()))
}

func TestProcessVerdicts(t *testing.T) {
	env := fakeProc(t, fakeProcess{pid: 9, parent: 1, name: "a", cpu: [2]uint64{5, 5}, io: [2]uint64{1, 1}})
	chmod := func(name string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(filepath.Join(env.Proc, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	collect := func(r *rig) {
		t.Helper()
		if err := unprivileged(t, func() error { return r.collect() }); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("io", func(t *testing.T) {
		chmod("9/io", 0)
		r := start(t, env, NewProcesses)
		collect(r)
		collect(r)
		r.verdict(verdict.Degraded, "disk I/O may not be read: 1", "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH")
		r.points().want(t, "process.cpu.time{user,a}", 0.05)
		chmod("9/io", 0o600)
	})
	t.Run("hidepid=1", func(t *testing.T) {
		chmod("9/stat", 0)
		r := start(t, env, NewProcesses)
		collect(r)
		r.verdict(verdict.Degraded, "may not be read (hidepid=1): 1", "CAP_SYS_PTRACE")
		r.points().want(t, "system.process.count{sleeping}", 1)
		chmod("9/stat", 0o600)
	})
	t.Run("no accounting", func(t *testing.T) {
		remove(t, filepath.Join(env.Proc, "1/io"))
		r := start(t, env, NewProcesses)
		r.must().without(t, "process.disk.io")
		r.verdict(verdict.Degraded, "CONFIG_TASK_IO_ACCOUNTING")
	})
	t.Run("hidepid=2", func(t *testing.T) {
		remove(t, filepath.Join(env.Proc, "1"))
		r := start(t, env, NewProcesses)
		r.must().want(t, "system.process.count{sleeping}", 1)
		r.verdict(verdict.Degraded, "process 1 is not shown", "hidepid")
	})
	t.Run("nothing", func(t *testing.T) {
		r := start(t, env, NewProcesses)
		remove(t, filepath.Join(env.Proc, "9"))
		r.fails("no processes in", env.Proc)
		r.verdict(verdict.Unavailable)
	})
}

// TestProcessAllocatesNothing holds for recorded trees and, while no process begins or ends, for this machine.
func TestProcessAllocatesNothing(t *testing.T) {
	live := envAt("/")
	for name, env := range map[string]collector.Env{
		"odd": copyOf(t, "process/odd"), "recorded": copyOf(t, "process/linux-6.18-vm"), "live": live,
	} {
		r := start(t, env, NewProcesses)
		if name == "odd" {
			remove(t, filepath.Join(env.Proc, "400"))
			remove(t, filepath.Join(env.Proc, "401"))
		}
		for range 5 {
			r.must()
		}
		least := math.Inf(1)
		for range 100 {
			least = min(least, testing.AllocsPerRun(1, func() {
				if err := r.Collect(context.Background(), tick(r.ticks)); err != nil {
					t.Fatal(err)
				}
			}))
		}
		if least != 0 {
			t.Errorf("%s: %v allocations per Collect, want 0", name, least)
		}
	}
}

// TestProcessMemoryComesBack lets 3,000 processes of as many programs come and go.
func TestProcessMemoryComesBack(t *testing.T) {
	const crowd = 3000
	r := start(t, fakeProc(t), NewProcesses)
	heap := func() float64 {
		for range 5 {
			r.must()
		}
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	before := heap()
	for i := range crowd {
		r.put(fakeProcess{pid: 10 + i, parent: 1, name: fmt.Sprint("program", i), start: i, rss: 1})
	}
	full := heap()
	for i := range crowd {
		remove(t, filepath.Join(r.env.Proc, strconv.Itoa(10+i)))
	}
	for range topPatience + 1 {
		r.must()
	}
	after := heap()
	t.Logf("heap before %.0f, with %d processes %.0f, after %.0f", before, crowd, full, after)
	if full-before < 100*crowd {
		t.Fatalf("%d processes took %.0f bytes, which cannot be", crowd, full-before)
	}
	if after-before > 0.1*(full-before) {
		t.Errorf("%.0f bytes of %.0f are kept", after-before, full-before)
	}
}

func TestProcessNames(t *testing.T) {
	for comm, want := range map[string]string{
		"nginx": "nginx", "a/b": "a/b", "": "?", "a\nb\x7f": "a?b?", "\xff\xc3": "??", "日本": "日本",
	} {
		if got := programName(nil, &processStat{comm: []byte(comm)}); string(got) != want {
			t.Errorf("%q is shown as %q, want %q", comm, got, want)
		}
	}
	for comm, want := range map[string]string{"kworker/u8:3-events": "kworker", "/x": "/x", "irq/24-nvme0q0": "irq"} {
		if got := programName(nil, &processStat{comm: []byte(comm), kernel: true}); string(got) != want {
			t.Errorf("thread %q of the kernel is shown as %q, want %q", comm, got, want)
		}
	}
}

func TestProcessDescriptions(t *testing.T) {
	r := start(t, copyOf(t, "process/odd"), NewProcesses)
	for _, d := range r.env.Metrics.Descs() {
		if d.Name == "" || d.Unit == "" || d.Source == "" || !strings.HasSuffix(d.Description, ".") {
			t.Errorf("incomplete declaration %+v", d)
		}
	}
}
