/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who an event belongs to: the systemd unit or container, given as a slot in the probe's table. User space hands the
 * slots out; owner.bpf.c lets a new group inherit the slot of the one above it at once. All probes share the map.
 */
#ifndef SLID_OWNER_H
#define SLID_OWNER_H

#include "core.h"

#define OWNER_GROUPS 16384 /* control groups that are told apart */
#define OWNER_REST   0     /* slot of everything that has no other */

/* owner_groups has the slot of each control group of the cgroup2 tree, by its id, the inode number of its directory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, OWNER_GROUPS);
	__type(key, u64);
	__type(value, u32);
} owner_groups SEC(".maps");

/* owner_of returns the slot of a control group. It takes some 20 ns. */
static __always_inline u32 owner_of(u64 cgroup)
{
	u32 *slot = bpf_map_lookup_elem(&owner_groups, &cgroup);

	return slot ? *slot : OWNER_REST;
}

/* owner_current returns the slot of the running task. */
static __always_inline u32 owner_current(void)
{
	return owner_of(bpf_get_current_cgroup_id());
}

#endif
