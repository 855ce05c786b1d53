//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * The life of control groups: a group that is made inherits the slot of the one above it before anything can run in it,
 * and user space learns its name when it next looks; a group that is removed is forgotten. So events of groups that
 * live for a moment only belong to the unit or slice around them, and cost user space next to nothing.
 *
 * Hooks: tp_btf/cgroup_mkdir and cgroup_rmdir, of the cgroup2 tree. They fire for each group made or removed: some
 * microseconds in operations that take hundreds.
 */
#include "core.h"
#include "cgroup.h"
#include "owner.h"

#define OWNER_NAME   256 /* longest name of a directory, with its end (NAME_MAX) */
#define OWNER_EVENTS (128 << 10)

/* What user space learns of a group. */
struct owner_event {
	u64 group;
	u64 parent; /* 0: the group was removed */
	char name[OWNER_NAME];
};

/* owner_events is read when user space looks; nothing is woken up. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, OWNER_EVENTS);
} owner_events SEC(".maps");

/* What could not be kept. */
struct owner_losses {
	u64 events; /* that found no room; user space reads the whole tree then */
	u64 groups; /* that found no room in owner_groups: their events belong to nobody */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct owner_losses);
} owner_lost SEC(".maps");

static __always_inline void owner_lose(bool group)
{
	u32 zero = 0;
	struct owner_losses *l = bpf_map_lookup_elem(&owner_lost, &zero);

	if (l)
		__sync_fetch_and_add(group ? &l->groups : &l->events, 1);
}

static __always_inline void owner_tell(struct owner_event *event, u32 size)
{
	if (bpf_ringbuf_output(&owner_events, event, size, BPF_RB_NO_WAKEUP))
		owner_lose(false);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(owner_mkdir, struct cgroup *cgroup)
{
	struct owner_event event = {};
	long size;
	u32 slot;

	if (cgroup->root->hierarchy_id)
		return 0; /* a group of version 1, whose ids are others */
	event.group = cgroup->kn->id;
	event.parent = cgroup->self.parent->cgroup->kn->id;
	slot = owner_of(event.parent);
	if (bpf_map_update_elem(&owner_groups, &event.group, &slot, BPF_ANY))
		owner_lose(true);
	size = bpf_probe_read_kernel_str(event.name, sizeof(event.name), cgroup->kn->name);
	if (size < 0)
		size = 0; /* user space sees a group without a name, and reads the tree */
	owner_tell(&event, offsetof(struct owner_event, name) + size);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(owner_rmdir, struct cgroup *cgroup)
{
	struct owner_event event = {};
	u64 parent;

	if (cgroup->root->hierarchy_id)
		return 0;
	event.group = cgroup->kn->id;
	parent = cgroup->self.parent->cgroup->kn->id;
	/* One with a slot of its own keeps it until user space has read it: I/O of it may still be under way. */
	if (owner_of(event.group) == owner_of(parent))
		bpf_map_delete_elem(&owner_groups, &event.group);
	owner_tell(&event, offsetof(struct owner_event, name));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
