//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * TCP connections, for each unit or container: how long it takes to connect and why it fails, the round-trip time, the
 * bytes, the retransmits and the resets.
 *
 * Hooks: tp_btf/inet_sock_set_state, where a connection begins, opens and ends: five runs for each end of a connection,
 * 0.3 us each, and none for its packets. Bytes, retransmits and round-trip times are the kernel's own accounts (struct
 * tcp_sock): they are taken at the end of a connection, and an iterator over the sockets' storage takes what has grown of
 * those that go on, in every network namespace, at 0.4 us each. tp_btf/tcp_retransmit_synack counts what no connection accounts for yet, and
 * tp_btf/tcp_send_reset and tcp_receive_reset count resets. When the probe is attached, an iterator over the TCP sockets
 * of the caller's network namespace (iter/tcp) notes where the accounts of open connections stand.
 *
 * State: 48 bytes of socket storage for each connection, freed with the socket; it says how much of each account was
 * counted. Numbers there only move forward, by compare-and-swap, so that a connection's end and the iterator may meet.
 * Programs run in the context of processes and of softirqs, and may interrupt each other: everything is atomic.
 */
#include "core.h"
#include "cgroup.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"
#include "sock.h"
#include "walk.h"
#include <bpf/bpf_endian.h>

#define TCP_PASS  16 /* of so many connections, the iterator writes a byte for one: see tcp_sweep */

#define MAPPED    0xffff /* third word of an IPv6 address that stands for one of IPv4 */
#define LOOPBACK  127    /* first byte of such addresses */

#define SOCK_DONE 1 /* include/net/sock.h, enum sock_flags: the peer's FIN was received */

/* include/uapi/asm-generic/errno.h; architectures that number errors in another way have no BPF */
#define ENETUNREACH  101
#define ECONNABORTED 103
#define ECONNRESET   104
#define ETIMEDOUT    110
#define ECONNREFUSED 111
#define EHOSTUNREACH 113

/* Network namespace (inode number of /proc/PID/ns/net) whose connections alone are counted; 0 for all. For tests. */
const volatile u32 only_netns = 0;

/* Where the other end of a connection is, by its addresses. */
enum tcp_peer {
	PEER_REMOTE,
	PEER_LOOPBACK, /* 127.0.0.0/8, ::1, or the own address */
	PEERS,
};

/* Who asked for a connection. */
enum tcp_open {
	OPEN_ACTIVE,  /* this end */
	OPEN_PASSIVE, /* the other end */
	OPENS,
};

/* Why a connection could not be made. */
enum tcp_cause {
	CAUSE_REFUSED,  /* by a reset */
	CAUSE_TIMEOUT,  /* no answer */
	CAUSE_HOST,     /* unreachable, by ICMP or for want of a link address */
	CAUSE_NET,      /* unreachable, by ICMP */
	CAUSE_ABORTED,  /* the program or an administrator gave up */
	CAUSE_NOT_SENT, /* no request left the socket, e.g. as all local ports are taken */
	CAUSE_OTHER,
	CAUSES,
};

/* What is counted for an owner. */
struct tcp_slot {
	struct hist connect[PEERS];
	struct hist rtt; /* of remote peers */
	u64 opened[OPENS][PEERS];
	u64 failed[CAUSES][PEERS];
	u64 sent[PEERS];     /* bytes of payload, each once */
	u64 received[PEERS]; /* likewise */
	u64 retransmitted;   /* segments */
	u64 resets_sent;
	u64 resets_received;
};

/* The accounts of a connection. */
struct tcp_totals {
	u64 sent;
	u64 received;
	u64 retransmitted;
};

enum tcp_phase {
	PHASE_CLOSED,
	PHASE_CONNECTING,
	PHASE_OPEN, /* the iterator looks at it */
};

/* What is remembered of a connection. */
struct tcp_conn {
	struct tcp_totals seen; /* counted already, or before the probe began */
	u64 began;              /* when this end asked for it; 0: not known */
	u64 looks;              /* at the round-trip time */
	u32 phase;
	u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tcp_conn);
} tcp_conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct tcp_slot);
} tcp_table SEC(".maps");

/* tcp_left_out says whether a socket is none to count. */
static __always_inline bool tcp_left_out(const struct sock *sk)
{
	return only_netns && sk->__sk_common.skc_net.net->ns.inum != only_netns;
}

/*
 * tcp_slot_of returns the slot of a socket's group: the one it was made in, or that of the listening socket. It is looked
 * up for each event, as sockets outlive groups. It is never NULL: user space hands out no slots beyond the table.
 */
static __always_inline struct tcp_slot *tcp_slot_of(const struct sock *sk)
{
	u32 key = table_key(owner_of(sk->sk_cgrp_data.cgroup->kn->id));

	return bpf_map_lookup_elem(&tcp_table, &key);
}

static __always_inline enum tcp_peer tcp_peer(const struct sock *sk)
{
	const struct sock_common *s = &sk->__sk_common;
	u32 peer = s->skc_daddr, own = s->skc_rcv_saddr;

	if (s->skc_family == AF_INET6 && bpf_core_field_exists(s->skc_v6_daddr)) {
		u64 p0 = s->skc_v6_daddr.in6_u.u6_addr32[0], o0 = s->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
		u64 p1 = s->skc_v6_daddr.in6_u.u6_addr32[1], o1 = s->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
		u64 p2 = s->skc_v6_daddr.in6_u.u6_addr32[2], o2 = s->skc_v6_rcv_saddr.in6_u.u6_addr32[2];

		peer = s->skc_v6_daddr.in6_u.u6_addr32[3];
		own = s->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
		if (p0 | p1 | (p2 ^ bpf_htonl(MAPPED)))
			return p0 == o0 && p1 == o1 && p2 == o2 && peer == own ? PEER_LOOPBACK : PEER_REMOTE;
	}
	return peer == own || bpf_ntohl(peer) >> 24 == LOOPBACK ? PEER_LOOPBACK : PEER_REMOTE;
}

/* tcp_account reads a connection's accounts. They may move meanwhile, but none falls for long. */
static __always_inline void tcp_account(const struct sock *sk, struct tcp_sock *tp, struct tcp_totals *now)
{
	now->sent = tp->bytes_sent - tp->bytes_retrans;
	now->received = tp->bytes_received - (sk->__sk_common.skc_flags >> SOCK_DONE & 1);
	now->retransmitted = tp->total_retrans;
}

/* tcp_take moves what was counted from old on to now and returns the growth; 0 if another one moved it meanwhile. */
static __always_inline u64 tcp_take(u64 *seen, u64 old, u64 now)
{
	if ((s64)(now - old) <= 0 || __sync_val_compare_and_swap(seen, old, now) != old)
		return 0;
	return now - old;
}

/*
 * tcp_look counts what a connection's accounts grew by since the last look. The round-trip time is recorded at the first
 * look, and later if payload was sent since the last one: only then was it measured anew. Of a connection that goes on,
 * one byte received is held back: the kernel counts a FIN a moment before it notes that there is one.
 */
static __always_inline void tcp_look(const struct sock *sk, struct tcp_sock *tp, struct tcp_conn *conn, bool goes_on)
{
	struct tcp_slot *slot = tcp_slot_of(sk);
	u64 sent = *(volatile u64 *)&conn->seen.sent, received = *(volatile u64 *)&conn->seen.received;
	u64 retransmitted = *(volatile u64 *)&conn->seen.retransmitted, rtt;
	enum tcp_peer peer = tcp_peer(sk) & 1;
	struct tcp_totals now;

	if (!slot)
		return; /* no such slot */
	tcp_account(sk, tp, &now);
	if (goes_on)
		now.received--;
	sent = tcp_take(&conn->seen.sent, sent, now.sent);
	received = tcp_take(&conn->seen.received, received, now.received);
	retransmitted = tcp_take(&conn->seen.retransmitted, retransmitted, now.retransmitted);
	if (sent)
		__sync_fetch_and_add(&slot->sent[peer], sent);
	if (received)
		__sync_fetch_and_add(&slot->received[peer], received);
	if (retransmitted)
		__sync_fetch_and_add(&slot->retransmitted, retransmitted);
	rtt = tp->srtt_us;
	if (peer == PEER_REMOTE && rtt && (!__sync_fetch_and_add(&conn->looks, 1) || sent))
		hist_record_atomic(&slot->rtt, rtt * 1000 / 8);
}

/*
 * tcp_store makes the storage of a connection, if it has none. fresh says that its bytes are all new; else they count from
 * now on, as what it sent again does. It returns NULL if there is no memory.
 */
static __always_inline struct tcp_conn *tcp_store(const struct sock *sk, struct tcp_sock *tp, u32 phase, bool fresh)
{
	struct tcp_conn init = {.phase = phase};

	tcp_account(sk, tp, &init.seen);
	if (fresh)
		init.seen.sent = init.seen.received = 0;
	return bpf_sk_storage_get(&tcp_conns, (void *)sk, &init, BPF_SK_STORAGE_GET_F_CREATE);
}

/* tcp_begins notes when this end asks for a connection. The socket may have been used before. */
static __always_inline void tcp_begins(struct probe_cpu *c, const struct sock *sk, struct tcp_sock *tp)
{
	struct tcp_conn *conn = tcp_store(sk, tp, PHASE_CONNECTING, false);

	if (!conn) {
		count(&c->lost);
		return;
	}
	conn->phase = PHASE_CONNECTING;
	tcp_account(sk, tp, &conn->seen);
	conn->looks = 0;
	conn->began = bpf_ktime_get_ns();
	if (BPF_CORE_READ_BITFIELD(tp, fastopen_connect))
		conn->began = 0; /* the request may wait for the first write */
}

/* tcp_connected records how long this end waited for a connection. */
static __always_inline void tcp_connected(struct probe_cpu *c, struct tcp_slot *slot, u32 peer, struct tcp_conn *conn)
{
	s64 took;

	if (!conn || conn->phase != PHASE_CONNECTING || !probe_saw(conn->began)) {
		count(&c->unmatched); /* it was asked for before the probe was attached */
		return;
	}
	took = bpf_ktime_get_ns() - conn->began;
	if (took < 0) {
		count(&c->discarded);
		return;
	}
	count(&c->recorded);
	hist_record_atomic(&slot->connect[peer & 1], took);
}

/* tcp_opens counts a connection that opens. */
static __always_inline void tcp_opens(struct probe_cpu *c, const struct sock *sk, struct tcp_sock *tp, int old)
{
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, (void *)sk, 0, 0);
	bool active = old == TCP_SYN_SENT || (conn && conn->phase == PHASE_CONNECTING); /* both ends at once */
	struct tcp_slot *slot = tcp_slot_of(sk);
	enum tcp_peer peer = tcp_peer(sk) & 1;

	if (!slot)
		return; /* no such slot */
	if (active) {
		count(&slot->opened[OPEN_ACTIVE][peer]);
		tcp_connected(c, slot, peer, conn);
	} else {
		count(&slot->opened[OPEN_PASSIVE][peer]);
		count(&c->recorded);
	}
	if (!conn) {
		/* What it sent again until now were SYN-ACKs, which tcp_synack counted. Fast Open carried payload already. */
		conn = tcp_store(sk, tp, PHASE_OPEN, true);
		if (!conn)
			count(&c->lost); /* its bytes and retransmits */
		return;
	}
	conn->phase = PHASE_OPEN;
}

/* tcp_cause says why a connection could not be made. */
static __always_inline u32 tcp_cause(const struct sock *sk, struct tcp_sock *tp)
{
	switch (sk->sk_err) {
	case ECONNREFUSED:
	case ECONNRESET:
		return CAUSE_REFUSED;
	case ETIMEDOUT:
		return CAUSE_TIMEOUT;
	case EHOSTUNREACH:
		return CAUSE_HOST;
	case ENETUNREACH:
		return CAUSE_NET;
	case ECONNABORTED:
		return CAUSE_ABORTED;
	case 0:
		return tp->segs_out ? CAUSE_ABORTED : CAUSE_NOT_SENT;
	}
	return CAUSE_OTHER;
}

/* tcp_fails counts a connection that this end asked for and did not get. */
static __always_inline void tcp_fails(struct probe_cpu *c, const struct sock *sk, struct tcp_sock *tp, int old)
{
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, (void *)sk, 0, 0);
	struct tcp_slot *slot = tcp_slot_of(sk);
	u32 cause = tcp_cause(sk, tp), peer = tcp_peer(sk) & 1;

	if (old != TCP_SYN_SENT && (!conn || conn->phase != PHASE_CONNECTING))
		return; /* the other end asked for it, and did not get that far */
	if (!slot || cause >= CAUSES)
		return; /* no such slot */
	count(&slot->failed[cause][peer]);
	count(&c->recorded);
	if (!conn)
		return;
	tcp_look(sk, tp, conn, false); /* requests that were sent again */
	conn->phase = PHASE_CLOSED;
}

/* tcp_ends takes the last of a connection's accounts. */
static __always_inline void tcp_ends(struct probe_cpu *c, const struct sock *sk, struct tcp_sock *tp)
{
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, (void *)sk, 0, 0);

	if (!conn) {
		count(&c->unmatched); /* it was open before the probe was attached: what is new of its accounts is unknown */
		return;
	}
	count(&c->recorded);
	tcp_look(sk, tp, conn, false);
	tcp_look(sk, tp, conn, false); /* what the iterator took meanwhile was less than there is now */
	conn->phase = PHASE_CLOSED;
}

/* tcp_changed is what a change of state does. */
static __always_inline void tcp_changed(struct probe_cpu *c, const struct sock *sk, int old, int new)
{
	bool opening = old == TCP_SYN_SENT || old == TCP_SYN_RECV;
	struct tcp_sock *tp;

	if (old == TCP_LISTEN || old == new)
		return; /* a listening socket ends, or gives birth: what is born opens later, with addresses */
	if (new != TCP_SYN_SENT &&new != TCP_CLOSE && (!opening || new == TCP_SYN_RECV))
		return; /* one end is closed, or both ends ask at the same time: it goes on */
	tp = bpf_skc_to_tcp_sock((void *)sk);
	if (!tp || tcp_left_out(sk))
		return; /* SCTP, or MPTCP, whose subflows are TCP connections and come here too */
	if (new == TCP_SYN_SENT)
		tcp_begins(c, sk, tp);
	else if (new != TCP_CLOSE)
		tcp_opens(c, sk, tp, old); /* with TCP Fast Open it may be closed by then */
	else if (opening)
		tcp_fails(c, sk, tp, old);
	else
		tcp_ends(c, sk, tp);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state, const struct sock *sk, int old, int new)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	tcp_changed(c, sk, old, new);
	probe_leave(c, began);
	return 0;
}

/* Counts SYN-ACKs that were sent again, of connections that do not account for it yet. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_synack, const struct sock *sk, const struct request_sock *req)
{
	struct probe_cpu *c = probe_account();
	struct tcp_slot *slot;
	u64 began;

	if (!c || tcp_left_out(sk))
		return 0;
	began = probe_enter(c);
	slot = tcp_slot_of(sk);
	if (slot) {
		count(&slot->retransmitted);
		count(&c->recorded);
	}
	probe_leave(c, began);
	return 0;
}

/* tcp_whole says whether sk is a whole socket: not NULL, as fields of NULL read 0, and none of the small kinds. */
static __always_inline bool tcp_whole(const struct sock *sk)
{
	unsigned char state = sk->__sk_common.skc_state;

	return state && state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

/* tcp_rejects counts a reset that is sent, for the owner of the socket. Resets of closed ports have no socket. */
static __always_inline void tcp_rejects(struct probe_cpu *c, const struct sock *sk, const struct sk_buff *skb)
{
	struct tcp_slot *slot;
	u32 key = table_key(OWNER_REST);

	if (sk && tcp_whole(sk)) {
		if (tcp_left_out(sk))
			return;
		slot = tcp_slot_of(sk);
	} else {
		if (only_netns && (!skb || skb->dev->nd_net.net->ns.inum != only_netns))
			return;
		slot = bpf_map_lookup_elem(&tcp_table, &key);
	}
	if (!slot)
		return; /* no such slot */
	count(&slot->resets_sent);
	count(&c->recorded);
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_reject, const struct sock *sk, const struct sk_buff *skb)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	tcp_rejects(c, sk, skb);
	probe_leave(c, began);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_rejected, struct sock *sk)
{
	struct probe_cpu *c = probe_account();
	struct tcp_slot *slot;
	u64 began;

	if (!c || tcp_left_out(sk))
		return 0;
	began = probe_enter(c);
	slot = tcp_slot_of(sk);
	if (slot) {
		count(&slot->resets_received);
		count(&c->recorded);
	}
	probe_leave(c, began);
	return 0;
}

/* Takes what has grown of a connection that goes on. */
static __always_inline void tcp_grown(struct sock *sk, struct tcp_conn *conn)
{
	struct tcp_sock *tp;

	if (!conn || conn->phase != PHASE_OPEN)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		tcp_look(sk, tp, conn, true);
}

/*
 * Visits the connections. This iterator holds up a CPU until its reader's buffer is full, so it writes a byte now and then:
 * a reader with a buffer of some hundred bytes lets others run after some thousand connections.
 */
SEC("iter/bpf_sk_storage_map")
int tcp_sweep(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct probe_cpu *c = probe_account();
	struct tcp_conn *conn = ctx->value;
	struct sock *sk = ctx->sk;
	u64 began;
	u8 byte = 0;

	if (!c || !conn || !sk)
		return 0; /* the end of the list */
	began = probe_enter(c);
	if (!(ctx->meta->seq_num % TCP_PASS))
		bpf_seq_write(ctx->meta->seq, &byte, sizeof(byte));
	tcp_grown(sk, conn);
	probe_leave(c, began);
	return 0;
}

/* Visits them by the files that they are; this iterator lets others run. */
SEC("iter/task_file")
int tcp_sweep_files(struct bpf_iter__task_file *ctx)
{
	struct probe_cpu *c = probe_account();
	struct sock *sk = walk_sock(ctx);
	u64 began;

	if (!c || !sk)
		return 0;
	began = probe_enter(c);
	tcp_grown(sk, bpf_sk_storage_get(&tcp_conns, sk, NULL, 0));
	probe_leave(c, began);
	return 0;
}

/* Notes where the accounts of a connection stand that the probe did not see begin. */
SEC("iter/tcp")
int tcp_adopt(struct bpf_iter__tcp *ctx)
{
	struct sock_common *s = ctx->sk_common;
	struct tcp_conn *conn;
	struct tcp_sock *tp;
	unsigned char state;

	if (!s)
		return 0; /* the end of the list */
	tp = bpf_skc_to_tcp_sock(s);
	if (!tp)
		return 0; /* a request, or one that waits after its end */
	state = s->skc_state;
	if (state == TCP_LISTEN || state == TCP_CLOSE || state == TCP_SYN_RECV || tcp_left_out((void *)s))
		return 0; /* no connection yet */
	conn = tcp_store((void *)s, tp, state == TCP_SYN_SENT ? PHASE_CONNECTING : PHASE_OPEN, false);
	if (conn && state != TCP_SYN_SENT)
		conn->phase = PHASE_OPEN; /* it opened while the probe was detached */
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
