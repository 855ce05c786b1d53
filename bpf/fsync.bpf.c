//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Durability waits: how long tasks of each unit or container wait until their data is on disk, for fsync and fdatasync
 * apart, and how many of these waits ended with an error.
 *
 * Hooks, the best first:
 * - fentry and fexit of vfs_fsync_range (fs/sync.c), which every way passes: fsync and fdatasync, also by io_uring, writes
 *   to files opened with O_SYNC (as fsync) or O_DSYNC (as fdatasync), msync, and the commits of an NFS server, on all file
 *   systems. Compilers put it into one or the other of its callers in the same file (Debian's 6.1 into fdatasync), so the
 *   two system calls are hooked as well, and what is measured within is not measured again. Work that the kernel's own
 *   threads do for others (aio, loop devices) is theirs, if it is seen.
 * - kprobe.multi and kretprobe.multi of the same functions (CONFIG_FPROBE), or kprobes and kretprobes, for policies that
 *   refuse fentry and kernels without trampolines for programs. A return does not tell which call it is of: it is the
 *   innermost that goes on.
 * - tp_btf/ext4_sync_file_enter and _exit: the same for ext4 alone.
 * - tracepoint/syscalls/sys_enter_fsync, sys_exit_fsync and those of fdatasync: these two system calls alone. While a
 *   tracepoint of a system call is in use, the kernel takes the slow way in and out of every system call.
 * On overlayfs, one passes within another: the inner one, of the file system below, is measured.
 * A run takes some 300 ns, beside waits of some microseconds (tmpfs) to many milliseconds.
 */
#include "core.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"
#include "regs.h"
#include "span.h"

enum fsync_kind {
	FSYNC_ALL,  /* fsync */
	FSYNC_DATA, /* fdatasync */
	FSYNC_KINDS,
};

enum fsync_error {
	FSYNC_EIO,
	FSYNC_ENOSPC,
	FSYNC_EDQUOT,
	FSYNC_OTHER,
	FSYNC_ERRORS,
};

/* include/uapi/asm-generic/errno*.h */
#define EIO    5
#define EBADF  9
#define ENOSPC 28
#define EDQUOT 122

/* What is counted for an owner. */
struct fsync_slot {
	struct hist wait[FSYNC_KINDS];
	u64 errors[FSYNC_ERRORS]; /* waits that ended so; they are in wait too */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct fsync_slot);
} fsync_table SEC(".maps");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct inode;

/* include/linux/fs.h */
struct file {
	struct inode *f_inode;
};

#pragma clang attribute pop

/* What the tracepoint of the end of a system call is given: /sys/kernel/tracing/events/syscalls/.../format. */
struct fsync_sys_exit {
	u64 common;
	s64 number;
	s64 ret;
};

static __always_inline int fsync_begins(u64 id, bool datasync)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	span_begin(c, id, datasync ? FSYNC_DATA : FSYNC_ALL);
	probe_leave(c, began);
	return 0;
}

static __always_inline enum fsync_error fsync_error(s64 ret)
{
	switch (ret) {
	case -EIO:
		return FSYNC_EIO;
	case -ENOSPC:
		return FSYNC_ENOSPC;
	case -EDQUOT:
		return FSYNC_EDQUOT;
	}
	return FSYNC_OTHER;
}

static __always_inline void fsync_record(struct probe_cpu *c, struct span_done *done, s64 ret)
{
	u32 key = table_key(owner_current()), kind = done->kind;
	struct fsync_slot *slot = bpf_map_lookup_elem(&fsync_table, &key);

	if (!slot || kind >= FSYNC_KINDS)
		return; /* no such slot: user space hands out none beyond the table */
	count(&c->recorded);
	hist_add_atomic(&slot->wait[kind], done->ns, done->weight);
	if (ret < 0)
		__sync_fetch_and_add(&slot->errors[fsync_error(ret)], done->weight);
}

static __always_inline int fsync_ends(u64 id, s64 ret)
{
	struct probe_cpu *c = probe_account();
	struct span_done done = {};
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	if (span_end(c, id, &done) == SPAN_ENDED && ret != -EBADF) /* without a file nothing waits */
		fsync_record(c, &done, ret);
	probe_leave(c, began);
	return 0;
}

SEC("fentry/vfs_fsync_range")
int BPF_PROG(fsync_enter, struct file *file, s64 start, s64 end, int datasync)
{
	return fsync_begins((u64)file->f_inode, datasync);
}

SEC("fexit/vfs_fsync_range")
int BPF_PROG(fsync_exit, struct file *file, s64 start, s64 end, int datasync, int ret)
{
	return fsync_ends((u64)file->f_inode, ret);
}

#define FSYNC_CALL 1 /* id of a system call: a task is in one at a time */

/* User space names the functions of the system calls, which differ between architectures. */

SEC("fentry/fsync")
int fsync_sys(void *ctx)
{
	return fsync_begins(FSYNC_CALL, false);
}

SEC("fexit/fsync")
int BPF_PROG(fsync_sys_end, void *regs, s64 ret)
{
	return fsync_ends(FSYNC_CALL, ret);
}

SEC("fentry/fdatasync")
int fsync_sys_data(void *ctx)
{
	return fsync_begins(FSYNC_CALL, true);
}

SEC("fexit/fdatasync")
int BPF_PROG(fsync_sys_dend, void *regs, s64 ret)
{
	return fsync_ends(FSYNC_CALL, ret);
}

/* The same by kprobes. */

#define FSYNC_NONE 2 /* id of nothing */

/* fsync_innermost returns the id of the call of vfs_fsync_range that returns next. */
static __always_inline u64 fsync_innermost(void)
{
	u64 id = span_innermost();

	return id && id != FSYNC_CALL ? id : FSYNC_NONE;
}

SEC("kprobe.multi/vfs_fsync_range")
int fsync_probe(struct pt_regs *regs)
{
	struct file *file = (struct file *)regs_first(regs);

	return fsync_begins((u64)BPF_CORE_READ(file, f_inode), (int)regs_fourth(regs));
}

SEC("kretprobe.multi/vfs_fsync_range")
int fsync_probe_end(struct pt_regs *regs)
{
	return fsync_ends(fsync_innermost(), (int)regs_result(regs));
}

SEC("kprobe.multi/fsync")
int fsync_probe_sys(struct pt_regs *regs)
{
	return fsync_begins(FSYNC_CALL, false);
}

SEC("kretprobe.multi/fsync")
int fsync_probe_send(struct pt_regs *regs)
{
	return fsync_ends(FSYNC_CALL, regs_result(regs));
}

SEC("kprobe.multi/fdatasync")
int fsync_probe_data(struct pt_regs *regs)
{
	return fsync_begins(FSYNC_CALL, true);
}

SEC("kretprobe.multi/fdatasync")
int fsync_probe_dend(struct pt_regs *regs)
{
	return fsync_ends(FSYNC_CALL, regs_result(regs));
}

SEC("tp_btf/ext4_sync_file_enter")
int BPF_PROG(fsync_ext4, struct file *file, int datasync)
{
	return fsync_begins((u64)file->f_inode, datasync);
}

SEC("tp_btf/ext4_sync_file_exit")
int BPF_PROG(fsync_ext4_end, struct inode *inode, int ret)
{
	return fsync_ends((u64)inode, ret);
}

SEC("tracepoint/syscalls/sys_enter_fsync")
int fsync_call(void *ctx)
{
	return fsync_begins(FSYNC_CALL, false);
}

SEC("tracepoint/syscalls/sys_enter_fdatasync")
int fsync_data(void *ctx)
{
	return fsync_begins(FSYNC_CALL, true);
}

SEC("tracepoint/syscalls/sys_exit_fsync")
int fsync_call_end(struct fsync_sys_exit *ctx)
{
	return fsync_ends(FSYNC_CALL, ctx->ret);
}

SEC("tracepoint/syscalls/sys_exit_fdatasync")
int fsync_data_end(struct fsync_sys_exit *ctx)
{
	return fsync_ends(FSYNC_CALL, ctx->ret);
}

char LICENSE[] SEC("license") = "GPL";
