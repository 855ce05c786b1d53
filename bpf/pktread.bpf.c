//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Packet to read: how long data that TCP received waits in the socket until the application reads it, for each unit or
 * container.
 *
 * A segment that brings the next bytes in order, while none of its socket is under watch, is put under watch: the wait
 * runs from there (tcp_probe, as TCP takes the segment up) until the application has copied its first byte
 * (tcp_rcv_space_adjust, which each read calls when it has copied). So one segment at a time is measured of a socket, and
 * while an application is slow, the segments behind the first are not. A look at the data (MSG_PEEK) is no read. Not
 * seen is data that is never read, that comes out of order, or before the connection is established. Of data that the
 * kernel itself reads (kTLS, NFS, sockmap), it is the kernel's read that ends the wait.
 *
 * Both hooks run for each segment, so only one of 64 sockets, chosen by the hash of its addresses and ports, is watched,
 * and stands for 64: some 20 ns for a segment of the others, 170 ns of those. Both run with the socket locked.
 * State: 32 bytes of socket-local storage for each watched connection that received data.
 */
#include "core.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"
#include "sock.h"

/* Only sockets of the network namespace with this inode number; 0: all. For tests. */
const volatile u32 only_netns = 0;

/* One of 2^pktread_shift sockets is watched when the governor leaves out none. */
const volatile u32 pktread_shift = 6;

/* What is counted for an owner. */
struct pktread_slot {
	struct hist wait;
};

/* The segment of a socket that is under watch. */
struct pktread_mark {
	u64 arrived; /* CLOCK_MONOTONIC, ns; 0: there is none */
	u32 seq;     /* of its first byte */
	u32 salt;    /* of the sample it belongs to */
	u64 weight;  /* how many segments it stands for */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pktread_mark);
} pktread_marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pktread_slot);
} pktread_table SEC(".maps");

/* pktread_rate returns the logarithm of how many sockets a watched one stands for. */
static __always_inline u32 pktread_rate(void)
{
	return (pktread_shift + sample_shift) & 31;
}

/* pktread_left_out says whether a socket is not to be watched. Nothing counts those: they are nearly all. */
static __always_inline bool pktread_left_out(const struct sock *sk)
{
	u32 rate = pktread_rate();

	if (rate && ((sk->__sk_common.skc_hash ^ sample_salt) * 0x9e3779b1) >> (32 - rate))
		return true;
	return only_netns && sock_netns(sk) != only_netns;
}

/* pktread_arrives puts a segment under watch. */
static __always_inline void pktread_arrives(struct probe_cpu *c, struct sock *sk, struct sk_buff *skb)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct tcp_skb_cb *cb = (void *)skb->cb;
	struct pktread_mark *m;
	u32 seq, end_seq, next;

	if (!tp)
		return; /* no TCP socket; there is none here */
	next = tp->rcv_nxt;
	seq = BPF_CORE_READ(cb, seq);
	end_seq = BPF_CORE_READ(cb, end_seq);
	if (seq != next || seq == end_seq)
		return; /* out of order, or without data */
	m = bpf_sk_storage_get(&pktread_marks, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!m) {
		count(&c->lost); /* no memory */
		return;
	}
	if (m->arrived && m->salt == sample_salt && probe_saw(m->arrived) && m->seq != seq)
		return; /* another one is under watch. With the same number, TCP refused that one, and this is it again */
	if (m->arrived && m->seq != seq)
		count(&c->unmatched); /* the sample changed under it */
	m->arrived = bpf_ktime_get_ns();
	m->seq = seq;
	m->salt = sample_salt;
	m->weight = 1ULL << pktread_rate();
}

/* pktread_reads ends the wait if the application has got to the segment under watch. */
static __always_inline void pktread_reads(struct probe_cpu *c, struct sock *sk)
{
	struct pktread_mark *m = bpf_sk_storage_get(&pktread_marks, sk, 0, 0);
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct pktread_slot *slot;
	u64 now, arrived;
	u32 key;

	if (!m || !tp || !m->arrived || (s32)(tp->copied_seq - m->seq) <= 0)
		return; /* none under watch, or not yet read */
	arrived = m->arrived;
	m->arrived = 0;
	if (m->salt != sample_salt || !probe_saw(arrived)) {
		count(&c->unmatched); /* it may have been read before, when nobody looked */
		return;
	}
	now = bpf_ktime_get_ns();
	if (now < arrived) {
		count(&c->discarded); /* the clocks of two CPUs disagree */
		return;
	}
	key = table_key(owner_of(sock_group(sk)));
	slot = bpf_map_lookup_elem(&pktread_table, &key);
	if (!slot)
		return; /* no such slot: user space hands out none beyond the table */
	count(&c->recorded);
	hist_add_atomic(&slot->wait, now - arrived, m->weight);
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(pktread_arrive, struct sock *sk, struct sk_buff *skb)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	if (!pktread_left_out(sk))
		pktread_arrives(c, sk, skb);
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(pktread_read, struct sock *sk)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	if (!pktread_left_out(sk))
		pktread_reads(c, sk);
	probe_leave(c, began);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
