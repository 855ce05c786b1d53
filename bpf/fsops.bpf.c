//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Filesystem operations: how long reads, writes, opens, syncs and looks at attributes take in the kernel, by the type of
 * the filesystem.
 *
 * The times are those of the VFS, above the page cache: a read that is served from memory takes a microsecond. An open
 * includes the walk along the path. Regular files and folders count; pipes, sockets and devices, whose times are those
 * of waiting, do not, nor do the files that the kernel makes up (proc, sysfs, cgroups), which monitors read all the time.
 * Not seen are mappings, splicing, and what io_uring and the kernel itself read and write, which take other ways; nor
 * opens that fail, since these have no filesystem.
 *
 * A filesystem that lies on another one (overlay) makes operations within operations: both count, each for its type.
 *
 * Hooks: fentry and fexit of the functions below, decided by BTF. They fire for each operation, counted or not.
 */
#include "core.h"
#include "hist.h"
#include "probe.h"
#include "timing.h"

#define FSOPS_TYPES 16 /* types that are told apart, a power of two; the last slot behind takes the others */
#define FSOPS_NAME  16 /* of a type, with its end */
#define FSOPS_DEPTH 4  /* operations within each other */

#define S_IFMT      0170000 /* include/uapi/linux/stat.h */
#define S_IFDIR     0040000
#define S_IFREG     0100000

/* Thread group whose tasks alone are recorded; 0 for all. For tests. */
const volatile u32 only_tgid = 0;

enum fsops_op {
	FSOPS_READ,
	FSOPS_WRITE,
	FSOPS_OPEN,
	FSOPS_FSYNC,
	FSOPS_GETATTR,
	FSOPS_KINDS,
};

/* What is counted for a type. */
struct fsops_slot {
	struct hist op[FSOPS_KINDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FSOPS_TYPES + 1);
	__type(key, u32);
	__type(value, struct fsops_slot);
} fsops_table SEC(".maps");

/* A type of filesystems. The first operation on one takes a slot for it and notes its name. */
struct fsops_type {
	u64 type; /* address of its file_system_type; 0: free */
	u64 left_out;
	char name[FSOPS_NAME]; /* empty while it is being noted */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FSOPS_TYPES);
	__type(key, u32);
	__type(value, struct fsops_type);
} fsops_types SEC(".maps");

/* An operation that goes on. */
struct fsops_span {
	u64 object; /* what it works on, as a name */
	struct timing timing;
};

/* The operations that a task is in. */
struct fsops_task {
	u64 depth;
	struct fsops_span spans[FSOPS_DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct fsops_task);
} fsops_tasks SEC(".maps");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/fs.h */
struct file_system_type {
	const char *name;
};

struct super_block {
	struct file_system_type *s_type;
	unsigned long s_magic;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
};

struct file {
	struct inode *f_inode;
};

/* include/linux/dcache.h */
struct dentry {
	struct inode *d_inode;
};

/* include/linux/path.h */
struct path {
	struct dentry *dentry;
};

#pragma clang attribute pop

/* fsops_made_up says whether the kernel makes up the files of a type, by the magic number (include/uapi/linux/magic.h). */
static __always_inline bool fsops_made_up(u64 magic)
{
	switch (magic) {
	case 0x9fa0:     /* proc */
	case 0x62656572: /* sysfs */
	case 0x63677270: /* cgroup2 */
	case 0x27e0eb:   /* cgroup */
	case 0x64626720: /* debugfs */
	case 0x74726163: /* tracefs */
	case 0x73636673: /* securityfs */
	case 0xf97cff8c: /* selinuxfs */
	case 0x62656570: /* configfs */
	case 0xcafe4a11: /* bpf */
	case 0x6e736673: /* nsfs */
	case 0x50494446: /* pidfs */
	case 0x09041934: /* anonymous inodes: event, timer and signal descriptors */
	case 0x50495045: /* pipefs */
	case 0x534f434b: /* sockfs */
	case 0x19800202: /* mqueue */
	case 0x1cd1:     /* devpts */
	case 0x6165676c: /* pstore */
	case 0xde5e81e4: /* efivarfs */
		return true;
	}
	return false;
}

/* fsops_take makes a free slot that of a type. It returns false if another CPU was faster. */
static __always_inline bool fsops_take(struct fsops_type *t, struct super_block *sb, u64 type)
{
	if (__sync_val_compare_and_swap(&t->type, 0, type))
		return t->type == type;
	t->left_out = fsops_made_up(BPF_CORE_READ(sb, s_magic));
	bpf_probe_read_kernel_str(t->name, sizeof(t->name), BPF_CORE_READ(sb, s_type, name));
	return true;
}

/* fsops_slot_of returns the slot of the type of an inode, or one that does not exist if it is left out. */
static __noinline u32 fsops_slot_of(struct inode *inode)
{
	u32 mode = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	struct super_block *sb = BPF_CORE_READ(inode, i_sb);
	u64 type = (u64)BPF_CORE_READ(sb, s_type);
	u32 i;

	if ((mode != S_IFREG && mode != S_IFDIR) || !type)
		return FSOPS_TYPES + 1;
	for (i = 0; i < FSOPS_TYPES; i++) {
		u32 key = ((type >> 6) + i) & (FSOPS_TYPES - 1);
		struct fsops_type *t = bpf_map_lookup_elem(&fsops_types, &key);

		if (!t)
			break; /* the slot's number is within the map */
		if (t->type == type || (!t->type && fsops_take(t, sb, type)))
			return t->left_out ? FSOPS_TYPES + 1 : key;
	}
	return FSOPS_TYPES; /* more types than slots */
}

/* fsops_task returns the operations of this task; NULL if there are none and none are to be made, or without memory. */
static __always_inline struct fsops_task *fsops_task(u64 flags)
{
	return bpf_task_storage_get(&fsops_tasks, bpf_get_current_task_btf(), 0, flags);
}

static __always_inline bool fsops_left_out(void)
{
	return only_tgid && bpf_get_current_pid_tgid() >> 32 != only_tgid;
}

/* fsops_begins notes the begin of an operation on an object, within those that go on. */
static __noinline void fsops_begins(struct probe_cpu *c, u64 object)
{
	struct fsops_task *t = fsops_task(BPF_LOCAL_STORAGE_GET_F_CREATE);
	u64 depth;

	if (!t) {
		count(&c->lost); /* no memory; the end is unmatched */
		return;
	}
	depth = t->depth;
	if (depth >= FSOPS_DEPTH || (depth && !timing_open(&t->spans[(depth - 1) & (FSOPS_DEPTH - 1)].timing)))
		depth = 0; /* the ends of those that seem to go on were missed */
	t->spans[depth & (FSOPS_DEPTH - 1)].object = object;
	timing_begin(c, &t->spans[depth & (FSOPS_DEPTH - 1)].timing);
	t->depth = depth + 1;
}

/* fsops_take_off takes the operation on an object off, with those within it; NULL if there is none. */
static __always_inline struct timing *fsops_take_off(u64 object)
{
	struct fsops_task *t = fsops_task(0);
	u64 depth;
	u32 i;

	if (!t)
		return NULL;
	depth = t->depth;
	for (i = 0; i < FSOPS_DEPTH; i++) {
		if (!depth || depth > FSOPS_DEPTH)
			return NULL;
		depth--;
		if (t->spans[depth & (FSOPS_DEPTH - 1)].object == object) {
			t->depth = depth;
			return &t->spans[depth & (FSOPS_DEPTH - 1)].timing;
		}
	}
	return NULL;
}

/* fsops_ends counts an operation on an object, which took place on an inode. */
static __noinline void fsops_ends(struct probe_cpu *c, u64 object, u32 slot, u32 op)
{
	struct timing *s = fsops_take_off(object);
	struct fsops_slot *counts;
	u64 length, n;
	u32 key;

	if (slot > FSOPS_TYPES)
		return; /* left out */
	if (!s) {
		count(&c->unmatched); /* it began before the probe did */
		return;
	}
	n = timing_end(c, s, ~0ULL, &length);
	if (!n)
		return;
	key = table_key(slot);
	counts = bpf_map_lookup_elem(&fsops_table, &key);
	barrier_var(op); /* what is checked must be what is used, for the verifier */
	if (counts && op < FSOPS_KINDS)
		hist_add_atomic(&counts->op[op], length, n);
}

static __always_inline int fsops_file_begins(struct file *file)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c || fsops_left_out())
		return 0;
	began = probe_enter(c);
	if (fsops_slot_of(file->f_inode) <= FSOPS_TYPES)
		fsops_begins(c, (u64)file);
	probe_leave(c, began);
	return 0;
}

static __always_inline int fsops_file_ends(struct file *file, u32 op)
{
	struct probe_cpu *c = probe_account();
	u64 began;
	u32 slot;

	if (!c || fsops_left_out())
		return 0;
	began = probe_enter(c);
	slot = fsops_slot_of(file->f_inode);
	if (slot <= FSOPS_TYPES)
		fsops_ends(c, (u64)file, slot, op);
	probe_leave(c, began);
	return 0;
}

SEC("fentry/vfs_read")
int BPF_PROG(fsops_read, struct file *file)
{
	return fsops_file_begins(file);
}

SEC("fexit/vfs_read")
int BPF_PROG(fsops_readend, struct file *file)
{
	return fsops_file_ends(file, FSOPS_READ);
}

SEC("fentry/vfs_write")
int BPF_PROG(fsops_write, struct file *file)
{
	return fsops_file_begins(file);
}

SEC("fexit/vfs_write")
int BPF_PROG(fsops_writeend, struct file *file)
{
	return fsops_file_ends(file, FSOPS_WRITE);
}

SEC("fentry/vfs_readv")
int BPF_PROG(fsops_readv, struct file *file)
{
	return fsops_file_begins(file);
}

SEC("fexit/vfs_readv")
int BPF_PROG(fsops_readvend, struct file *file)
{
	return fsops_file_ends(file, FSOPS_READ);
}

SEC("fentry/vfs_writev")
int BPF_PROG(fsops_writev, struct file *file)
{
	return fsops_file_begins(file);
}

SEC("fexit/vfs_writev")
int BPF_PROG(fsops_writevend, struct file *file)
{
	return fsops_file_ends(file, FSOPS_WRITE);
}

SEC("fentry/vfs_fsync_range")
int BPF_PROG(fsops_fsync, struct file *file)
{
	return fsops_file_begins(file);
}

SEC("fexit/vfs_fsync_range")
int BPF_PROG(fsops_fsyncend, struct file *file)
{
	return fsops_file_ends(file, FSOPS_FSYNC);
}

/* vfs_getattr, which checks permissions before, is inlined into its callers. */
SEC("fentry/vfs_getattr_nosec")
int BPF_PROG(fsops_attr, struct path *path)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c || fsops_left_out())
		return 0;
	began = probe_enter(c);
	if (fsops_slot_of(path->dentry->d_inode) <= FSOPS_TYPES)
		fsops_begins(c, (u64)path);
	probe_leave(c, began);
	return 0;
}

SEC("fexit/vfs_getattr_nosec")
int BPF_PROG(fsops_attrend, struct path *path)
{
	struct probe_cpu *c = probe_account();
	u64 began;
	u32 slot;

	if (!c || fsops_left_out())
		return 0;
	began = probe_enter(c);
	slot = fsops_slot_of(path->dentry->d_inode);
	if (slot <= FSOPS_TYPES)
		fsops_ends(c, (u64)path, slot, FSOPS_GETATTR);
	probe_leave(c, began);
	return 0;
}

SEC("fentry/do_filp_open")
int BPF_PROG(fsops_open, int dfd, void *path)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c || fsops_left_out())
		return 0;
	began = probe_enter(c);
	fsops_begins(c, (u64)path);
	probe_leave(c, began);
	return 0;
}

SEC("fexit/do_filp_open")
int BPF_PROG(fsops_openend, int dfd, void *path, void *op, struct file *file)
{
	struct probe_cpu *c = probe_account();
	u32 slot = FSOPS_TYPES + 1;
	u64 began;

	if (!c || fsops_left_out())
		return 0;
	began = probe_enter(c);
	if ((u64)file < (u64)-4095) /* else it is an error number */
		slot = fsops_slot_of(BPF_CORE_READ(file, f_inode));
	fsops_ends(c, (u64)path, slot, FSOPS_OPEN);
	probe_leave(c, began);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
