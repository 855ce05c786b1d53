/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fields of sockets and packets that tracing programs read. net.h has those that programs at control groups read.
 */
#ifndef SLID_SOCK_H
#define SLID_SOCK_H

#include "core.h"
#include "cgroup.h"

#define IPPROTO_TCP 6

/* include/net/tcp_states.h */
#define TCP_FIN_WAIT1    4
#define TCP_TIME_WAIT    6
#define TCP_CLOSE        7
#define TCP_LAST_ACK     9
#define TCP_LISTEN       10
#define TCP_SYN_RECV     3
#define TCP_NEW_SYN_RECV 12

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/ns_common.h; inum is the inode number of /proc/PID/ns/net */
struct ns_common {
	unsigned int inum;
};

/* include/net/net_namespace.h */
struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

/* include/linux/cgroup-defs.h */
struct sock_cgroup_data {
	struct cgroup *cgroup;
};

/* include/net/sock.h; skc_hash is of addresses and ports, with a secret, once the socket is connected */
struct sock_common {
	unsigned int skc_hash;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
};

/* include/net/sock.h; sk_cgrp_data exists with CONFIG_SOCK_CGROUP_DATA */
struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
	struct sock_cgroup_data sk_cgrp_data;
};

/* include/linux/tcp.h; sequence numbers of the next byte to be read by the application, and to come */
struct tcp_sock {
	u32 copied_seq;
	u32 rcv_nxt;
};

/* include/net/tcp.h, in the control buffer of a received segment */
struct tcp_skb_cb {
	u32 seq;
	u32 end_seq;
};

/* include/linux/netdevice.h */
struct net_device {
	possible_net_t nd_net;
};

/* include/linux/skbuff.h */
struct sk_buff {
	struct sock *sk;
	struct net_device *dev;
	char cb[48];
};

#pragma clang attribute pop

/* sock_group returns the id of the control group that made a socket, or 0. */
static __always_inline u64 sock_group(const struct sock *sk)
{
	return sk->sk_cgrp_data.cgroup->kn->id;
}

/* sock_netns returns the network namespace of a socket, as the inode number of /proc/PID/ns/net. */
static __always_inline u32 sock_netns(const struct sock *sk)
{
	return sk->__sk_common.skc_net.net->ns.inum;
}

#endif
