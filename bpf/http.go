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

// HTTPOptions says where to count.
type HTTPOptions struct {
	Cgroup string // the cgroup2 directory whose sockets are counted: its root, for all
	// OnlyNetns restricts the count to one network namespace, by the inode number of /proc/PID/ns/net; 0 means all.
	OnlyNetns uint32
}

// HTTP is the loaded and attached probe that counts HTTP/1.x requests. It is not safe for concurrent use.
type HTTP struct {
	objects  gen.HTTPObjects
	links    []link.Link
	flush    *link.Iter
	services *ebpf.Memory
	losses   *ebpf.Memory
	runs     *ebpf.Memory
	cpus     int
}

// NewHTTP loads the probe and attaches it. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; without, or on a kernel
// that lacks something, the error is a *verdict.UnavailableError.
func NewHTTP(opts HTTPOptions) (*HTTP, error) {
	h := &HTTP{}
	if err := h.load(opts); err != nil {
		h.Close()
		return nil, unavailable("load", err, capBPF, capPerfmon, capNetAdmin)
	}
	if err := h.attach(opts.Cgroup); err != nil {
		h.Close()
		return nil, unavailable("attach to "+opts.Cgroup, err, capBPF, capPerfmon, capNetAdmin)
	}
	return h, nil
}

func (h *HTTP) load(opts HTTPOptions) error {
	spec, err := gen.LoadHTTP()
	if err != nil {
		return err
	}
	if err := spec.Variables[gen.HTTPVarOnlyNetns].Set(opts.OnlyNetns); err != nil {
		return err
	}
	if h.cpus, err = ebpf.PossibleCPU(); err != nil {
		return err
	}
	spec.Maps[gen.HTTPMapHttpRun].MaxEntries = uint32(h.cpus)
	if err := spec.LoadAndAssign(&h.objects, nil); err != nil {
		return err
	}
	for slot := uint32(1); slot < HTTPSlots; slot++ {
		if err := h.objects.HttpFree.Put(nil, slot); err != nil {
			return fmt.Errorf("fill the queue of free slots: %w", err)
		}
	}
	for _, m := range []struct {
		dst  **ebpf.Memory
		from *ebpf.Map
	}{{&h.services, h.objects.HttpServices}, {&h.losses, h.objects.HttpLoss}, {&h.runs, h.objects.HttpRun}} {
		if *m.dst, err = m.from.Memory(); err != nil {
			return err
		}
	}
	return nil
}

func (h *HTTP) attach(cgroup string) error {
	// Egress first: a response whose request passed in between is then unknown, not a request without an end.
	for _, a := range []struct {
		typ  ebpf.AttachType
		prog *ebpf.Program
	}{{ebpf.AttachCGroupInetEgress, h.objects.HttpEgress}, {ebpf.AttachCGroupInetIngress, h.objects.HttpIngress}} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: a.typ, Program: a.prog})
		if err != nil {
			return err
		}
		h.links = append(h.links, l)
	}
	var err error
	h.flush, err = link.AttachIter(link.IterOptions{Program: h.objects.HttpFlush, Map: h.objects.HttpConns})
	return err
}

// Programs returns the programs that run for every packet.
func (h *HTTP) Programs() []*ebpf.Program {
	return []*ebpf.Program{h.objects.HttpIngress, h.objects.HttpEgress}
}

// Counts returns how often the programs ran since they were attached, and what a sample of the runs took.
func (h *HTTP) Counts() (c Counts) {
	var r gen.HTTPHttpRuns
	for cpu := range h.cpus {
		if readStruct(h.runs, cpu, &r) == nil {
			c.Runs += r.Runs
			c.TimedRuns += r.Sampled
			c.TimedNS += r.SampledNs
		}
	}
	return c
}

// Flush closes the responses that had no new byte for a second: their durations are in the histograms afterwards. It
// costs about 1 us per open connection.
func (h *HTTP) Flush() error {
	fd, err := iterCreate(h.flush)
	if err != nil {
		return fmt.Errorf("open the iterator over connections: %w", err)
	}
	defer unix.Close(fd)
	var buf [64]byte // the iterator prints nothing; reading runs it
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case err != nil:
			return fmt.Errorf("iterate over connections: %w", err)
		case n == 0:
			return nil
		}
	}
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
	if err := h.objects.HttpSlots.Delete(&s.Key); err != nil {
		return fmt.Errorf("retire slot %d: %w", slot, err)
	}
	empty := HTTPService{Generation: s.Generation + 1}
	if err := h.objects.HttpServices.Put(uint32(slot), &empty); err != nil {
		return fmt.Errorf("retire slot %d: %w", slot, err)
	}
	return h.objects.HttpFree.Put(nil, uint32(slot))
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
	errs = append(errs, h.objects.Close())
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
