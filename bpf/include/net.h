/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Packet headers as they stand on the wire (RFC 791, 8200, 9293), and the fields of sockets that probes read. libc's
 * headers for them depend on the architecture that compiles; these do not.
 */
#ifndef SLID_NET_H
#define SLID_NET_H

#include "core.h"
#include "cgroup.h"
#include <bpf/bpf_endian.h>

#define IPPROTO_HOPOPTS 0
#define IPPROTO_TCP     6
#define IP_OFFSET       0x1fff /* of frag_off: where in the datagram a fragment belongs */

#define TH_FIN          0x01
#define TH_RST          0x04

struct ip4_header {
	u8 version_ihl; /* header length in 32-bit words below, version above */
	u8 tos;
	u16 length;
	u16 id;
	u16 frag_off;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 source, destination;
};

struct ip6_header {
	u32 version_class_flow;
	u16 payload_length;
	u8 next_header;
	u8 hop_limit;
	u8 source[16], destination[16];
};

struct tcp_header {
	u16 source, destination;
	u32 seq, ack;
	u8 data_offset; /* in 32-bit words, in the upper half */
	u8 flags;       /* TH_* */
	u16 window;
	u16 checksum;
	u16 urgent;
};

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

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

/* include/net/sock.h; sk_cgrp_data exists with CONFIG_SOCK_CGROUP_DATA */
struct sock_common {
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
	struct sock_cgroup_data sk_cgrp_data;
};

/* include/net/inet_sock.h */
struct inet_sock {
	struct sock sk;
};

/* include/net/inet_connection_sock.h */
struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct {
		u32 lrcvtime; /* jiffies when data was last received */
	} icsk_ack;
};

/* include/linux/tcp.h; bytes of payload since the connection began, jiffies when data was last sent */
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u64 bytes_received;
	u64 bytes_sent;
	u32 lsndtime;
};

/* include/linux/bpf.h, net/core/bpf_sk_storage.c */
struct bpf_iter_meta;
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop

#endif
