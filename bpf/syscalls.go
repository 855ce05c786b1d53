package bpf

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
)

const (
	// MaxSyscalls is how many system calls the probe tells apart.
	MaxSyscalls = 32
	// SyscallErrors is how many error numbers it tells apart, those of Linux.
	SyscallErrors = 134

	syscallNumbers = 512 // SYSCALLS_NUMBERS of syscalls.bpf.c
	syscallRestart = 255 // SYSCALLS_RESTART
)

// SyscallsOptions says what the probe records.
type SyscallsOptions struct {
	// Numbers are those of the calls, at most MaxSyscalls, on the machine's own architecture.
	Numbers  []uint32
	OnlyTGID uint32 // the process whose threads alone are recorded; 0 means all
}

// SyscallCounts is what the probe counted of a call.
type SyscallCounts struct {
	Duration Hist                  // from entry to return, failed calls included
	Errors   [SyscallErrors]uint64 // failed calls by error number; 0: those that Linux programs should not see
}

// SyscallSums is what the probe counted for an owner, by call in the order of SyscallsOptions.Numbers.
type SyscallSums struct {
	Calls, TimeNS, Errors [MaxSyscalls]uint64
}

// Syscalls is the probe that measures system calls. See syscalls.bpf.c. It takes 768 bytes for each owner and 101 KB
// for all calls, for each shard; and some 100 bytes for each task that made a wanted call.
//
// It makes every system call of the host take longer, whether wanted or not, beyond the time of its programs.
type Syscalls struct {
	*Probe
	Table[SyscallSums]                      // a slot for each owner
	Calls              Table[SyscallCounts] // of the host, a slot for each call
}

// NewSyscalls loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something, the error is a *verdict.UnavailableError.
func NewSyscalls(k *Kernel, opts SyscallsOptions) (*Syscalls, error) {
	wanted, err := syscallSlots(opts.Numbers)
	if err != nil {
		return nil, err
	}
	slots := k.slots()
	d := design{
		name: "the system-call probe", spec: gen.LoadSyscalls, needs: []capability{capBPF, capPerfmon},
		rungs: []rung{{
			hook:     "tp_btf/sys_enter, sys_exit",
			programs: []string{gen.SyscallsProgSyscallsExit, gen.SyscallsProgSyscallsEnter},
			fields:   []field{{"task_struct", "thread_info", "CONFIG_THREAD_INFO_IN_TASK=y"}},
			tracepoints: []tracepoint{
				{"sys_enter", []string{"pt_regs", ""}}, {"sys_exit", []string{"pt_regs", ""}},
			},
		}},
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			cpus := int(spec.Maps[probeCPUs].MaxEntries)
			table, host := spec.Maps[gen.SyscallsMapSyscallsTable], spec.Maps[gen.SyscallsMapSyscallsHost]
			shards := tableShards(slots*int(table.ValueSize)+MaxSyscalls*int(host.ValueSize), cpus)
			host.MaxEntries = uint32(MaxSyscalls * shards)
			return errors.Join(
				sizeTable(spec, table.Name, slots, shards),
				setVariables(spec, map[string]any{
					gen.SyscallsVarSyscallsSlots: wanted, gen.SyscallsVarSyscallsCompat: compatFlags(),
					gen.SyscallsVarOnlyTgid: opts.OnlyTGID,
				}))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err1 := openTable[SyscallSums](p.collection.Maps[gen.SyscallsMapSyscallsTable], slots)
	calls, err2 := openTable[SyscallCounts](p.collection.Maps[gen.SyscallsMapSyscallsHost], MaxSyscalls)
	if err := errors.Join(err1, err2); err != nil {
		return nil, errors.Join(unavailable("read the system-call probe", err, d.needs...), p.Close())
	}
	return &Syscalls{p, table, calls}, nil
}

// syscallSlots returns one more than the slot of each call, by number.
func syscallSlots(numbers []uint32) (slots [syscallNumbers]uint8, err error) {
	if len(numbers) > MaxSyscalls {
		return slots, fmt.Errorf("%d system calls are wanted, at most %d can be told apart", len(numbers), MaxSyscalls)
	}
	slots[unix.SYS_RESTART_SYSCALL] = syscallRestart
	for i, n := range numbers {
		if n >= syscallNumbers || slots[n] != 0 {
			return slots, fmt.Errorf("the system call of number %d cannot be told apart from others", n)
		}
		slots[n] = uint8(i + 1)
	}
	return slots, nil
}

// compatFlags returns the bit of thread_info.flags that a 32-bit program has, where the architecture has one. Those of
// x86 are told by another field.
func compatFlags() uint64 {
	if runtime.GOARCH == "arm64" {
		return 1 << 22 // TIF_32BIT (arch/arm64/include/asm/thread_info.h)
	}
	return 0
}
