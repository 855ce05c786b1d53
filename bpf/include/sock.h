/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fields of sockets and packets, as the kernel keeps them, that probes read. net.h has packets as they are on the wire.
 */
#ifndef SLID_SOCK_H
#define SLID_SOCK_H

#include "core.h"
#include "cgroup.h"

#define IPPROTO_TCP 6

#define AF_INET6    10

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED  1
#define TCP_SYN_SENT     2
#define TCP_SYN_RECV     3
#define TCP_FIN_WAIT1    4
#define TCP_TIME_WAIT    6
#define TCP_CLOSE        7
#define TCP_LAST_ACK     9
#define TCP_LISTEN       10
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

/* include/uapi/linux/in6.h */
struct in6_addr {
	union {
		u32 u6_addr32[4];
	} in6_u;
};

/*
 * include/net/sock.h; the addresses are the peer's and the own one, in network order, those of v6 with CONFIG_IPV6;
 * skc_hash is of addresses and ports, with a secret, once the socket is connected
 */
struct sock_common {
	u32 skc_daddr, skc_rcv_saddr;
	unsigned int skc_hash;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	unsigned long skc_flags;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
};

/* include/net/sock.h; sk_cgrp_data exists with CONFIG_SOCK_CGROUP_DATA */
struct sock {
	struct sock_common __sk_common;
	int sk_err;
	u16 sk_protocol;
	struct sock_cgroup_data sk_cgrp_data;
};

struct request_sock;

/* include/net/inet_sock.h */
struct inet_sock {
	struct sock sk;
	u16 inet_sport; /* network order */
};

/* include/net/inet_connection_sock.h */
struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct {
		u32 lrcvtime; /* jiffies when data was last received */
	} icsk_ack;
};

/* include/linux/tcp.h */
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u64 bytes_sent;     /* of payload, what was sent again included */
	u64 bytes_retrans;  /* of these, sent again */
	u64 bytes_received; /* of payload in order, and 1 for a FIN */
	u32 total_retrans;  /* segments sent again; a SYN-ACK is one */
	u32 segs_out;
	u32 srtt_us;    /* smoothed round-trip time in 1/8 us; 0: none measured */
	u32 lsndtime;   /* jiffies when data was last sent */
	u32 copied_seq; /* sequence number of the next byte to be read by the application */
	u32 rcv_nxt;    /* ... and to come */
	u8 fastopen_connect : 1;
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

/* include/linux/bpf.h */
struct bpf_iter_meta {
	struct seq_file *seq;
	u64 session_id;
	u64 seq_num;
};

/* net/ipv4/tcp_ipv4.c */
struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
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
