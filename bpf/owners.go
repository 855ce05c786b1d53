package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
)

// OwnersHook is where the kernel tells of control groups.
const OwnersHook = "tp_btf/cgroup_mkdir"

// MaxGroups is how many control groups the kernel tells apart at a time.
const MaxGroups = 16384

// RestSlot takes the events of everything that has no slot of its own.
const RestSlot = 0

// A GroupEvent says that a control group of the cgroup2 tree was made or removed. Groups go by their ids, the inode
// numbers of their directories.
type GroupEvent struct {
	Group  uint64
	Parent uint64 // of a new group; 0: the group was removed
	Name   string // of a new group: the last element of its path
}

// Owners tells the kernel which slot the events of a control group belong to. A group that is made inherits the slot of
// the one above it before anything can run in it. It takes 128 KiB for events and some 80 bytes for each group. It is
// not safe for concurrent use.
type Owners struct {
	*Probe
	groups *ebpf.Map
	events *ringbuf.Reader
	record ringbuf.Record
	losses Table[gen.OwnerOwnerLosses]
	slots  int
}

// NewOwners starts to watch the life of groups, for tables with the given number of slots. It needs CAP_BPF and
// CAP_PERFMON; without, the error is a *verdict.UnavailableError.
func NewOwners(k *Kernel, slots int) (*Owners, error) {
	d := design{
		name: "the attribution to control groups", spec: gen.LoadOwner, needs: []capability{capBPF, capPerfmon},
		rungs: []rung{{
			hook:     OwnersHook,
			programs: []string{gen.OwnerProgOwnerRmdir, gen.OwnerProgOwnerMkdir},
			fields:   []field{{"css_set", "dfl_cgrp", "CONFIG_CGROUPS=y"}},
			tracepoints: []tracepoint{
				{"cgroup_mkdir", []string{"cgroup"}}, {"cgroup_rmdir", []string{"cgroup"}},
			},
		}},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	o := &Owners{Probe: p, groups: p.collection.Maps[gen.OwnerMapOwnerGroups], slots: slots}
	if o.losses, err = openTable[gen.OwnerOwnerLosses](p.collection.Maps[gen.OwnerMapOwnerLost], 1); err != nil {
		return nil, errors.Join(unavailable("read the losses of control groups", err, d.needs...), p.Close())
	}
	if o.events, err = ringbuf.NewReader(p.collection.Maps[gen.OwnerMapOwnerEvents]); err != nil {
		return nil, errors.Join(unavailable("read the events of control groups", err, d.needs...), p.Close())
	}
	return o, nil
}

// Slots returns the number of slots, RestSlot included.
func (o *Owners) Slots() int { return o.slots }

// Assign makes the events of a group count in a slot.
func (o *Owners) Assign(group uint64, slot int) error {
	if err := o.groups.Put(group, uint32(slot)); err != nil {
		return fmt.Errorf("give a slot to a control group: %w", err)
	}
	return nil
}

// Forget makes the events of a group that is gone count as those of no group.
func (o *Owners) Forget(group uint64) error {
	if err := o.groups.Delete(group); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("take a slot from a control group: %w", err)
	}
	return nil
}

// Groups calls f for each group that the kernel knows. What f changes may be seen or not.
func (o *Owners) Groups(f func(group uint64, slot int)) error {
	var group uint64
	var slot uint32
	it := o.groups.Iterate()
	for it.Next(&group, &slot) {
		f(group, int(slot))
	}
	return it.Err()
}

// Events calls f for what happened since the last call, in order. It does not wait.
func (o *Owners) Events(f func(GroupEvent)) error {
	o.events.SetDeadline(time.Unix(1, 0)) // long ago: take what is there
	for {
		err := o.events.ReadInto(&o.record)
		switch {
		case err == nil:
			f(groupEvent(o.record.RawSample))
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("read the events of control groups: %w", err)
		}
	}
}

// groupEvent decodes struct owner_event (bpf/owner.bpf.c). A name that was cut off is empty.
func groupEvent(b []byte) (e GroupEvent) {
	if len(b) < 16 {
		return e
	}
	e.Group, e.Parent = binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])
	if name, _, ended := bytes.Cut(b[16:], []byte{0}); ended {
		e.Name = string(name)
	}
	return e
}

// Lost returns how many events found no room, and how many groups.
func (o *Owners) Lost() (events, groups uint64) {
	var l gen.OwnerOwnerLosses
	if o.losses.Read(0, &l) != nil {
		return 0, 0 // after Close
	}
	return l.Events, l.Groups
}

// Close ends the attribution. Probes that share it go on with what it last said.
func (o *Owners) Close() error { return errors.Join(o.events.Close(), o.Probe.Close()) }
