package bpf

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/verdict"
)

// HTTPSlots is how many services the kernel tells apart at a time. Slot 0 takes the ones that come when no other is
// free.
const HTTPSlots = 256

// HTTPFirstStatus is the status counted in HTTPService.Codes[0].
const HTTPFirstStatus = 100

// HTTPService is what the kernel counted for one (cgroup, network namespace, port): see bpf/http.bpf.c.
type HTTPService = gen.HTTPHttpService

// HTTPKey tells services apart.
type HTTPKey = gen.HTTPHttpKey

// HTTPHist is a histogram of durations: struct hist (bpf/include/hist.h).
type HTTPHist = gen.HTTPHist

// HTTPLosses counts connections that could be given to no service.
type HTTPLosses = gen.HTTPHttpLosses

// HTTPOptions says where to count: at a cgroup, or at interfaces.
type HTTPOptions struct {
	// Cgroup is the cgroup2 directory whose sockets are counted: the root, for all of the host's. Without it the
	// probe counts at the interfaces given to AttachInterface.
	Cgroup string
	// OnlyNetns restricts the count at a cgroup to one network namespace, by the inode number of /proc/PID/ns/net; 0
	// means all.
	OnlyNetns uint32
	// Sets are what the services promise and by which routes they are counted; nil: nothing, which costs nothing.
	Sets *HTTPSets
}

// HTTP is the loaded and attached probe that counts HTTP/1.x requests. It takes 4.5 MB of kernel memory, at most 9 MB more
// if services are counted by route, and some 100 bytes for each connection that carried data. It is not safe for concurrent use.
type HTTP struct {
	collection *ebpf.Collection
	in, out    *ebpf.Program
	links      []link.Link
	flush      *link.Iter
	services   *ebpf.Memory
	losses     *ebpf.Memory
	runs       *ebpf.Memory
	events     *ebpf.Memory
	times      *ebpf.Memory
	cells      *ebpf.Memory
	cellCount  int
	cpus       int
	walk       walking
}

// NewHTTP loads the probe and attaches it. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; without, or on a kernel
// that lacks something, the error is a *verdict.UnavailableError.
func NewHTTP(k *Kernel, opts HTTPOptions) (*HTTP, error) {
	needs := []capability{capBPF, capPerfmon, capNetAdmin}
	h := &HTTP{}
	if err := h.load(k, opts); err != nil {
		return nil, errors.Join(unavailable("load the HTTP probe", err, needs...), h.Close())
	}
	if err := h.attach(opts); err != nil {
		return nil, errors.Join(unavailable("attach the HTTP probe", err, needs...), h.Close())
	}
	return h, nil
}

func (h *HTTP) load(k *Kernel, opts HTTPOptions) error {
	types, err := k.types()
	if err != nil {
		return err
	}
	if err := requireFields(types, httpFields); err != nil {
		return err
	}
	spec, err := gen.LoadHTTP()
	if err != nil {
		return err
	}
	if err := setVariables(spec, map[string]any{
		gen.HTTPVarOnlyNetns:  opts.OnlyNetns,
		gen.HTTPVarSets:       boolean(opts.Sets != nil),
		gen.HTTPVarObjectives: boolean(opts.Sets.steps() > 0),
		gen.HTTPVarCells:      boolean(opts.Sets.cells() > 0),
	}); err != nil {
		return err
	}
	opts.Sets.size(spec.Maps)
	h.cellCount = opts.Sets.cells()
	if h.cpus, err = ebpf.PossibleCPU(); err != nil {
		return err
	}
	spec.Maps[gen.HTTPMapHttpRun].MaxEntries = uint32(h.cpus)

	in, out := gen.HTTPProgHttpIngress, gen.HTTPProgHttpEgress
	unused := []string{gen.HTTPProgHttpTcxIn, gen.HTTPProgHttpTcxOut}
	if opts.Cgroup == "" {
		in, out, unused[0], unused[1] = unused[0], unused[1], in, out
	}
	for _, name := range unused {
		delete(spec.Programs, name)
	}
	httpWalker.choose(k, spec)
	h.walk = k.walking()
	if h.collection, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: k.cache}); err != nil {
		return err
	}
	h.in, h.out = h.collection.Programs[in], h.collection.Programs[out]
	return errors.Join(opts.Sets.fill(h.collection.Maps), h.prepare())
}

// httpWalker closes responses.
var httpWalker = walker{gen.HTTPProgHttpFlush, gen.HTTPProgHttpFlushFiles, gen.HTTPMapHttpConns}

// httpFields are the fields that http.bpf.c reads and some kernels may lack.
var httpFields = []field{
	{"tcp_sock", "bytes_sent", ""},
	{"tcp_sock", "bytes_received", ""},
	{"tcp_sock", "lsndtime", ""},
	{"tcp_sock", "rcv_nxt", ""},
	{"ns_common", "inum", ""},
	{"sock", "sk_cgrp_data", "CONFIG_SOCK_CGROUP_DATA=y"},
	{"sock_cgroup_data", "cgroup", ""},
}

// prepare fills the queues of free slots and cells and maps what is read.
func (h *HTTP) prepare() error {
	maps := h.collection.Maps
	for slot := uint32(1); slot < HTTPSlots; slot++ {
		if err := maps[gen.HTTPMapHttpFree].Put(nil, slot); err != nil {
			return fmt.Errorf("fill the queue of free slots: %w", err)
		}
	}
	for cell := range uint32(h.cellCount) {
		if err := maps[gen.HTTPMapHttpFreeCells].Put(nil, cell); err != nil {
			return fmt.Errorf("fill the queue of free cells: %w", err)
		}
	}
	for name, memory := range map[string]**ebpf.Memory{
		gen.HTTPMapHttpServices: &h.services,
		gen.HTTPMapHttpLoss:     &h.losses,
		gen.HTTPMapHttpRun:      &h.runs,

		gen.HTTPMapHttpEventCounts: &h.events,
		gen.HTTPMapHttpEventTimes:  &h.times,
		gen.HTTPMapHttpCellCounts:  &h.cells,
	} {
		var err error
		if *memory, err = maps[name].Memory(); err != nil {
			return err
		}
	}
	return nil
}

// attach attaches egress before ingress: a response whose request passed in between is unknown then, and not a request
// without an end.
func (h *HTTP) attach(opts HTTPOptions) error {
	if opts.Cgroup != "" {
		for _, direction := range []link.CgroupOptions{
			{Path: opts.Cgroup, Attach: ebpf.AttachCGroupInetEgress, Program: h.out},
			{Path: opts.Cgroup, Attach: ebpf.AttachCGroupInetIngress, Program: h.in},
		} {
			l, err := link.AttachCgroup(direction)
			if err != nil {
				return fmt.Errorf("cgroup %s: %w", opts.Cgroup, err)
			}
			h.links = append(h.links, l)
		}
	}
	var err error
	h.flush, err = httpWalker.attach(h.collection)
	return err
}

// AttachInterface attaches a probe that was made without a cgroup to an interface of the caller's network namespace
// whose frames have Ethernet headers; the loopback interface is one. It needs Linux 6.6. The links go with the
// interface.
func (h *HTTP) AttachInterface(index int) error {
	for _, direction := range []link.TCXOptions{
		{Interface: index, Attach: ebpf.AttachTCXEgress, Program: h.out},
		{Interface: index, Attach: ebpf.AttachTCXIngress, Program: h.in},
	} {
		l, err := link.AttachTCX(direction)
		if err != nil {
			return unavailable(fmt.Sprintf("attach the HTTP probe to interface %d", index), err, capBPF, capNetAdmin)
		}
		h.links = append(h.links, l)
	}
	return nil
}

// Qualify adds to a verdict what the probe lacks on this kernel.
func (h *HTTP) Qualify(v verdict.Verdict) verdict.Verdict { return h.walk.qualify(v) }

// Programs returns the programs that run for every packet.
func (h *HTTP) Programs() []*ebpf.Program {
	return []*ebpf.Program{h.in, h.out}
}

// Counts returns how often the programs ran since they were attached, and what a sample of the runs took.
func (h *HTTP) Counts() (c Counts) {
	var r gen.HTTPHttpRuns
	for cpu := range h.cpus {
		if readStruct(h.runs, cpu, &r) == nil {
			c.Runs += r.Runs
			c.TimedRuns += r.TimedRuns
			c.TimedNS += r.TimedNs
		}
	}
	return c
}

// Memory returns what the maps of the probe take of the kernel's memory, in bytes.
func (h *HTTP) Memory() uint64 { return mapMemory(h.collection, nil) }

// Flush closes the responses that had no new byte for a second: their durations are in the histograms afterwards. It
// costs about 1 us per open connection.
func (h *HTTP) Flush() error {
	if err := iterate(h.flush); err != nil {
		return fmt.Errorf("iterate over connections: %w", err)
	}
	return nil
}

// InUse says whether the slot belongs to a service, and returns the generation of its owner: when that differs from
// an earlier one, the slot changed hands. It copies 24 bytes.
func (h *HTTP) InUse(slot int) (generation uint32, ok bool) {
	var head struct {
		_          HTTPKey
		Generation uint32
		_          uint32
	}
	if readAt(h.services, slot*int(unsafe.Sizeof(HTTPService{})), &head) != nil {
		return 0, false
	}
	return head.Generation, head.Generation%2 == 1
}

// Service copies the counts of a slot, 16 KiB, into s.
func (h *HTTP) Service(slot int, s *HTTPService) error {
	return readStruct(h.services, slot, s)
}

// Losses copies the counts of connections without a service into l.
func (h *HTTP) Losses(l *HTTPLosses) error { return readStruct(h.losses, 0, l) }

// Retire gives up the service in a slot: its counts are cleared and the slot is free for another. Connections that
// still belong to it are not counted any more.
func (h *HTTP) Retire(slot int) error {
	var s HTTPService
	if err := h.Service(slot, &s); err != nil {
		return err
	}
	if err := h.collection.Maps[gen.HTTPMapHttpSlots].Delete(&s.Key); err != nil {
		return fmt.Errorf("retire slot %d: %w", slot, err)
	}
	empty := HTTPService{Generation: s.Generation + 1}
	if err := h.collection.Maps[gen.HTTPMapHttpServices].Put(uint32(slot), &empty); err != nil {
		return fmt.Errorf("retire slot %d: %w", slot, err)
	}
	if err := h.clearEvents(slot); err != nil {
		return err
	}
	return h.collection.Maps[gen.HTTPMapHttpFree].Put(nil, uint32(slot))
}

// Close detaches and unloads the probe.
func (h *HTTP) Close() error {
	var errs []error
	for _, l := range h.links {
		errs = append(errs, l.Close())
	}
	if h.flush != nil {
		errs = append(errs, h.flush.Close())
	}
	if h.collection != nil {
		h.collection.Close()
	}
	return errors.Join(errs...)
}

// readStruct copies element i of an array map, whose elements are T, into dst.
func readStruct[T any](m *ebpf.Memory, i int, dst *T) error {
	return readAt(m, i*int(unsafe.Sizeof(*dst)), dst)
}

// readAt copies a T from a place in a memory-mapped map. T has no pointers and no padding.
func readAt[T any](m *ebpf.Memory, off int, dst *T) error {
	if m == nil {
		return os.ErrClosed
	}
	_, err := m.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(dst)), unsafe.Sizeof(*dst)), int64(off))
	return err
}

// iterate runs an iterator that prints nothing. It takes three system calls and allocates nothing.
func iterate(iter *link.Iter) error {
	fd, err := iterCreate(iter)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var buf [64]byte // reading runs it
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case err != nil:
			return err
		case n == 0:
			return nil
		}
	}
}

// iterCreate opens an iterator for one pass (bpf(2), BPF_ITER_CREATE). link.Iter.Open does the same with several
// allocations, and this runs on every tick.
func iterCreate(iter *link.Iter) (int, error) {
	const bpfIterCreate = 33
	attr := struct{ linkFD, flags uint32 }{linkFD: uint32(iter.FD())}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, bpfIterCreate, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
