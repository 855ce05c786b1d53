//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Packets that the kernel dropped, by its own reason, for the host and, where a socket tells, for each unit or
 * container.
 *
 * Hook: tp_btf/kfree_skb alone, some 190 ns for each dropped packet; packets that arrive where they should do not pass
 * it. The reason is a number of enum skb_drop_reason, whose names user space takes from the running kernel. Reasons of
 * subsystems (mac80211, openvswitch) have names of their own, in modules; they are counted by subsystem.
 *
 * Packets that are freed without a reason are in `unmatched`: some are drops in places where the kernel has no reason
 * yet, others went the way of all packets. The socket is the receiver where the kernel knows one (its fourth argument,
 * Linux 6.11), else the one that sent the packet.
 */
#include "core.h"
#include "owner.h"
#include "probe.h"
#include "sock.h"

#define DROPS_REASONS    256 /* counters of a slot */
#define DROPS_SUBSYSTEMS 240 /* the first of those of subsystems; below are the kernel's own reasons */
#define DROPS_OTHER      0   /* reasons that have no counter; no packet is dropped for SKB_NOT_DROPPED_YET */

/* Only packets of the network namespace with this inode number; 0: all. For tests. */
const volatile u32 only_netns = 0;

/* The kernel's numbers of SKB_CONSUMED and SKB_DROP_REASON_NOT_SPECIFIED; ~0: it has none. */
const volatile u32 drops_consumed = ~0U;
const volatile u32 drops_unspecified = ~0U;

/* What is counted for an owner. */
struct drops_slot {
	u64 packets[DROPS_REASONS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct drops_slot);
} drops_table SEC(".maps");

/* drops_counter returns which counter a reason has. */
static __always_inline u32 drops_counter(u32 reason)
{
	u32 subsystem = reason >> 16;

	if (!subsystem)
		return reason < DROPS_SUBSYSTEMS ? reason : DROPS_OTHER;
	return subsystem < DROPS_REASONS - DROPS_SUBSYSTEMS ? DROPS_SUBSYSTEMS + subsystem : DROPS_OTHER;
}

/*
 * drops_socket returns the socket that a packet belongs to, or NULL. Time-wait and request sockets have no control group.
 * The pointers may be NULL though the verifier of some kernels holds that they are not, and takes out the checks; so they
 * are read as numbers.
 */
static __always_inline struct sock *drops_socket(struct sk_buff *skb, struct sock *receiver)
{
	struct sock *sk = receiver;
	u8 state;

	if (!sk)
		sk = BPF_CORE_READ(skb, sk);
	if (!sk)
		return NULL;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return NULL;
	return sk;
}

/* drops_elsewhere says whether a packet is of another network namespace than the one to watch. */
static __always_inline bool drops_elsewhere(struct sk_buff *skb, struct sock *sk)
{
	if (!only_netns)
		return false;
	if (sk)
		return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) != only_netns;
	return BPF_CORE_READ(skb, dev, nd_net.net, ns.inum) != only_netns;
}

static __always_inline void drops_count(struct probe_cpu *c, struct sk_buff *skb, u32 reason, struct sock *receiver)
{
	struct sock *sk = drops_socket(skb, receiver);
	u32 key, counter = drops_counter(reason);
	struct drops_slot *slot;
	u64 n;

	if (reason == drops_consumed || drops_elsewhere(skb, sk))
		return; /* no drop, or none that is asked for */
	if (reason == drops_unspecified) {
		count(&c->unmatched);
		return;
	}
	n = probe_weight(c);
	if (!n)
		return;
	key = table_key(sk ? owner_of(BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id)) : OWNER_REST);
	slot = bpf_map_lookup_elem(&drops_table, &key);
	if (!slot)
		return; /* no such slot: user space hands out none beyond the table */
	count(&c->recorded);
	__sync_fetch_and_add(&slot->packets[counter & (DROPS_REASONS - 1)], n);
}

static __always_inline int drops_run(struct sk_buff *skb, u32 reason, struct sock *receiver)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	drops_count(c, skb, reason, receiver);
	probe_leave(c, began);
	return 0;
}

/* drops_argument returns an argument of the tracepoint as a number. */
static __always_inline void *drops_argument(unsigned long long *ctx, u32 i)
{
	void *value = NULL;

	bpf_probe_read_kernel(&value, sizeof(value), &ctx[i]);
	return value;
}

SEC("tp_btf/kfree_skb")
int drops_received(unsigned long long *ctx)
{
	return drops_run(drops_argument(ctx, 0), ctx[2], drops_argument(ctx, 3));
}

/* What follows is for kernels that do not tell the receiver. */

SEC("tp_btf/kfree_skb")
int drops_freed(unsigned long long *ctx)
{
	return drops_run(drops_argument(ctx, 0), ctx[2], NULL);
}

char LICENSE[] SEC("license") = "GPL";
