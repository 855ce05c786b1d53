//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Direct reclaim: how long tasks of each unit or container are held up because they have to free memory themselves
 * before they get some. Either the host has none left and kswapd does not keep up (global), or a control group has
 * reached its memory.max or memory.high (cgroup).
 *
 * Hooks: tp_btf/mm_vmscan_direct_reclaim_begin and _end for the one, mm_vmscan_memcg_reclaim_begin and _end for the
 * other, in mm/vmscan.c. They fire where a task reclaims, which takes some microseconds to many milliseconds; without
 * shortage they do not fire at all. A run takes some 300 ns.
 * A task that writes to memory.reclaim, or lowers a limit, reclaims by itself and is counted like the others. Not seen:
 * the wait for kswapd before direct reclaim (throttle_direct_reclaim), reclaim of one NUMA node (vm.zone_reclaim_mode)
 * and compaction. Reclaim by soft limits (version 1) is a part of global reclaim, and is in it.
 */
#include "core.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"
#include "span.h"

enum reclaim_kind {
	RECLAIM_GLOBAL,
	RECLAIM_CGROUP,
	RECLAIM_KINDS,
};

/* What is counted for an owner. */
struct reclaim_slot {
	struct hist stall[RECLAIM_KINDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct reclaim_slot);
} reclaim_table SEC(".maps");

static __always_inline int reclaim_begins(enum reclaim_kind kind)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	span_begin(c, kind + 1, kind);
	probe_leave(c, began);
	return 0;
}

static __always_inline void reclaim_record(struct probe_cpu *c, struct span_done *done)
{
	u32 key = table_key(owner_current()), kind = done->kind;
	struct reclaim_slot *slot = bpf_map_lookup_elem(&reclaim_table, &key);

	if (!slot || kind >= RECLAIM_KINDS)
		return; /* no such slot: user space hands out none beyond the table */
	count(&c->recorded);
	hist_add_atomic(&slot->stall[kind], done->ns, done->weight);
}

static __always_inline int reclaim_ends(enum reclaim_kind kind)
{
	struct probe_cpu *c = probe_account();
	struct span_done done = {};
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	switch (span_end(c, kind + 1, &done)) {
	case SPAN_ENDED:
		reclaim_record(c, &done);
		break;
	case SPAN_OUTER:
		count(&c->unmatched); /* the kernel reclaims for nothing within reclaim; if it does, a part is missing */
		break;
	case SPAN_UNKNOWN:
		break;
	}
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int reclaim_begin(void *ctx)
{
	return reclaim_begins(RECLAIM_GLOBAL);
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int reclaim_end(void *ctx)
{
	return reclaim_ends(RECLAIM_GLOBAL);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int reclaim_cbegin(void *ctx)
{
	return reclaim_begins(RECLAIM_CGROUP);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int reclaim_cend(void *ctx)
{
	return reclaim_ends(RECLAIM_CGROUP);
}

char LICENSE[] SEC("license") = "GPL";
