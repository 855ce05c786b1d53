package bpf

import (
	"errors"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// SoftIRQKinds is how many kinds of soft interrupts there are (NR_SOFTIRQS). They go by their numbers, which are the
// rows of /proc/softirqs.
const SoftIRQKinds = 10

// SoftIRQOptions narrows what the probe records.
type SoftIRQOptions struct {
	OnlyCPU uint32 // the number of the CPU that alone is recorded, plus 1; 0 means all
}

// SoftIRQCounts is what the probe counted for a kind of soft interrupts.
type SoftIRQCounts struct {
	Wait    Hist // from the first raise to the begin of the work
	Service Hist // from the begin to the end of the work
}

// SoftIRQ is the probe that measures how long soft interrupts wait and work. See softirq.bpf.c. The slots of its table
// are the kinds; it takes 41 KB for each CPU, as long as that is 1 MB at most, and 256 bytes.
type SoftIRQ struct {
	*Probe
	Table[SoftIRQCounts]
}

// NewSoftIRQ loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that
// lacks something, the error is a *verdict.UnavailableError.
func NewSoftIRQ(k *Kernel, opts SoftIRQOptions) (*SoftIRQ, error) {
	d := design{
		name: "the soft-interrupt probe", spec: gen.LoadSoftirq, needs: []capability{capBPF, capPerfmon},
		rungs: []rung{{
			hook: "tp_btf/softirq_raise, softirq_entry, softirq_exit",
			// The end first and the begin last: no begin waits for an end that nobody sees.
			programs: []string{
				gen.SoftirqProgSoftirqExit, gen.SoftirqProgSoftirqEntry, gen.SoftirqProgSoftirqRaise,
			},
			tracepoints: []tracepoint{
				{"softirq_raise", []string{""}}, {"softirq_entry", []string{""}}, {"softirq_exit", []string{""}},
			},
		}},
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			cpus := int(spec.Maps[probeCPUs].MaxEntries)
			spec.Maps[gen.SoftirqMapSoftirqCpus].MaxEntries = uint32(cpus)
			table := spec.Maps[gen.SoftirqMapSoftirqTable]
			shards := tableShards(SoftIRQKinds*int(table.ValueSize), cpus)
			return errors.Join(
				sizeTable(spec, table.Name, SoftIRQKinds, shards),
				setVariables(spec, map[string]any{
					gen.SoftirqVarExclusive: shards >= cpus, gen.SoftirqVarOnlyCpu: opts.OnlyCPU,
				}))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err := openTable[SoftIRQCounts](p.collection.Maps[gen.SoftirqMapSoftirqTable], SoftIRQKinds)
	if err != nil {
		return nil, errors.Join(unavailable("read the soft-interrupt probe", err, d.needs...), p.Close())
	}
	return &SoftIRQ{p, table}, nil
}
