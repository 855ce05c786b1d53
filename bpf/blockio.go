package bpf

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
)

// BlockIOOptions are what the probe needs to know of the machine.
type BlockIOOptions struct {
	Disks int  // how many there are at present; twice as many have room
	Owned bool // control groups of the cgroup2 tree tell whose a request is

	untold bool // do without the kernel's account of when the driver got a request; for tests
}

// A BlockDirection is what a request does to a disk.
type BlockDirection uint8

// The directions, as the kernel numbers them in its tables. Owners have those before BlockDiscard.
const (
	BlockRead BlockDirection = iota
	BlockWrite
	BlockFlush
	BlockDiscard
	blockDirections
)

// String returns the direction as disk.io.direction has it.
func (d BlockDirection) String() string {
	return [...]string{"read", "write", "flush", "discard"}[d%blockDirections]
}

// BlockIOCounts is what the probe counted of a disk and direction. Durations are sums over CPUs; a request is in Total
// and, if the time is known at which the driver got it, in Queue and Device.
type BlockIOCounts struct {
	Total, Queue, Device Hist
	Errors, Untimed      uint64
}

// BlockIOOwned is what the probe counted for an owner, by direction: the whole time of requests to disks of hardware.
type BlockIOOwned struct{ Time [BlockDiscard]Hist }

// A BlockDisk says which disk and direction a slot is of.
type BlockDisk struct {
	Name      string
	Sequence  uint64 // number of the disk that no other gets, see /sys/block/NAME/diskseq; 0: nobody's slot
	Direction BlockDirection
	Bios      bool // its bios are counted, since it makes no requests
	Stacked   bool // it has no hardware of its own
}

// blockIODisk is struct blockio_disk (bpf/blockio.bpf.c).
type blockIODisk struct {
	Sequence, Tag uint64
	Name          [4]uint64 // bytes
}

// BlockIOOthers is how many slots, the first, are of disks that found no other, by direction and kind.
const BlockIOOthers = 8

// What beside the direction is in a tag: see bpf/blockio.bpf.c.
const (
	blockIOBios    = 4
	blockIOStacked = 8
	blockIOFull    = 0 // the slot whose tag says that there is none left
)

const (
	// leastDisks and mostDisks bound for how many disks there is room.
	leastDisks, mostDisks = 8, 128
	// blockIODirections is how many directions a disk has slots for, in the mean.
	blockIODirections = 3
	// leastBios and biosPerCPU say how many bios may be under way: the kernel hands out room for them by the CPU.
	leastBios, biosPerCPU = 2048, 128
)

// What the probe attaches only if a disk needs it: see Probe.Extend.
const (
	BlockIOIssue = iota // requests come without the time at which the driver got them
	BlockIOBios         // there are disks that make no requests
)

// BlockIO is the probe that measures how long block requests take. See blockio.bpf.c. It takes 6.1 KB for each disk,
// direction and shard, and the same for each owner and shard.
type BlockIO struct {
	*Probe
	Owners Table[BlockIOOwned]
	counts Table[BlockIOCounts]
	disks  Table[blockIODisk]
	refs   *ebpf.Map
	free   *ebpf.Map
}

// blockIORungs are the ways to measure requests.
func blockIORungs() []rung {
	const hook, modern = "tp_btf/block_rq_complete", "Linux 5.15 or later"
	only := rung{
		hook:     hook,
		programs: []string{gen.BlockioProgBlockioDone},
		fields: []field{
			{"request", "start_time_ns", "CONFIG_BLOCK=y"},
			{"request_queue", "disk", modern},
			{"gendisk", "diskseq", modern},
			{"block_device", "bd_device", modern},
		},
		tracepoints: []tracepoint{{"block_rq_complete", []string{"request", "", ""}}},
	}
	best := only
	best.extras = []extra{
		BlockIOIssue: {
			hook:        "block_rq_issue",
			programs:    []string{gen.BlockioProgBlockioIssue},
			tracepoints: []tracepoint{{"block_rq_issue", []string{"request"}}},
		},
		BlockIOBios: {
			hook:     "block_bio_queue, block_bio_complete",
			programs: []string{gen.BlockioProgBlockioQueue, gen.BlockioProgBlockioBio},
			tracepoints: []tracepoint{
				{"block_bio_queue", []string{"bio"}}, {"block_bio_complete", []string{"request_queue", "bio"}},
			},
		},
	}
	only.lacks = "disks that make no requests (dm, md) are not measured, nor how long the device took where the kernel " +
		"does not keep that"
	return []rung{best, only}
}

// NewBlockIO loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something, the error is a *verdict.UnavailableError.
func NewBlockIO(k *Kernel, opts BlockIOOptions) (*BlockIO, error) {
	return newBlockIO(k, opts, blockIORungs())
}

func newBlockIO(k *Kernel, opts BlockIOOptions, rungs []rung) (*BlockIO, error) {
	slots, owners := BlockIOOthers+blockIODirections*min(max(2*opts.Disks, leastDisks), mostDisks), 1
	if opts.Owned {
		owners = k.slots()
	}
	filled := false
	d := design{
		name: "the block I/O probe", spec: gen.LoadBlockio, needs: []capability{capBPF, capPerfmon}, rungs: rungs,
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			filled = false
			return errors.Join(
				sizeBlockIO(spec, slots, owners, owners > 1),
				setVariables(spec, map[string]any{gen.BlockioVarUntold: opts.untold}))
		},
		attaching: func(p *Probe) error {
			defer func() { filled = true }()
			return prepareBlockIO(p, slots, !filled)
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	maps := p.collection.Maps
	b := &BlockIO{Probe: p, refs: maps[gen.BlockioMapBlockioRefs], free: maps[gen.BlockioMapBlockioFree]}
	var errs [3]error
	b.counts, errs[0] = openTable[BlockIOCounts](maps[gen.BlockioMapBlockioTable], slots)
	b.disks, errs[1] = openTable[blockIODisk](maps[gen.BlockioMapBlockioDisks], slots)
	b.Owners, errs[2] = openTable[BlockIOOwned](maps[gen.BlockioMapBlockioOwners], owners)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(unavailable("read the block I/O probe", err, d.needs...), p.Close())
	}
	return b, nil
}

// sizeBlockIO sets the sizes of the probe's maps.
func sizeBlockIO(spec *ebpf.CollectionSpec, slots, owners int, owned bool) error {
	cpus := int(spec.Maps[probeCPUs].MaxEntries)
	for _, name := range []string{
		gen.BlockioMapBlockioDisks, gen.BlockioMapBlockioFree, gen.BlockioMapBlockioRefs,
	} {
		spec.Maps[name].MaxEntries = uint32(slots)
	}
	spec.Maps[gen.BlockioMapBlockioBios].MaxEntries = uint32(max(leastBios, biosPerCPU*cpus))
	table := spec.Maps[gen.BlockioMapBlockioTable]
	shards := tableShards(slots*int(table.ValueSize), cpus)
	table.MaxEntries = uint32(slots * shards)
	ownerTable := spec.Maps[gen.BlockioMapBlockioOwners]
	return errors.Join(
		sizeTable(spec, ownerTable.Name, owners, tableShards(owners*int(ownerTable.ValueSize), cpus)),
		setVariables(spec, map[string]any{
			gen.BlockioVarOwned: owned, gen.BlockioVarDiskSlots: uint32(slots), gen.BlockioVarDiskShards: uint32(shards),
		}))
}

// prepareBlockIO tells the programs when they were attached, and at first which slots are free.
func prepareBlockIO(p *Probe, slots int, first bool) error {
	free := p.collection.Maps[gen.BlockioMapBlockioFree]
	for slot := uint32(BlockIOOthers); first && slot < uint32(slots); slot++ {
		if err := free.Put(nil, slot); err != nil {
			return fmt.Errorf("hand out slots for disks: %w", err)
		}
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return p.collection.Variables[gen.BlockioVarBlockioSince].Set(uint64(now.Nano()))
}

// Slots returns the number of slots of disks and directions. The first are of those that found no slot of their own.
func (b *BlockIO) Slots() int { return b.counts.Slots() }

// Sequence returns the number of the disk that a slot is of; 0: of none. It takes no system call and allocates nothing,
// as Read.
func (b *BlockIO) Sequence(slot int) uint64 {
	var d blockIODisk
	if slot < BlockIOOthers || b.disks.Read(slot, &d) != nil {
		return 0
	}
	return d.Sequence
}

// Disk returns what a slot is of. Of the disks without a slot of their own neither name nor kind is known.
func (b *BlockIO) Disk(slot int) (BlockDisk, error) {
	if slot < BlockIOOthers {
		return BlockDisk{Direction: BlockDirection(slot) % blockDirections, Bios: slot&blockIOBios != 0}, nil
	}
	var d blockIODisk
	if err := b.disks.Read(slot, &d); err != nil {
		return BlockDisk{}, err
	}
	name, _, _ := bytes.Cut(asBytes(d.Name[:]), []byte{0})
	return BlockDisk{
		Name: string(name), Sequence: d.Sequence, Direction: BlockDirection(d.Tag) % blockDirections,
		Bios: d.Tag&blockIOBios != 0, Stacked: d.Tag&blockIOStacked != 0,
	}, nil
}

// Read stores what was counted in a slot in dst.
func (b *BlockIO) Read(slot int, dst *BlockIOCounts) error { return b.counts.Read(slot, dst) }

// Forget makes the kernel forget which slot a disk and direction has. Programs that run may still count in it.
func (b *BlockIO) Forget(d BlockDisk) error {
	err := b.refs.Delete(d.Sequence<<2 | uint64(d.Direction))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("take the slot from a disk: %w", err)
	}
	return nil
}

// Free gives a slot back whose disk is forgotten and that nobody writes to any more.
func (b *BlockIO) Free(slot int) error {
	if err := errors.Join(b.disks.Clear(slot), b.counts.Clear(slot)); err != nil {
		return err
	}
	if err := b.free.Put(nil, uint32(slot)); err != nil {
		return fmt.Errorf("give back the slot of a disk: %w", err)
	}
	return b.disks.Clear(blockIOFull)
}

// Full says whether a disk found no slot.
func (b *BlockIO) Full() bool {
	var d blockIODisk
	return b.disks.Read(blockIOFull, &d) == nil && d.Tag != 0
}
