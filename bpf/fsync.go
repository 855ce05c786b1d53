package bpf

import (
	"errors"
	"runtime"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// The kinds of durability waits: the indexes of FsyncCounts.Wait.
const (
	FsyncAll  = iota // fsync(2): data and all of the file's metadata
	FsyncData        // fdatasync(2): data, and what it takes to find it
)

// The errors that such waits end with: the indexes of FsyncCounts.Errors.
const (
	FsyncEIO    = iota
	FsyncENOSPC // no room on the file system
	FsyncEDQUOT // no room left of a quota
	FsyncOther  // any other, e.g. EINVAL for a pipe
)

// FsyncCounts is what the probe counted for an owner, and for a host when they are added up.
type FsyncCounts struct {
	Wait   [2]Hist
	Errors [4]uint64 // of these waits
}

// Fsync is the probe that measures how long tasks wait until their data is on disk. See fsync.bpf.c. It takes 4.2 KB for
// each owner, and some 100 bytes for each task that ever waited.
type Fsync struct {
	*Probe
	Table[FsyncCounts]
}

const (
	// What follows are indexes of fsyncRungs.
	fsyncRungAll   = 0
	fsyncRungMulti = 1
	fsyncRungAlone = 2
	fsyncRungExt4  = 3
	fsyncRungCalls = 4
)

// systemCall returns the name of the kernel's function of a system call for programs of 64 bits.
func systemCall(name string) string {
	if runtime.GOARCH == "amd64" {
		return "__x64_sys_" + name
	}
	return "__" + runtime.GOARCH + "_sys_" + name
}

// fsyncFunctions returns the functions of the kernel that programs measure at, and these by fentry and by kprobe.multi.
// Ends come before beginnings.
func fsyncFunctions() (functions, entries, probes []string) {
	const all = "vfs_fsync_range"
	fsync, fdatasync := systemCall("fsync"), systemCall("fdatasync")
	functions = []string{fsync, fdatasync, all, all, fsync, fdatasync}
	entries = []string{
		gen.FsyncProgFsyncSysEnd, gen.FsyncProgFsyncSysDend, gen.FsyncProgFsyncExit,
		gen.FsyncProgFsyncEnter, gen.FsyncProgFsyncSys, gen.FsyncProgFsyncSysData,
	}
	probes = []string{
		gen.FsyncProgFsyncProbeSend, gen.FsyncProgFsyncProbeDend, gen.FsyncProgFsyncProbeEnd,
		gen.FsyncProgFsyncProbe, gen.FsyncProgFsyncProbeSys, gen.FsyncProgFsyncProbeData,
	}
	return functions, entries, probes
}

// fsyncRungs are the ways to measure durability waits.
func fsyncRungs() []rung {
	functions, entries, probes := fsyncFunctions()
	hooks := "vfs_fsync_range, " + systemCall("fsync") + ", " + systemCall("fdatasync")
	fields := []field{{"file", "f_inode", ""}}
	multi, alone := byKprobes(rung{
		programs: probes, fields: fields, functions: functions,
		lacks: "runs take longer, and while more than twice as many tasks as CPUs wait, the kernel may not tell the end",
	}, hooks)
	return []rung{
		fsyncRungAll:   {hook: "fentry/" + hooks, programs: entries, fields: fields, functions: functions},
		fsyncRungMulti: multi,
		fsyncRungAlone: alone,
		fsyncRungExt4: {
			hook:     "tp_btf/ext4_sync_file_enter",
			programs: []string{gen.FsyncProgFsyncExt4End, gen.FsyncProgFsyncExt4},
			fields:   fields,
			tracepoints: []tracepoint{
				{"ext4_sync_file_enter", []string{"file", ""}}, {"ext4_sync_file_exit", []string{"inode", ""}},
			},
			lacks: "only file systems of the type ext4 are seen",
		},
		fsyncRungCalls: {
			hook: "tracepoint/syscalls/sys_enter_fsync, sys_enter_fdatasync",
			programs: []string{
				gen.FsyncProgFsyncCallEnd, gen.FsyncProgFsyncDataEnd, gen.FsyncProgFsyncCall, gen.FsyncProgFsyncData,
			},
			lacks: "only the system calls fsync and fdatasync of 64-bit programs are seen, not io_uring, O_SYNC or msync, " +
				"and every system call of the host takes somewhat longer",
		},
	}
}

// NewFsync loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something, the error is a *verdict.UnavailableError.
func NewFsync(k *Kernel) (*Fsync, error) { return newFsync(k, fsyncRungs()) }

func newFsync(k *Kernel, rungs []rung) (*Fsync, error) {
	d := design{
		name: "the fsync probe", spec: gen.LoadFsync, needs: []capability{capBPF, capPerfmon}, rungs: rungs,
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			functions, entries, probes := fsyncFunctions()
			for i, function := range functions {
				spec.Programs[entries[i]].AttachTo, spec.Programs[probes[i]].AttachTo = function, function
			}
			return sizeTable(spec, gen.FsyncMapFsyncTable, k.slots(), 1) // it takes long: CPUs share
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err := openTable[FsyncCounts](p.collection.Maps[gen.FsyncMapFsyncTable], k.slots())
	if err != nil {
		return nil, errors.Join(unavailable("read the fsync probe", err, d.needs...), p.Close())
	}
	return &Fsync{p, table}, nil
}
