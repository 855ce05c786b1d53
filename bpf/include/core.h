/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What every probe needs: the kernel's own names for the BPF interface, libbpf's helpers, short integer names, and the
 * few kernel structs the probes read. The structs name only the fields that are used; their offsets are relocated at
 * load (CO-RE) from the running kernel's BTF, so they fit every kernel and architecture that has those fields.
 * To read another field, add it here under the kernel's name and type.
 */
#ifndef SLID_CORE_H
#define SLID_CORE_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* kernel/sched/sched.h; the clock of a run queue, in ns of sched_clock(). Never mix it with bpf_ktime_get_ns(). */
struct rq {
	u64 clock;
};

/* kernel/sched/sched.h; rq exists with CONFIG_FAIR_GROUP_SCHED. */
struct cfs_rq {
	struct rq *rq;
};

/* include/linux/sched.h; cfs_rq exists with CONFIG_FAIR_GROUP_SCHED. */
struct sched_entity {
	struct cfs_rq *cfs_rq;
};

/* include/linux/sched.h; filled with CONFIG_SCHED_INFO. */
struct sched_info {
	unsigned long pcount;           /* times run on a CPU */
	unsigned long long run_delay;   /* ns spent waiting on a run queue, without the wait that goes on */
	unsigned long long last_queued; /* rq clock when the wait that goes on began; 0 if none */
};

/* include/linux/sched.h */
struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct sched_entity se;
	struct sched_info sched_info;
	struct css_set *cgroups;
};

#pragma clang attribute pop

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h; in flags: a task of the kernel */

#endif
