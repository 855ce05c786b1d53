/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The registers of a task at a system call, or at the entry and the return of a function of the kernel. One object serves
 * all architectures: which of these structs the kernel has is decided at load, and the rest is dead code.
 */
#ifndef SLID_REGS_H
#define SLID_REGS_H

#include "core.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* arch/x86/include/asm/ptrace.h */
struct pt_regs___x86 {
	unsigned long di;
	unsigned long cx;
	unsigned long ax;
	unsigned long orig_ax;
};

/* arch/arm64/include/asm/ptrace.h */
struct pt_regs___arm64 {
	u64 regs[31];
	int syscallno;
};

#pragma clang attribute pop

/* regs_call returns the number of the system call that a task is in, or one that is none. */
static __always_inline u32 regs_call(struct pt_regs *regs)
{
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;

	if (bpf_core_field_exists(x86->orig_ax))
		return x86->orig_ax;
	if (bpf_core_field_exists(arm64->syscallno))
		return arm64->syscallno;
	return ~0U;
}

/*
 * What follows is copied, for the compiler's sake: it may add the offset to the address first, which the rules for programs
 * do not allow with the context that a kprobe is given.
 */

/* regs_first returns the first argument of a function that is entered. */
static __always_inline u64 regs_first(struct pt_regs *regs)
{
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;

	if (bpf_core_field_exists(x86->di))
		return BPF_CORE_READ(x86, di);
	if (bpf_core_field_exists(arm64->syscallno))
		return BPF_CORE_READ(arm64, regs[0]);
	return 0;
}

/* regs_fourth returns the fourth argument. */
static __always_inline u64 regs_fourth(struct pt_regs *regs)
{
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;

	if (bpf_core_field_exists(x86->cx))
		return BPF_CORE_READ(x86, cx);
	if (bpf_core_field_exists(arm64->syscallno))
		return BPF_CORE_READ(arm64, regs[3]);
	return 0;
}

/* regs_result returns what a function returns. */
static __always_inline u64 regs_result(struct pt_regs *regs)
{
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;

	if (bpf_core_field_exists(x86->ax))
		return BPF_CORE_READ(x86, ax);
	if (bpf_core_field_exists(arm64->syscallno))
		return BPF_CORE_READ(arm64, regs[0]);
	return 0;
}

#endif
