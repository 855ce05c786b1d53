//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Run-queue latency: how long runnable tasks wait for a CPU, host-wide.
 *
 * The scheduler keeps each task's total wait (sched_info.run_delay) and the start of the wait that goes on
 * (sched_info.last_queued). When sched_switch fires, the wait of the next task has not been added to its total yet, so
 * total + (clock - last_queued) is what the total will be in a moment. The growth of that sum since the task's last
 * switch, kept in the task's own storage, is the wait that ends now, with all of its parts when the task was moved
 * between CPUs meanwhile. It agrees with field 2 of /proc/PID/schedstat.
 *
 * Hook: tp_btf/sched_switch alone. Each CPU writes a slot of its own with interrupts off, so nothing is atomic and
 * nothing is shared. User space maps the slots and reads them without system calls.
 * The wait includes the time in which the quota of the task's cgroup held it back (CFS throttling).
 */
#include "core.h"
#include "hist.h"

#define RUNQUEUE_TIMED 256 /* of so many runs, one measures its own time */

/* Thread group whose tasks alone are recorded; 0 for all. For tests. */
const volatile u32 only_tgid = 0;

/* What one CPU counts. The size is a multiple of a cache line, so that no two CPUs share one. */
struct runqueue_slot {
	struct hist wait;
	u64 runs;       /* runs of the program */
	u64 unmatched;  /* waits of unknown length: begun before the probe, or with no memory left for the task */
	u64 discarded;  /* waits of negative length */
	u64 timed_runs; /* runs that measured their own time */
	u64 timed_ns;   /* that time */
} __attribute__((aligned(64)));

/* runqueue_seen is one more than a task's total wait at its last switch to a CPU; 0 for a task not seen yet. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u64);
} runqueue_seen SEC(".maps");

/* runqueue_slots has a slot for each CPU the machine may have; user space sets the number before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct runqueue_slot);
} runqueue_slots SEC(".maps");

/* runqueue_observe counts the wait of next, which is about to run. */
static __always_inline void runqueue_observe(struct runqueue_slot *slot, struct task_struct *next)
{
	struct sched_info *info = &next->sched_info;
	u64 total, since, *seen;

	if (!next->pid)
		return; /* the idle task does not wait */
	if (only_tgid && next->tgid != only_tgid)
		return; /* not the load under test */

	seen = bpf_task_storage_get(&runqueue_seen, next, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!seen || !info->last_queued) {
		slot->unmatched++; /* no memory, or no wait on record */
		return;
	}
	total = info->run_delay + next->se.cfs_rq->rq->clock - info->last_queued + 1;
	since = *seen;
	*seen = total;
	if (!since) {
		if (info->pcount) {
			slot->unmatched++; /* it ran before the probe began: its former total is unknown */
			return;
		}
		since = 1; /* a new task, whose whole total is this wait */
	}
	if (total < since) {
		slot->discarded++; /* the clocks of two CPUs disagree */
		return;
	}
	hist_record(&slot->wait, total - since);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(runqueue_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct runqueue_slot *slot = bpf_map_lookup_elem(&runqueue_slots, &cpu);
	u64 start = 0;

	if (!slot)
		return 0; /* no such CPU: the slots are as many as CPUs are possible */

	if (++slot->runs % RUNQUEUE_TIMED == 0)
		start = bpf_ktime_get_ns();
	runqueue_observe(slot, next);
	if (start) {
		slot->timed_ns += bpf_ktime_get_ns() - start;
		slot->timed_runs++;
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
