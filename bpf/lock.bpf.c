//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Contention for locks of the kernel: how long tasks and CPUs wait for one that is taken, by the kind of lock.
 *
 * Sleeping locks (mutexes, semaphores) are waited for by a task; so is a mutex while its waiter spins in the hope that
 * the owner is about to give it up. A task's wait is noted in a slot that its number gives, together with the lock, and
 * belongs to the task's unit or container. Spinning locks are waited for by a CPU, in interrupts too, which interrupt
 * each other: these waits are a stack of the CPU's own, and belong to nobody.
 *
 * The programs run amid the kernel's locking. So they take no lock and no memory: no hash, no storage. Where one
 * interrupts itself, the kernel leaves out the second and counts it (missed).
 *
 * Not seen, since the kernel does not tell: the first waiter of a spin lock on bare metal, which does not queue, and the
 * spinning of semaphores.
 *
 * Hooks: tp_btf/contention_begin and contention_end (Linux 5.19). They fire for locks that are taken only.
 */
#include "core.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"
#include "timing.h"

#define LOCK_TASKS 8192            /* slots for waiting tasks, a power of two */
#define LOCK_DEPTH 4               /* waits of a CPU within each other: task, soft interrupt, interrupt, NMI */
#define LOCK_STALE 300000000000ULL /* ns after which the slot of a waiting task may be taken by another */
#define LOCK_SPUN  60000000000ULL  /* ns that nobody spins for: the kernel takes a CPU for locked up after 20 s */

/* include/trace/events/lock.h */
#define LCB_F_SPIN   (1U << 0)
#define LCB_F_READ   (1U << 1)
#define LCB_F_WRITE  (1U << 2)
#define LCB_F_RT     (1U << 3)
#define LCB_F_PERCPU (1U << 4)
#define LCB_F_MUTEX  (1U << 5)

/* Thread group whose tasks alone are recorded; 0 for all. For tests. */
const volatile u32 only_tgid = 0;

/* Kinds of locks, those that tasks wait for first. */
enum lock_kind {
	LOCK_MUTEX,      /* the task slept */
	LOCK_MUTEX_SPIN, /* the task did nothing but spin */
	LOCK_RWSEM_READ,
	LOCK_RWSEM_WRITE,
	LOCK_PERCPU_READ,
	LOCK_PERCPU_WRITE,
	LOCK_RTMUTEX, /* with PREEMPT_RT, spin locks are of this kind */
	LOCK_TASK_KINDS,

	LOCK_SPIN = LOCK_TASK_KINDS,
	LOCK_RWLOCK_READ,
	LOCK_RWLOCK_WRITE,
	LOCK_KINDS,
};

/* What is counted for an owner. */
struct lock_slot {
	u64 waits[LOCK_TASK_KINDS];
	u64 wait_ns[LOCK_TASK_KINDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct lock_slot);
} lock_table SEC(".maps");

/* lock_kinds has the waits of the host, a slot for each kind, in as many shards as lock_table. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LOCK_KINDS);
	__type(key, u32);
	__type(value, struct hist);
} lock_kinds SEC(".maps");

/* A wait that goes on. */
struct lock_wait {
	u64 lock; /* its address, as a name */
	struct timing timing;
	u32 kind;
	u32 spins; /* of a mutex: it spins at present */
};

/* The wait of a task. */
struct lock_task {
	u64 task; /* its number; 0: free */
	struct lock_wait wait;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOCK_TASKS);
	__type(key, u32);
	__type(value, struct lock_task);
} lock_tasks SEC(".maps");

/* The waits of a CPU: three cache lines. */
struct lock_cpu {
	u32 depth;
	u32 pad;
	u64 since; /* probe_since that the waits are of */
	struct lock_wait waits[LOCK_DEPTH];
	u64 rest[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct lock_cpu);
} lock_cpus SEC(".maps");

/* lock_sleeps says whether tasks wait for a lock, not CPUs. */
static __always_inline bool lock_sleeps(u32 flags)
{
	return flags & LCB_F_MUTEX || !(flags & LCB_F_SPIN);
}

static __always_inline u32 lock_kind_of(u32 flags)
{
	if (flags & LCB_F_MUTEX)
		return flags & LCB_F_SPIN ? LOCK_MUTEX_SPIN : LOCK_MUTEX;
	if (flags & LCB_F_RT)
		return LOCK_RTMUTEX;
	if (flags & LCB_F_PERCPU)
		return flags & LCB_F_WRITE ? LOCK_PERCPU_WRITE : LOCK_PERCPU_READ;
	if (flags & LCB_F_SPIN) {
		if (flags & LCB_F_WRITE)
			return LOCK_RWLOCK_WRITE;
		return flags & LCB_F_READ ? LOCK_RWLOCK_READ : LOCK_SPIN;
	}
	return flags & LCB_F_WRITE ? LOCK_RWSEM_WRITE : LOCK_RWSEM_READ;
}

static __always_inline bool lock_left_out(u64 pid_tgid)
{
	return only_tgid && pid_tgid >> 32 != only_tgid;
}

/* lock_task returns the slot of a task; another one may be in it. */
static __always_inline struct lock_task *lock_task(u32 task)
{
	u32 key = task & (LOCK_TASKS - 1);

	return bpf_map_lookup_elem(&lock_tasks, &key);
}

/*
 * lock_stale says whether a wait can give up its slot: its end was missed, since its task is gone or the programs were
 * detached, or sampling left it out.
 */
static __always_inline bool lock_stale(struct lock_wait *w)
{
	return !timing_open(&w->timing) || !w->timing.weight || bpf_ktime_get_ns() - w->timing.begin > LOCK_STALE;
}

static __always_inline void lock_wait_begin(struct probe_cpu *c, struct lock_wait *w, u64 lock, u32 flags)
{
	w->lock = lock;
	w->kind = lock_kind_of(flags);
	w->spins = flags & LCB_F_SPIN;
	timing_begin(c, &w->timing);
}

/*
 * lock_goes_on says whether the begin of a wait for a mutex is that of its next phase: spinning and sleeping alternate
 * until the mutex is had. Two begins alike are two waits, of which the first one's end was missed.
 */
static __always_inline bool lock_goes_on(struct probe_cpu *c, struct lock_wait *w, u64 lock, u32 flags)
{
	if (!timing_open(&w->timing))
		return false;
	if (w->lock == lock && flags & LCB_F_MUTEX && w->spins != (flags & LCB_F_SPIN))
		return true;
	if (w->timing.weight)
		count(&c->unmatched);
	return false;
}

/* lock_task_begins notes the wait of a task. */
static __always_inline void lock_task_begins(struct probe_cpu *c, u32 task, u64 lock, u32 flags)
{
	struct lock_task *t = lock_task(task);
	u64 owner;

	if (!t)
		return; /* the slot's number is within the map */
	owner = t->task;
	if (owner != task) {
		if ((owner && !lock_stale(&t->wait)) || __sync_val_compare_and_swap(&t->task, owner, task) != owner) {
			count(&c->lost); /* a task whose number gives the same slot waits too; the end is unmatched */
			return;
		}
	} else if (lock_goes_on(c, &t->wait, lock, flags)) {
		t->wait.spins = flags & LCB_F_SPIN;
		if (!t->wait.spins)
			t->wait.kind = LOCK_MUTEX;
		return;
	}
	lock_wait_begin(c, &t->wait, lock, flags);
}

/* lock_cpu returns the waits of this CPU. */
static __always_inline struct lock_cpu *lock_cpu(void)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct lock_cpu *l = bpf_map_lookup_elem(&lock_cpus, &cpu);

	if (l && l->since != probe_since) {
		l->since = probe_since;
		l->depth = 0;
	}
	return l;
}

/* lock_cpu_begins notes a wait of this CPU, on top of those that it interrupts. */
static __always_inline void lock_cpu_begins(struct probe_cpu *c, u64 lock, u32 flags)
{
	struct lock_cpu *l = lock_cpu();
	u32 depth;

	if (!l)
		return; /* there are as many as CPUs are possible */
	depth = l->depth;
	if (depth >= LOCK_DEPTH) {
		count(&c->discarded); /* no CPU waits for so many: ends were missed */
		depth = 0;
	}
	lock_wait_begin(c, &l->waits[depth & (LOCK_DEPTH - 1)], lock, flags);
	l->depth = depth + 1;
}

/* lock_of_cpu returns the wait of this CPU for a lock and takes it off, with what is above it; NULL if there is none. */
static __always_inline struct lock_wait *lock_of_cpu(u64 lock)
{
	struct lock_cpu *l = lock_cpu();
	u32 depth, i;

	if (!l)
		return NULL;
	depth = l->depth;
	for (i = 0; i < LOCK_DEPTH; i++) {
		if (!depth || depth > LOCK_DEPTH)
			return NULL;
		depth--;
		if (l->waits[depth & (LOCK_DEPTH - 1)].lock == lock) {
			l->depth = depth;
			return &l->waits[depth & (LOCK_DEPTH - 1)];
		}
	}
	return NULL;
}

static __always_inline void lock_record(u32 kind, u64 ns, u64 n)
{
	u32 key = (bpf_get_smp_processor_id() & (table_shards - 1)) * LOCK_KINDS + kind;
	struct hist *h = bpf_map_lookup_elem(&lock_kinds, &key);

	if (h)
		hist_add_atomic(h, ns, n);
}

static __always_inline void lock_record_task(u32 kind, u64 ns, u64 n)
{
	u32 key = table_key(owner_current());
	struct lock_slot *slot = bpf_map_lookup_elem(&lock_table, &key);

	if (!slot || kind >= LOCK_TASK_KINDS)
		return; /* user space hands out no slots beyond the table */
	__sync_fetch_and_add(&slot->waits[kind], n);
	__sync_fetch_and_add(&slot->wait_ns[kind], ns * n);
}

/* lock_cpu_ends ends the wait of this CPU for a lock. It returns false if there is none. */
static __always_inline bool lock_cpu_ends(struct probe_cpu *c, u64 lock)
{
	struct lock_wait *w = lock_of_cpu(lock);
	u64 length, n;

	if (!w)
		return false;
	n = timing_end(c, &w->timing, LOCK_SPUN, &length);
	if (n)
		lock_record(w->kind, length, n);
	return true;
}

/* lock_task_ends ends the wait of a task for a lock. It returns false if there is none. */
static __always_inline bool lock_task_ends(struct probe_cpu *c, u32 task, u64 lock)
{
	struct lock_task *t = lock_task(task);
	u64 length, n;
	u32 kind;

	if (!t || !task || t->task != task || t->wait.lock != lock)
		return false;
	kind = t->wait.kind;
	n = timing_end(c, &t->wait.timing, ~0ULL, &length);
	t->task = 0; /* from here on the slot may be another's */
	if (!n)
		return true;
	lock_record(kind, length, n);
	lock_record_task(kind, length, n);
	return true;
}

SEC("tp_btf/contention_begin")
int BPF_PROG(lock_begin, void *lock, unsigned int flags)
{
	struct probe_cpu *c = probe_account();
	u64 began, id = bpf_get_current_pid_tgid();

	if (!c || lock_left_out(id))
		return 0;
	began = probe_enter(c);
	if (lock_sleeps(flags) && (u32)id) /* the idle task, number 0, waits for none */
		lock_task_begins(c, id, (u64)lock, flags);
	else
		lock_cpu_begins(c, (u64)lock, flags);
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/contention_end")
int BPF_PROG(lock_end, void *lock)
{
	struct probe_cpu *c = probe_account();
	u64 began, id = bpf_get_current_pid_tgid();

	if (!c || lock_left_out(id))
		return 0;
	began = probe_enter(c);
	/* The CPU's first: a task that waits for a lock may spin for the one inside it, of the same address. */
	if (!lock_cpu_ends(c, (u64)lock) && !lock_task_ends(c, id, (u64)lock))
		count(&c->unmatched); /* it began before the probe did, or its begin was missed or lost */
	probe_leave(c, began);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
