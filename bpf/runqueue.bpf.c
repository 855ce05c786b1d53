//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Run-queue latency: how long runnable tasks wait for a CPU, for each unit or container, and how much of that they
 * wait because another task took their CPU away.
 *
 * The scheduler keeps each task's total wait (sched_info.run_delay) and the start of the wait that goes on
 * (sched_info.last_queued). When sched_switch fires, the wait of the next task has not been added to its total yet, so
 * total + (clock - last_queued) is what the total will be in a moment. The growth of that sum since the task's last
 * switch, kept for each task, is the wait that ends now, with all of its parts when the task was moved
 * between CPUs meanwhile. It agrees with field 2 of /proc/PID/schedstat.
 *
 * Hook: tp_btf/sched_switch alone. A kernel without that account (CONFIG_SCHED_INFO) gets the usual three: sched_wakeup
 * and sched_wakeup_new note when a wait begins, and sched_switch when it is one that goes on.
 * The programs run with interrupts off. Where each CPU has a shard of its own, nothing is atomic and nothing is shared.
 * The wait includes the time in which the quota of the task's cgroup held it back (CFS throttling).
 */
#include "core.h"
#include "cgroup.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"

/* Thread group whose tasks alone are recorded; 0 for all. For tests. */
const volatile u32 only_tgid = 0;

/* Whether each CPU has a shard of its own. */
const volatile bool exclusive = false;

/*
 * When groups get other slots (user space counts that) or tasks move to other groups (the program at cgroup_attach_task
 * does), what tasks remember of their own owner is out of date: then the sum of the two is another.
 */
volatile u32 owner_epoch;
volatile u32 owner_moves;

#define OWNER_UNKNOWN ~0U /* nobody looked yet */

/* Who took the CPU from a task that wanted to go on. */
enum runqueue_by {
	BY_OWN,    /* a task of the same unit or container, or nobody: its own quota of CPU time */
	BY_OTHER,  /* a task of another one */
	BY_SYSTEM, /* a task of the kernel */
	BY_KINDS,
};

/* What is counted for an owner. */
struct runqueue_slot {
	struct hist wait;
	u64 preempted[BY_KINDS];    /* waits of tasks that were preempted; they are in wait too */
	u64 preempted_ns[BY_KINDS]; /* their time */
};

/* What is remembered of a task. */
struct runqueue_task {
	/*
	 * One more than its total wait at its last switch to a CPU; or, if the scheduler does not tell, when its wait
	 * began. 0: none on record.
	 */
	u64 mark;
	u32 owner;
	u32 epoch;     /* that owner is from */
	u32 salt;      /* of the sample that mark is from */
	u32 preempted; /* 1 + enum runqueue_by; 0: it went to sleep, or is new */
};

/*
 * A task's memory is in a seat, which a few instructions find by the address of the task, while a look into its storage
 * is a call that takes longer than all else here. It keeps the seat until its task_struct is freed. Who finds its seat
 * taken remembers in its storage from then on, so that no task is ever without memory or in two places.
 * User space empties the seats before the programs are attached again: nobody saw who ended meanwhile.
 */
#define RUNQUEUE_SEATS_LOG2 13
#define RUNQUEUE_SEATS      (1 << RUNQUEUE_SEATS_LOG2)

struct runqueue_seat {
	u64 holder; /* runqueue_id of the task; 0: free, and all else is 0 */
	struct runqueue_task task;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RUNQUEUE_SEATS);
	__type(key, u32);
	__type(value, struct runqueue_seat);
} runqueue_seats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct runqueue_task);
} runqueue_tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct runqueue_slot);
} runqueue_table SEC(".maps");

/* runqueue_left_out says whether a task is none to record; the idle task never waits. */
static __always_inline bool runqueue_left_out(struct task_struct *task)
{
	return !task->pid || (only_tgid && task->tgid != only_tgid);
}

/*
 * runqueue_id returns the number of a task that none has at the same time: the distance of its address from one that
 * stays. The address itself is none to calculate with, by the rules for programs.
 */
static __always_inline u64 runqueue_id(struct task_struct *task)
{
	return (u64)task - (u64)&owner_epoch;
}

/* runqueue_seat returns the seat that may be that of a task. */
static __always_inline struct runqueue_seat *runqueue_seat(u64 id)
{
	u32 key = id * 0x9e3779b97f4a7c15 >> (64 - RUNQUEUE_SEATS_LOG2); /* Fibonacci hashing */

	return bpf_map_lookup_elem(&runqueue_seats, &key);
}

/* runqueue_recall returns what is remembered of a task, or NULL. */
static __always_inline struct runqueue_task *runqueue_recall(struct task_struct *task)
{
	u64 id = runqueue_id(task);
	struct runqueue_seat *seat = runqueue_seat(id);

	if (likely(seat && seat->holder == id))
		return &seat->task;
	return bpf_task_storage_get(&runqueue_tasks, task, 0, 0);
}

/* runqueue_remember is runqueue_recall, but begins to remember. It returns NULL without memory. */
static __always_inline struct runqueue_task *runqueue_remember(struct task_struct *task)
{
	u64 id = runqueue_id(task), holder;
	struct runqueue_seat *seat = runqueue_seat(id);
	struct runqueue_task *t;

	if (likely(seat && seat->holder == id))
		return &seat->task;
	if (seat && !seat->holder) {
		t = bpf_task_storage_get(&runqueue_tasks, task, 0, 0);
		if (t)
			return t;
		holder = __sync_val_compare_and_swap(&seat->holder, 0, id);
		if (!holder || holder == id)
			return &seat->task;
	}
	return bpf_task_storage_get(&runqueue_tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline u32 runqueue_look_up(struct task_struct *task)
{
	return owner_of(task->cgroups->dfl_cgrp->kn->id);
}

/* runqueue_owner returns the owner of a task. It looks it up when tasks or slots moved, and remembers it. */
static __always_inline u32 runqueue_owner(struct task_struct *task, struct runqueue_task *t)
{
	u32 epoch = owner_epoch + owner_moves + 1; /* not 0, which new tasks have on record */

	if (unlikely(t->epoch != epoch)) {
		t->owner = runqueue_look_up(task);
		t->epoch = epoch;
	}
	return t->owner;
}

/* runqueue_add counts a number. */
static __always_inline void runqueue_add(u64 *counter, u64 n)
{
	if (exclusive)
		*counter += n;
	else
		__sync_fetch_and_add(counter, n);
}

/* runqueue_record counts a wait of a task, and forgets why it waited. */
static __always_inline void runqueue_record(struct probe_cpu *c, struct runqueue_task *t, u64 wait)
{
	u64 n = 1ULL << (sample_shift & 31), by = t->preempted - 1ULL;
	u32 key = table_key(t->owner);
	struct runqueue_slot *slot = bpf_map_lookup_elem(&runqueue_table, &key);

	t->preempted = 0;
	if (unlikely(!slot))
		return; /* no such slot: user space hands out none beyond the table */
	c->recorded++;
	if (exclusive)
		hist_add(&slot->wait, wait, n);
	else
		hist_add_atomic(&slot->wait, wait, n);
	barrier_var(by); /* Linux 6.1 does not see the bound of what was computed in 32 bits */
	if (unlikely(by < BY_KINDS)) {
		runqueue_add(&slot->preempted[by], n);
		runqueue_add(&slot->preempted_ns[by], wait * n);
	}
}

/* runqueue_ends takes the wait of next from the scheduler's account: it is about to run. */
static __always_inline void runqueue_ends(struct probe_cpu *c, struct task_struct *next, struct runqueue_task *t)
{
	struct sched_info *info = &next->sched_info;
	u64 total, seen = t->mark;
	u32 salt = sample_salt;

	if (unlikely(!info->last_queued)) {
		c->unmatched++; /* no wait on record */
		return;
	}
	total = info->run_delay + next->se.cfs_rq->rq->clock - info->last_queued + 1;
	t->mark = total;
	if (unlikely(t->salt != salt)) {
		t->salt = salt;
		if (seen) { /* the last switch on record was not its last one */
			c->unmatched++;
			return;
		}
	}
	if (unlikely(!seen)) {
		if (info->pcount) {
			c->unmatched++; /* it ran before the probe began: its former total is unknown */
			return;
		}
		seen = 1; /* a new task, whose whole total is this wait */
	}
	if (unlikely(total < seen)) {
		c->discarded++; /* the clocks of two CPUs disagree */
		return;
	}
	runqueue_record(c, t, total - seen);
}

/* runqueue_goes says whether a task wants to go on and its waits are recorded. */
static __always_inline bool runqueue_goes(struct task_struct *prev, unsigned int state)
{
	return !state && !runqueue_left_out(prev) && probe_chosen(prev->pid);
}

/* runqueue_taken notes who took the CPU from a task that wanted to go on. */
static __always_inline void runqueue_taken(struct task_struct *prev, struct task_struct *next, u32 owner)
{
	struct runqueue_task *t = runqueue_recall(prev);

	if (!t)
		return; /* it ran before the probe did */
	if (owner == OWNER_UNKNOWN)
		owner = runqueue_look_up(next);
	if (!next->pid)
		t->preempted = BY_OWN + 1; /* the idle task takes over when a quota is used up */
	else if (next->flags & PF_KTHREAD)
		t->preempted = BY_SYSTEM + 1;
	else
		t->preempted = owner == t->owner ? BY_OWN + 1 : BY_OTHER + 1;
}

/*
 * runqueue_resumes takes the end of a wait of next, and returns its owner if it knows. told says that the scheduler tells
 * how long it was.
 */
static __always_inline u32 runqueue_resumes(struct probe_cpu *c, struct task_struct *next, bool told)
{
	struct runqueue_task *t;
	u32 owner;

	if (unlikely(!probe_chosen(next->pid))) {
		c->skipped++;
		return OWNER_UNKNOWN;
	}
	t = runqueue_remember(next);
	if (unlikely(!t)) {
		c->lost++; /* no memory */
		return OWNER_UNKNOWN;
	}
	owner = runqueue_owner(next, t);
	if (told) {
		runqueue_ends(c, next, t);
		return owner;
	}
	if (probe_saw(t->mark))
		runqueue_record(c, t, bpf_ktime_get_ns() - t->mark);
	else
		c->unmatched++; /* its wait began before the probe did */
	t->mark = 0;
	return owner;
}

/* runqueue_switched is what both kinds of sched_switch do. */
static __always_inline void runqueue_switched(struct probe_cpu *c, struct task_struct *prev, struct task_struct *next,
					      unsigned int state, bool told)
{
	u32 owner = OWNER_UNKNOWN;

	if (!runqueue_left_out(next))
		owner = runqueue_resumes(c, next, told);
	if (unlikely(runqueue_goes(prev, state)))
		runqueue_taken(prev, next, owner);
}

/* runqueue_begins notes when the wait of a task begins. */
static __always_inline void runqueue_begins(struct task_struct *task)
{
	struct runqueue_task *t = runqueue_remember(task);

	if (t)
		t->mark = bpf_ktime_get_ns();
}

/* runqueue_runs counts a run. The programs cannot interrupt each other on a CPU. */
static __always_inline u64 runqueue_runs(struct probe_cpu *c)
{
	return ++c->runs % PROBE_TIMED ? 0 : bpf_ktime_get_ns();
}

static __always_inline void runqueue_ran(struct probe_cpu *c, u64 began)
{
	if (likely(!began))
		return;
	c->timed_ns += bpf_ktime_get_ns() - began;
	c->timed_runs++;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(runqueue_switch, bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int state)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (unlikely(!c))
		return 0;
	began = runqueue_runs(c);
	runqueue_switched(c, prev, next, state, true);
	runqueue_ran(c, began);
	return 0;
}

/* It fires once when a whole process moves. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(runqueue_moved, struct cgroup *to)
{
	__sync_fetch_and_add(&owner_moves, 1);
	return 0;
}

/* It fires when nothing refers to a task that ended any more, so after its last switch. */
SEC("tp_btf/sched_process_free")
int BPF_PROG(runqueue_freed, struct task_struct *task)
{
	u64 id = runqueue_id(task);
	struct runqueue_seat *seat = runqueue_seat(id);

	if (!seat || seat->holder != id)
		return 0;
	seat->task = (struct runqueue_task){};
	__sync_val_compare_and_swap(&seat->holder, id, 0);
	return 0;
}

/* What follows is for kernels that do not account for waits. */

SEC("tp_btf/sched_switch")
int BPF_PROG(runqueue_change, bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int state)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (unlikely(!c))
		return 0;
	began = runqueue_runs(c);
	if (runqueue_goes(prev, state))
		runqueue_begins(prev);
	runqueue_switched(c, prev, next, state, false);
	runqueue_ran(c, began);
	return 0;
}

static __always_inline int runqueue_woken(struct task_struct *task)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (unlikely(!c))
		return 0;
	began = runqueue_runs(c);
	if (!runqueue_left_out(task) && probe_chosen(task->pid))
		runqueue_begins(task);
	runqueue_ran(c, began);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(runqueue_wakeup, struct task_struct *task)
{
	return runqueue_woken(task);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(runqueue_new, struct task_struct *task)
{
	return runqueue_woken(task);
}

char LICENSE[] SEC("license") = "GPL";
