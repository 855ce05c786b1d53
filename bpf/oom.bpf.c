//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Victims of the OOM killer: processes that the kernel gave up because memory ran out, of the host or of a control
 * group, for each unit or container of the victim. In contrast to memory.events, which dies with its group and does not
 * exist without the memory controller, it tells whom a shortage of the host hit.
 *
 * Hooks, the best first:
 * - tp_btf/mark_victim (mm/oom_kill.c) where it names the victim's task: Linux 6.9, and stable series that took it over.
 *   Further threads of a dying process that run out of memory are marked as well; the process is counted once.
 * - fentry of __oom_kill_process, which is given the task. It leaves out a victim that was about to end by itself.
 * - kprobe.multi (CONFIG_FPROBE) or a kprobe of the same function, for policies that refuse fentry and kernels without
 *   trampolines for programs.
 * - tp_btf/mark_victim which names a number: the group is the one of the task that ran out of memory. For a group's own
 *   limit that is the victim's or another one below the limit; when the host has no memory left it may be any.
 * They fire when somebody dies. A run takes some 300 ns.
 */
#include "core.h"
#include "cgroup.h"
#include "owner.h"
#include "probe.h"
#include "regs.h"

/* What is counted for an owner. */
struct oom_slot {
	u64 victims;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct oom_slot);
} oom_table SEC(".maps");

/* oom_marked has the first thread of each process that was counted. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u32);
} oom_marked SEC(".maps");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/sched.h; what core.h has not */
struct task_struct___oom {
	struct task_struct *group_leader;
};

#pragma clang attribute pop

static __always_inline void oom_record(struct probe_cpu *c, u32 owner)
{
	u32 key = table_key(owner);
	struct oom_slot *slot = bpf_map_lookup_elem(&oom_table, &key);

	if (!slot)
		return; /* no such slot: user space hands out none beyond the table */
	count(&c->recorded);
	count(&slot->victims);
}

/* oom_again says whether a task's process was counted before, and notes that it is now. */
static __always_inline bool oom_again(struct task_struct *task)
{
	struct task_struct *leader = ((struct task_struct___oom *)task)->group_leader;
	u32 *marked = bpf_task_storage_get(&oom_marked, leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	/* Without memory for the note it may be counted twice, which is better than not at all. */
	return marked && __sync_fetch_and_add(marked, 1);
}

static __always_inline int oom_chosen(struct task_struct *task)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	if (!oom_again(task))
		oom_record(c, owner_of(task->cgroups->dfl_cgrp->kn->id));
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(oom_victim, struct task_struct *task)
{
	return oom_chosen(task);
}

/* What follows is for kernels whose mark_victim names a number. */

SEC("fentry/__oom_kill_process")
int BPF_PROG(oom_kill, struct task_struct *victim)
{
	return oom_chosen(victim);
}

/* It is called once for a process. A pointer from a register is none that task storage could be had of, to know. */
SEC("kprobe.multi/__oom_kill_process")
int oom_probe(struct pt_regs *regs)
{
	struct task_struct *victim = (struct task_struct *)regs_first(regs);
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	oom_record(c, owner_of(BPF_CORE_READ(victim, cgroups, dfl_cgrp, kn, id)));
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/mark_victim")
int oom_number(void *ctx)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	oom_record(c, owner_current());
	probe_leave(c, began);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
