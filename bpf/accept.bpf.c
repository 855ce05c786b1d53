//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Accept-queue wait: how long a TCP connection that a client has opened waits until the server takes it by accept(2),
 * for each unit or container that listens.
 *
 * It begins when the kernel makes the connection's socket, which it does at the last segment of the handshake and before
 * it puts the socket into the queue (with TCP Fast Open: at the first): inet_sock_set_state, LISTEN -> SYN_RECV. It ends
 * when inet_csk_accept returns the socket; where functions cannot be attached to, when accept(2) or accept4(2) returns,
 * whose descriptor leads to the socket. Connections that end in the queue, by the client's reset or the listener's end,
 * are counted apart. A listening socket that systemd made belongs to systemd's group.
 *
 * The state is kept by the address of the socket, for as long as it is in the queue.
 * Cost: some 110 ns for each change of a socket's state, of which a connection has five, and 70 ns for its accept; where
 * the exit of system calls is the hook, some 10 ns for each call of any kind besides, and the way into a program.
 */
#include "core.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"
#include "regs.h"
#include "sock.h"

#define ACCEPT_WAITING 16384 /* connections in accept queues at a time */

/* Only sockets of the network namespace with this inode number; 0: all. For tests. */
const volatile u32 only_netns = 0;

/* The numbers of accept and accept4 on this architecture. */
const volatile u32 accept_call = 0;
const volatile u32 accept4_call = 0;

/* What is counted for an owner. */
struct accept_slot {
	struct hist wait;
	u64 ended; /* connections that ended before they were accepted */
};

/* A connection that waits. */
struct accept_wait {
	u64 began;  /* CLOCK_MONOTONIC, ns */
	u64 cgroup; /* id of the listener's control group */
	u64 weight; /* how many connections it stands for */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ACCEPT_WAITING);
	__type(key, u64); /* address of the socket */
	__type(value, struct accept_wait);
} accept_waits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct accept_slot);
} accept_table SEC(".maps");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/fdtable.h */
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct task_struct___files {
	struct files_struct *files;
};

/* include/linux/fs.h */
struct file {
	void *private_data;
};

/* include/linux/net.h: what private_data of a socket's file points to */
struct socket {
	struct sock *sk;
};

#pragma clang attribute pop

/* accept_begins notes that a connection goes into its listener's queue. */
static __always_inline void accept_begins(struct probe_cpu *c, const struct sock *sk, u64 key)
{
	struct accept_wait w = {.weight = probe_weight(c)};

	if (!w.weight)
		return; /* left out, and counted so */
	w.began = bpf_ktime_get_ns();
	w.cgroup = sock_group(sk);
	if (bpf_map_update_elem(&accept_waits, &key, &w, BPF_ANY))
		count(&c->lost); /* more wait than there is room for */
}

/* accept_slot returns the counts of a connection's owner. */
static __always_inline struct accept_slot *accept_slot(struct accept_wait *w)
{
	u32 key = table_key(owner_of(w->cgroup));

	return bpf_map_lookup_elem(&accept_table, &key);
}

/* accept_ends counts a connection that was accepted (taken) or that ended in the queue. */
static __always_inline void accept_ends(struct probe_cpu *c, u64 key, struct accept_wait *w, bool taken)
{
	struct accept_wait copy = *w;
	struct accept_slot *slot = accept_slot(w);
	u64 now = bpf_ktime_get_ns();

	if (bpf_map_delete_elem(&accept_waits, &key) || !slot)
		return; /* another CPU was first; or no such slot: user space hands out none beyond the table */
	if (!probe_saw(copy.began)) {
		count(&c->unmatched); /* it may have been accepted while nobody looked */
	} else if (now < copy.began) {
		count(&c->discarded); /* the clocks of two CPUs disagree */
	} else if (taken) {
		count(&c->recorded);
		hist_add_atomic(&slot->wait, now - copy.began, copy.weight);
	} else {
		count(&c->recorded);
		__sync_fetch_and_add(&slot->ended, copy.weight);
	}
}

static __always_inline void accept_changes(struct probe_cpu *c, const struct sock *sk, int from, int to)
{
	u64 key = (u64)sk;
	struct accept_wait *w;

	if (to != TCP_SYN_RECV && to != TCP_CLOSE && to != TCP_FIN_WAIT1 && to != TCP_LAST_ACK)
		return; /* nothing that concerns the queue */
	if (sk->sk_protocol != IPPROTO_TCP || (only_netns && sock_netns(sk) != only_netns))
		return;
	if (to == TCP_SYN_RECV) {
		if (from == TCP_LISTEN) /* else both sides open at once */
			accept_begins(c, sk, key);
		return;
	}
	w = bpf_map_lookup_elem(&accept_waits, &key);
	if (!w)
		return; /* a client, or accepted before */
	if (to == TCP_CLOSE) {
		accept_ends(c, key, w, false);
		return;
	}
	/* The application closes it: it was accepted in a way that the program at the exit of system calls misses. */
	count(&c->unmatched);
	bpf_map_delete_elem(&accept_waits, &key);
}

/* accept_taken ends the wait of a connection. open says that it has not been closed meanwhile. */
static __always_inline void accept_taken(struct probe_cpu *c, u64 key, bool open)
{
	struct accept_wait *w = bpf_map_lookup_elem(&accept_waits, &key);

	if (w)
		accept_ends(c, key, w, true);
	else if (open && !sample_shift)
		count(&c->unmatched); /* in the queue since before the probe began, or it found no room */
}

static __always_inline int accept_returned(struct sock *sk)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	if (sk && (!only_netns || sock_netns(sk) == only_netns))
		accept_taken(c, (u64)sk, sk->__sk_common.skc_state != TCP_CLOSE);
	probe_leave(c, began);
	return 0;
}

/* accept_called says whether a system call that returns is accept or accept4. */
static __always_inline bool accept_called(struct pt_regs *regs)
{
	u32 call = regs_call(regs);

	return call == accept_call || call == accept4_call;
}

/* accept_socket returns the socket behind a descriptor of the running task, or NULL if it is no TCP socket. */
static __always_inline struct sock *accept_socket(u32 fd)
{
	struct task_struct___files *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd), *file = NULL;
	struct socket *socket;
	struct sock *sk;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return NULL; /* not a descriptor: the call was one of another architecture */
	bpf_probe_read_kernel(&file, sizeof(file), &files[fd]);
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	return BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP ? sk : NULL;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(accept_state, const struct sock *sk, int from, int to)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	accept_changes(c, sk, from, to);
	probe_leave(c, began);
	return 0;
}

/* inet_csk_accept has had two arguments since Linux 6.10 and four before. */

SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_return2, struct sock *listener, void *arg, struct sock *sk)
{
	return accept_returned(sk);
}

SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_return4, struct sock *listener, int flags, int *err, bool kern, struct sock *sk)
{
	return accept_returned(sk);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(accept_exit, struct pt_regs *regs, long ret)
{
	struct probe_cpu *c = probe_account();
	struct sock *sk;
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	if (ret >= 0 && accept_called(regs)) {
		sk = accept_socket(ret);
		if (sk && (!only_netns || BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) == only_netns))
			accept_taken(c, (u64)sk, BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_CLOSE);
	}
	probe_leave(c, began);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
