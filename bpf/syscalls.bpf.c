//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * System calls by name: how long they take, how often they fail and how, for the host and in sum for each unit or
 * container.
 *
 * A call that a signal interrupts and the kernel starts again at once is one call. If a handler runs first, it counts
 * as failed with EINTR, though the kernel may start it again afterwards. A call that never returns is not counted:
 * exit_group, and the one amid which its task is killed. Calls of 32-bit programs have other numbers and are left out.
 *
 * Hooks: tp_btf/sys_enter and sys_exit. They fire for every call, wanted or not, and make the kernel take its slow way
 * into and out of each: this probe costs all programs of the host time, which is not in the time of its own programs.
 */
#include "core.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"
#include "regs.h"
#include "timing.h"

#define SYSCALLS_NUMBERS      512 /* numbers that are told apart; Linux 6.18 has up to 470 */
#define SYSCALLS_NAMES        32  /* wanted calls */
#define SYSCALLS_ERRORS       134 /* error numbers, up to EHWPOISON (133) */
#define SYSCALLS_RESTART      255 /* in syscalls_slots: restart_syscall, which goes on with an interrupted call */

#define ERESTARTSYS           512 /* include/linux/errno.h: programs do not see these numbers */
#define ERESTARTNOINTR        513
#define ERESTARTNOHAND        514
#define ERESTART_RESTARTBLOCK 516
#define EINTR                 4

#define TS_COMPAT             0x0002 /* arch/x86/include/asm/thread_info.h: this call is a 32-bit one */

/* One more than the slot of each wanted call, by its number; 0: not wanted. */
const volatile u8 syscalls_slots[SYSCALLS_NUMBERS] = {};

/* Bits of the task's thread_info.flags of which one says that it is a 32-bit program. */
const volatile u64 syscalls_compat = 0;

/* Thread group whose tasks alone are recorded; 0 for all. For tests. */
const volatile u32 only_tgid = 0;

/* What is counted for a call. */
struct syscalls_slot {
	struct hist duration;
	u64 errors[SYSCALLS_ERRORS]; /* by number; 0: those that have none of these */
};

/* syscalls_host has a slot for each wanted call, in as many shards as syscalls_table. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SYSCALLS_NAMES);
	__type(key, u32);
	__type(value, struct syscalls_slot);
} syscalls_host SEC(".maps");

/* What is counted for an owner. */
struct syscalls_owner {
	u64 calls[SYSCALLS_NAMES];
	u64 time_ns[SYSCALLS_NAMES];
	u64 errors[SYSCALLS_NAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct syscalls_owner);
} syscalls_table SEC(".maps");

/* The call that a task is in. */
struct syscalls_task {
	struct timing timing;
	u64 interrupted; /* when a signal interrupted it; 0: it goes on */
	u32 slot;
	u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct syscalls_task);
} syscalls_tasks SEC(".maps");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* arch/x86/include/asm/thread_info.h, arch/arm64/include/asm/thread_info.h; status is x86's alone */
struct thread_info {
	unsigned long flags;
	u32 status;
};

/* include/linux/sched.h */
struct task_struct___syscalls {
	struct thread_info thread_info;
};

#pragma clang attribute pop

/* syscalls_slot_of returns one more than the slot of a call, or 0 if it is not wanted. */
static __always_inline u32 syscalls_slot_of(u64 number)
{
	if (number >= SYSCALLS_NUMBERS)
		return 0; /* no call, or one of x32 */
	return syscalls_slots[number];
}

/* syscalls_left_out says whether the task is none to record: its calls have other numbers, or a test wants others. */
static __always_inline bool syscalls_left_out(struct task_struct *task)
{
	struct thread_info *info = &((struct task_struct___syscalls *)task)->thread_info;

	if (only_tgid && task->tgid != only_tgid)
		return true;
	if (bpf_core_field_exists(info->status) && info->status & TS_COMPAT)
		return true;
	return info->flags & syscalls_compat;
}

static __always_inline void syscalls_count(u32 slot, u64 ns, u64 n, u64 error)
{
	u32 host_key = (bpf_get_smp_processor_id() & (table_shards - 1)) * SYSCALLS_NAMES + slot;
	u32 owner_key = table_key(owner_current());
	struct syscalls_owner *owner = bpf_map_lookup_elem(&syscalls_table, &owner_key);
	struct syscalls_slot *host = bpf_map_lookup_elem(&syscalls_host, &host_key);

	/* What is checked must be what is used: Linux 6.1 does not see that copies are bounded too. */
	barrier_var(slot);
	barrier_var(error);
	if (!host || !owner || slot >= SYSCALLS_NAMES)
		return; /* user space hands out no slots beyond the tables */
	hist_add_atomic(&host->duration, ns, n);
	__sync_fetch_and_add(&owner->calls[slot], n);
	__sync_fetch_and_add(&owner->time_ns[slot], ns * n);
	if (!error)
		return;
	__sync_fetch_and_add(&owner->errors[slot], n);
	if (error >= SYSCALLS_ERRORS)
		error = 0;
	__sync_fetch_and_add(&host->errors[error], n);
}

/* syscalls_gave_up counts a call that a signal interrupted and that did not go on. */
static __always_inline void syscalls_gave_up(struct probe_cpu *c, struct syscalls_task *t)
{
	u64 begin = t->timing.begin, end = t->interrupted;

	t->timing.begin = 0;
	t->interrupted = 0;
	if (!t->timing.weight)
		return;
	count(&c->recorded);
	syscalls_count(t->slot, end - begin, t->timing.weight, EINTR);
}

static __always_inline void syscalls_begins(struct probe_cpu *c, struct task_struct *task, u32 slot)
{
	bool restart = slot == SYSCALLS_RESTART;
	struct syscalls_task *t;

	t = bpf_task_storage_get(&syscalls_tasks, task, 0, restart ? 0 : BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t) {
		if (!restart)
			count(&c->lost); /* no memory */
		return;
	}
	if (timing_open(&t->timing)) {
		if (t->interrupted && (restart || t->slot == slot - 1)) {
			t->interrupted = 0;
			return; /* it goes on */
		}
		if (t->interrupted)
			syscalls_gave_up(c, t);
		else if (t->timing.weight)
			count(&c->unmatched); /* its return was missed */
	}
	t->interrupted = 0;
	t->timing.begin = 0;
	if (restart)
		return; /* of a call that is not wanted, or began before the probe did */
	t->slot = slot - 1;
	timing_begin(c, &t->timing);
}

static __always_inline bool syscalls_restarts(s64 ret)
{
	return ret == -ERESTARTSYS || ret == -ERESTARTNOINTR || ret == -ERESTARTNOHAND || ret == -ERESTART_RESTARTBLOCK;
}

static __always_inline void syscalls_ends(struct probe_cpu *c, struct task_struct *task, struct pt_regs *regs, s64 ret)
{
	struct syscalls_task *t = bpf_task_storage_get(&syscalls_tasks, task, 0, 0);
	u32 slot = syscalls_slot_of(regs_call(regs));
	u64 length, n;

	if (!t || !timing_open(&t->timing)) {
		if (slot && slot != SYSCALLS_RESTART)
			count(&c->unmatched); /* it began before the probe did, or a filter denied it, or it is a new child */
		return;
	}
	if (t->interrupted) {
		syscalls_gave_up(c, t); /* this is another call: the signal's handler made it */
		return;
	}
	if (syscalls_restarts(ret)) {
		t->interrupted = bpf_ktime_get_ns();
		return; /* what comes next tells whether it goes on */
	}
	n = timing_end(c, &t->timing, ~0ULL, &length);
	if (n)
		syscalls_count(t->slot, length, n, ret < 0 && ret >= -4095 ? -ret : 0);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(syscalls_enter, struct pt_regs *regs, long number)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct probe_cpu *c = probe_account();
	u64 began;
	u32 slot;

	if (!c)
		return 0;
	began = probe_enter(c);
	slot = syscalls_slot_of(number);
	if (slot && !syscalls_left_out(task))
		syscalls_begins(c, task, slot);
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(syscalls_exit, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	if (!syscalls_left_out(task))
		syscalls_ends(c, task, regs, ret);
	probe_leave(c, began);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
