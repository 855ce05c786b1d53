//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Soft interrupts: how long each kind waits until its CPU gets to it, and how long it is at work then.
 *
 * A CPU serves what was raised on it itself, so all state is the CPU's own. Of several raises before the work begins,
 * the wait is that of the oldest. A raise that comes while the CPU is on its way to the same kind, having taken note of
 * what is pending already, is hidden behind the older one; the round that serves it has no raise on record
 * (unmatched). The time at work includes the interrupts that come meanwhile; in a kernel with PREEMPT_RT, where
 * threads do the work, other tasks too.
 *
 * Hooks: tp_btf/softirq_raise, softirq_entry and softirq_exit. They fire for each raise and each round of a kind: some
 * thousand times a second on a quiet CPU, a hundred thousand under load.
 */
#include "core.h"
#include "hist.h"
#include "probe.h"
#include "timing.h"

#define SOFTIRQ_KINDS 10             /* NR_SOFTIRQS (include/linux/interrupt.h) */
#define SOFTIRQ_LIMIT 60000000000ULL /* ns; the kernel takes a CPU for locked up after 20 s */

/* Whether each CPU has a shard of its own. */
const volatile bool exclusive = false;

/* The number of the CPU that alone is recorded, plus 1; 0 for all. For tests. */
const volatile u32 only_cpu = 0;

/* What is counted for a kind. */
struct softirq_slot {
	struct hist wait;    /* first raise to begin of work */
	struct hist service; /* begin to end of work */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SOFTIRQ_KINDS);
	__type(key, u32);
	__type(value, struct softirq_slot);
} softirq_table SEC(".maps");

/* What is under way on a CPU: four cache lines. */
struct softirq_cpu {
	struct timing raised[SOFTIRQ_KINDS];
	struct timing work;
	u64 pad[10];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct softirq_cpu);
} softirq_cpus SEC(".maps");

/* softirq_here returns the state of this CPU; NULL if it is none to record. */
static __always_inline struct softirq_cpu *softirq_here(void)
{
	u32 cpu = bpf_get_smp_processor_id();

	if (only_cpu && cpu + 1 != only_cpu)
		return NULL;
	return bpf_map_lookup_elem(&softirq_cpus, &cpu);
}

/* softirq_add counts a duration. One program alone writes to each histogram, and never interrupts itself on a CPU. */
static __always_inline void softirq_add(struct hist *h, u64 ns, u64 n)
{
	if (exclusive)
		hist_add(h, ns, n);
	else
		hist_add_atomic(h, ns, n);
}

static __always_inline void softirq_raised(struct probe_cpu *c, u32 kind)
{
	struct softirq_cpu *s = softirq_here();

	if (!s || kind >= SOFTIRQ_KINDS)
		return; /* kinds beyond are none that any kernel has */
	if (!timing_open(&s->raised[kind]))
		timing_begin(c, &s->raised[kind]);
}

static __always_inline void softirq_entered(struct probe_cpu *c, u32 kind)
{
	struct softirq_cpu *s = softirq_here();
	struct softirq_slot *slot;
	u64 length, n;
	u32 key;

	if (!s || kind >= SOFTIRQ_KINDS)
		return;
	n = timing_end(c, &s->raised[kind], SOFTIRQ_LIMIT, &length);
	timing_begin(c, &s->work);
	if (!n)
		return;
	key = table_key(kind);
	slot = bpf_map_lookup_elem(&softirq_table, &key);
	if (slot)
		softirq_add(&slot->wait, length, n);
}

static __always_inline void softirq_left(struct probe_cpu *c, u32 kind)
{
	struct softirq_cpu *s = softirq_here();
	struct softirq_slot *slot;
	u64 length, n;
	u32 key;

	if (!s || kind >= SOFTIRQ_KINDS)
		return;
	n = timing_end(c, &s->work, SOFTIRQ_LIMIT, &length);
	if (!n)
		return;
	key = table_key(kind);
	slot = bpf_map_lookup_elem(&softirq_table, &key);
	if (slot)
		softirq_add(&slot->service, length, n);
}

SEC("tp_btf/softirq_raise")
int BPF_PROG(softirq_raise, unsigned int kind)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	softirq_raised(c, kind);
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/softirq_entry")
int BPF_PROG(softirq_entry, unsigned int kind)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	softirq_entered(c, kind);
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(softirq_exit, unsigned int kind)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	softirq_left(c, kind);
	probe_leave(c, began);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
