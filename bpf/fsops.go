package bpf

import (
	"bytes"
	"errors"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// Operations on filesystems: the indexes of FSOpsCounts.
const (
	FSRead = iota
	FSWrite
	FSOpen
	FSFsync
	FSGetattr
	FSOperations
)

// FSTypes is how many types of filesystems are told apart. The slot behind them takes all others.
const FSTypes = 16

// FSOpsOptions narrows what the probe records.
type FSOpsOptions struct {
	OnlyTGID uint32 // the process whose threads alone are recorded; 0 means all
}

// FSOpsCounts is what the probe counted for a type of filesystems, by operation.
type FSOpsCounts [FSOperations]Hist

// fsType is struct fsops_type (bpf/fsops.bpf.c).
type fsType struct {
	Type, LeftOut uint64
	Name          [2]uint64 // 16 bytes
}

// FSOps is the probe that measures operations on filesystems. See fsops.bpf.c. It takes 176 KB for each shard, and some
// 200 bytes for each task that makes operations.
type FSOps struct {
	*Probe
	Table[FSOpsCounts] // a slot for each type
	types              Table[fsType]
}

// fsOpsRungs are the ways to measure operations.
func fsOpsRungs() []rung {
	few := rung{
		hook: "fentry and fexit of vfs_read, vfs_write, do_filp_open, vfs_fsync_range, vfs_getattr_nosec",
		// The ends first: no begin waits for an end that nobody sees.
		programs: []string{
			gen.FsopsProgFsopsReadend, gen.FsopsProgFsopsWriteend, gen.FsopsProgFsopsOpenend,
			gen.FsopsProgFsopsFsyncend, gen.FsopsProgFsopsAttrend,
			gen.FsopsProgFsopsRead, gen.FsopsProgFsopsWrite, gen.FsopsProgFsopsOpen,
			gen.FsopsProgFsopsFsync, gen.FsopsProgFsopsAttr,
		},
		functions: []string{"vfs_read", "vfs_write", "do_filp_open", "vfs_fsync_range", "vfs_getattr_nosec"},
		lacks:     "readv and writev are not seen",
	}
	all := rung{
		hook: "fentry and fexit of vfs_read, vfs_readv, vfs_write, vfs_writev, do_filp_open, vfs_fsync_range, " +
			"vfs_getattr_nosec",
		programs: append([]string{
			gen.FsopsProgFsopsReadvend, gen.FsopsProgFsopsWritevend, gen.FsopsProgFsopsReadv, gen.FsopsProgFsopsWritev,
		}, few.programs...),
		functions: append([]string{"vfs_readv", "vfs_writev"}, few.functions...),
	}
	return []rung{all, few}
}

// NewFSOps loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON, and a kernel whose policy lets programs
// into its functions. Without them, or on a kernel that lacks something, the error is a *verdict.UnavailableError.
func NewFSOps(k *Kernel, opts FSOpsOptions) (*FSOps, error) {
	d := design{
		name: "the filesystem probe", spec: gen.LoadFsops, needs: []capability{capBPF, capPerfmon}, rungs: fsOpsRungs(),
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			table := spec.Maps[gen.FsopsMapFsopsTable]
			shards := tableShards((FSTypes+1)*int(table.ValueSize), int(spec.Maps[probeCPUs].MaxEntries))
			return errors.Join(
				sizeTable(spec, table.Name, FSTypes+1, shards),
				setVariables(spec, map[string]any{gen.FsopsVarOnlyTgid: opts.OnlyTGID}))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err1 := openTable[FSOpsCounts](p.collection.Maps[gen.FsopsMapFsopsTable], FSTypes+1)
	types, err2 := openTable[fsType](p.collection.Maps[gen.FsopsMapFsopsTypes], FSTypes)
	if err := errors.Join(err1, err2); err != nil {
		return nil, errors.Join(unavailable("read the filesystem probe", err, d.needs...), p.Close())
	}
	return &FSOps{p, table, types}, nil
}

// Type returns the name of the type that a slot belongs to, as in /proc/filesystems and at most 15 bytes long, or "" if
// it is free. The slot behind all types is _OTHER, as semantic conventions call the rest. A slot stays with its
// type.
func (f *FSOps) Type(slot int) (string, error) {
	if slot == FSTypes {
		return "_OTHER", nil
	}
	var t fsType
	if err := f.types.Read(slot, &t); err != nil || t.LeftOut != 0 {
		return "", err
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&t.Name)), unsafe.Sizeof(t.Name))
	name, _, _ := bytes.Cut(b, []byte{0})
	return string(name), nil
}
