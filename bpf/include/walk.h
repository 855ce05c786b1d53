/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Walks over the state that sockets hold for a program. User space starts one, and a program sees one socket after another.
 *
 * The direct way is an iterator over the state itself (iter/bpf_sk_storage_map). There are kernels that refuse to load
 * iterators over maps, whoever asks: the other way is an iterator over the open files of all processes (iter/task_file),
 * which sees what is a socket, in every network namespace too. It costs some 50 ns more for each open file, sees a socket
 * once for each process that shares it, and does not see those that no process holds as a file: of the kernel's own
 * services, of io_uring's direct descriptors, and those that wait to be accepted.
 */
#ifndef SLID_WALK_H
#define SLID_WALK_H

#include "sock.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct file;

/* include/linux/net.h */
struct socket {
	struct sock *sk;
};

/* net/core/bpf_sk_storage.c */
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

/* kernel/bpf/task_iter.c */
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

#pragma clang attribute pop

/* walk_sock returns the socket that a file is, or NULL. */
static __always_inline struct sock *walk_sock(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct socket *s;

	if (!file)
		return NULL; /* the end of the list */
	barrier_var(file);   /* or clang reads it twice, and the verifier has checked another */
	s = bpf_sock_from_file(file);
	return s ? s->sk : NULL;
}

#endif
