/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What every latency probe has: an account of its own runs and losses for each CPU, the knob by which user space makes
 * it leave out events when it costs too much, and the shape of its tables. bpf/probe.go is the other half.
 */
#ifndef SLID_PROBE_H
#define SLID_PROBE_H

#include "core.h"

#define PROBE_TIMED 256 /* of so many runs on a CPU, one measures its own time */

/* What became of the events on one CPU. The size is that of a cache line, so that no two CPUs share one. */
struct probe_cpu {
	u64 runs;       /* runs of the object's programs */
	u64 timed_runs; /* runs that measured their own time */
	u64 timed_ns;   /* that time */
	u64 recorded;   /* events that were counted */
	u64 unmatched;  /* events of unknown length: they began before the probe did */
	u64 discarded;  /* events of impossible length */
	u64 lost;       /* events without memory or room in a map */
	u64 skipped;    /* events left out by sampling; the recorded ones have more weight instead */
};

_Static_assert(sizeof(struct probe_cpu) == 64, "a CPU's account is a cache line");

/* probe_cpus has an account for each CPU the machine may have; user space sets the number before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct probe_cpu);
} probe_cpus SEC(".maps");

/*
 * One of 2^sample_shift events is recorded, with that weight. User space changes it while the probe runs, and with it
 * sample_salt, by which probes choose that sample things which last (tasks, sockets): whoever was left out until now
 * has another salt on record.
 */
volatile u32 sample_shift;
volatile u32 sample_salt;

/*
 * When the programs were attached last, in ns of CLOCK_MONOTONIC: they see everything that happens since. What they noted
 * before of something that began may have ended unseen while they were detached, so it is void. User space sets it.
 */
volatile u64 probe_since = ~0ULL;

/*
 * Tables are arrays of table_shards parts of table_slots slots each; a CPU writes to the part of its number. Shards
 * are a power of two. Where there are as many as CPUs, no two CPUs write to the same slot.
 */
const volatile u32 table_slots = 1;
const volatile u32 table_shards = 1;

static __always_inline u32 table_key(u32 slot)
{
	return (bpf_get_smp_processor_id() & (table_shards - 1)) * table_slots + slot;
}

static __always_inline void count(u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/* probe_account returns the account of this CPU. It is never NULL: there are as many as CPUs are possible. */
static __always_inline struct probe_cpu *probe_account(void)
{
	u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&probe_cpus, &cpu);
}

/*
 * probe_enter counts a run and starts the clock for one of PROBE_TIMED; probe_leave stops it. Programs of one object
 * may interrupt each other, so that both are atomic.
 */
static __always_inline u64 probe_enter(struct probe_cpu *c)
{
	if (__sync_fetch_and_add(&c->runs, 1) % PROBE_TIMED)
		return 0;
	return bpf_ktime_get_ns();
}

static __always_inline void probe_leave(struct probe_cpu *c, u64 began)
{
	if (!began)
		return;
	__sync_fetch_and_add(&c->timed_ns, bpf_ktime_get_ns() - began);
	count(&c->timed_runs);
}

/* probe_saw says whether the programs see everything since the given time, when something began. */
static __always_inline bool probe_saw(u64 time)
{
	return time >= probe_since;
}

/* probe_weight returns how many events the present one stands for, or 0 if it is to be left out. */
static __always_inline u64 probe_weight(struct probe_cpu *c)
{
	u32 shift = sample_shift & 31;

	if (!shift)
		return 1;
	if (bpf_get_prandom_u32() >> (32 - shift)) {
		count(&c->skipped);
		return 0;
	}
	return 1ULL << shift;
}

/* probe_chosen says whether something that lasts, given by its number, is in the present sample. */
static __always_inline bool probe_chosen(u32 id)
{
	u32 shift = sample_shift & 31;

	return !shift || !((id ^ sample_salt) * 0x9e3779b1 >> (32 - shift)); /* Fibonacci hashing */
}

#endif
