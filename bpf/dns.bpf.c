//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * DNS as its clients on this host see it: how long a query over UDP takes to be answered, with which response code, and
 * which are never answered, for each unit or container.
 *
 * Hooks: cgroup_skb egress and ingress on the root of the cgroup2 tree, where every packet of every network namespace
 * passes with its socket. What leaves for port 53 and asks is a query; what comes from port 53 and answers is the answer
 * to the query of its number that the same socket sent. The time runs from the first sending. cgroup/sock_release counts
 * what a closed socket still waited for, and an iterator over the sockets' state what waits for too long.
 *
 * TCP connections to port 53 are counted, not what they say. Not seen are other ports (DNS over TLS and HTTPS, multicast
 * DNS) and queries that are answered without a packet: by a cache in the process or over another way to a resolver
 * (nss-resolve). An answer that a local resolver gives is one as any other.
 *
 * State: 272 bytes of socket-local storage for each socket that sent a query.
 * Cost: 30 to 45 ns for each packet of the host that is none of these, 160 ns for a query or an answer.
 */
#include "core.h"
#include "hist.h"
#include "owner.h"
#include "packet.h"
#include "probe.h"
#include "walk.h"

#define DNS_QUERIES 16 /* that a socket waits for at a time */

#define TH_SYN      0x02
#define TH_ACK      0x10

/* Where servers listen. Tests have one of their own. */
const volatile u16 dns_port = 53;

/* A query that waits for longer is not answered any more. */
const volatile u64 dns_timeout_ns = 10000000000;

enum dns_code {
	DNS_NOERROR,
	DNS_NXDOMAIN,
	DNS_SERVFAIL,
	DNS_REFUSED,
	DNS_OTHER,
	DNS_CODES,
};

/* What is counted for an owner. */
struct dns_slot {
	struct hist duration;     /* of answered queries */
	u64 responses[DNS_CODES]; /* their answers, by response code */
	u64 truncated;            /* of these, the ones that say that there is more, by TCP */
	u64 sent_again;           /* queries that were sent once more */
	u64 timeouts;             /* queries without an answer within dns_timeout_ns */
	u64 abandoned;            /* queries that the client gave up before: it closed the socket */
	u64 tcp;                  /* TCP connections that were tried */
};

/* State of a query: its number, with one of these bits. 0: none. */
#define DNS_WAITS 0x10000
#define DNS_TAKEN 0x20000 /* its number is about to come */

struct dns_query {
	u64 sent;  /* CLOCK_MONOTONIC, ns */
	u32 state; /* compared and swapped: hooks on several CPUs and the iterator may want the same query */
	u32 pad;
};

struct dns_socket {
	u64 cgroup; /* id of the control group that made the socket */
	struct dns_query queries[DNS_QUERIES];
};

/* RFC 1035, section 4.1.1 */
struct dns_header {
	u16 id;
	u16 flags;
	u16 questions, answers, authorities, additional;
};

#define DNS_RESPONSE  0x8000
#define DNS_OPCODE    0x7800 /* 0: a standard query */
#define DNS_TRUNCATED 0x0200
#define DNS_RCODE     0x000f

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct dns_socket);
} dns_sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct dns_slot);
} dns_table SEC(".maps");

/* dns_counts returns the counts of a control group's owner. It is NULL for no slot that user space hands out. */
static __always_inline struct dns_slot *dns_counts(u64 cgroup)
{
	u32 key = table_key(owner_of(cgroup));

	return bpf_map_lookup_elem(&dns_table, &key);
}

/* dns_code returns the class of a response code (RFC 1035, section 4.1.1). */
static __always_inline u32 dns_code(u16 flags)
{
	switch (flags & DNS_RCODE) {
	case 0:
		return DNS_NOERROR;
	case 2:
		return DNS_SERVFAIL;
	case 3:
		return DNS_NXDOMAIN;
	case 5:
		return DNS_REFUSED;
	}
	return DNS_OTHER;
}

/* dns_take takes a query off the socket's list. It is false if somebody else did, or if it is another one by now. */
static __always_inline bool dns_take(struct dns_query *q, u32 state)
{
	return __sync_val_compare_and_swap(&q->state, state, 0) == state;
}

/* dns_ended counts a query without an answer. */
static __always_inline void dns_ended(struct probe_cpu *c, struct dns_slot *slot, u64 sent, u64 *counter)
{
	if (!probe_saw(sent))
		count(&c->unmatched); /* it may have been answered while nobody looked */
	else
		count(counter);
}

/* dns_expire takes a query off the list if it waits for too long. */
static __always_inline void dns_expire(struct probe_cpu *c, struct dns_slot *slot, struct dns_query *q, u64 now)
{
	u32 state = q->state;
	u64 sent = q->sent;

	if (state & DNS_WAITS && (s64)(now - sent) > (s64)dns_timeout_ns && dns_take(q, state))
		dns_ended(c, slot, sent, &slot->timeouts);
}

/* dns_put puts a query on the list, if there is a free place. */
static __always_inline bool dns_put(struct dns_query *q, u32 id, u64 now)
{
	if (__sync_val_compare_and_swap(&q->state, 0, DNS_TAKEN) != 0)
		return false;
	q->sent = now;
	__sync_lock_test_and_set(&q->state, DNS_WAITS | id); /* after sent, for all to see */
	return true;
}

/* dns_asks notes that a socket sent a query. */
static __noinline int dns_asks(struct dns_socket *s, u32 id)
{
	struct probe_cpu *c = probe_account();
	u64 now = bpf_ktime_get_ns();
	struct dns_slot *slot;
	struct dns_query *q;

	if (!c)
		return 0;
	slot = dns_counts(s->cgroup);
	if (!slot)
		return 0;
	for (int i = 0; i < DNS_QUERIES; i++) {
		q = &s->queries[i];
		dns_expire(c, slot, q, now);
		if (q->state == (DNS_WAITS | id)) {
			count(&slot->sent_again);
			return 0;
		}
	}
	for (int i = 0; i < DNS_QUERIES; i++)
		if (dns_put(&s->queries[i], id, now))
			return 0;
	count(&c->lost); /* the socket waits for more answers than there is room for */
	return 0;
}

/* dns_answers counts the answer to a query of a socket. */
static __noinline int dns_answers(struct dns_socket *s, u32 id, u32 flags)
{
	struct probe_cpu *c = probe_account();
	u64 now = bpf_ktime_get_ns(), sent;
	struct dns_slot *slot;
	struct dns_query *q;

	if (!c)
		return 0;
	slot = dns_counts(s->cgroup);
	if (!slot)
		return 0;
	for (int i = 0; i < DNS_QUERIES; i++) {
		q = &s->queries[i];
		sent = q->sent;
		if (q->state != (DNS_WAITS | id) || !dns_take(q, DNS_WAITS | id))
			continue;
		if (!probe_saw(sent))
			break; /* sent before: it may have been sent again since, unseen */
		if (now < sent) {
			count(&c->discarded); /* the clocks of two CPUs disagree */
			return 0;
		}
		count(&c->recorded);
		hist_add_atomic(&slot->duration, now - sent, 1);
		count(&slot->responses[dns_code(flags)]);
		if (flags & DNS_TRUNCATED)
			count(&slot->truncated);
		return 0;
	}
	count(&c->unmatched); /* too late, a second one, or to a query from before the probe began */
	return 0;
}

/* dns_datagram counts a datagram from or to port 53, whose payload stands at off. */
static __always_inline void dns_datagram(struct probe_cpu *c, struct __sk_buff *skb, struct bpf_sock *sk, u32 off,
					 bool in)
{
	struct dns_socket *s;
	struct dns_header h;
	u16 flags;

	if (bpf_skb_load_bytes(skb, off, &h, sizeof(h))) {
		count(&c->discarded); /* too short for DNS */
		return;
	}
	flags = bpf_ntohs(h.flags);
	if (in != !!(flags & DNS_RESPONSE))
		return; /* a server, whose port is 53 as well */
	if (flags & DNS_OPCODE)
		return; /* an update or a notification of servers */
	s = bpf_sk_storage_get(&dns_sockets, sk, NULL, in ? 0 : BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!s) {
		count(in ? &c->unmatched : &c->lost); /* it never asked; no memory */
		return;
	}
	if (in) {
		dns_answers(s, bpf_ntohs(h.id), flags);
		return;
	}
	s->cgroup = bpf_sk_cgroup_id(sk);
	dns_asks(s, bpf_ntohs(h.id));
}

/* dns_udp looks for DNS in a packet of UDP. */
static __always_inline void dns_udp(struct probe_cpu *c, struct __sk_buff *skb, struct bpf_sock *sk,
				    struct packet_ip *ip, bool in)
{
	struct udp_header *udp = (void *)(long)skb->data + ip->off;

	if ((void *)(udp + 1) > (void *)(long)skb->data_end)
		return; /* cut off: TCP's and UDP's headers are where programs see them */
	if ((in ? udp->source : udp->destination) == bpf_htons(dns_port))
		dns_datagram(c, skb, sk, ip->off + sizeof(*udp), in);
}

/* dns_tcp counts a connection that is tried to port 53. */
static __always_inline void dns_tcp(struct __sk_buff *skb, struct bpf_sock *sk, struct packet_ip *ip)
{
	struct tcp_header *tcp = (void *)(long)skb->data + ip->off;
	struct dns_slot *slot;

	if ((void *)(tcp + 1) > (void *)(long)skb->data_end)
		return; /* cut off, as above */
	if (tcp->destination != bpf_htons(dns_port) || (tcp->flags & (TH_SYN | TH_ACK)) != TH_SYN)
		return;
	slot = dns_counts(bpf_sk_cgroup_id(sk));
	if (slot)
		count(&slot->tcp);
}

static __always_inline void dns_packet(struct probe_cpu *c, struct __sk_buff *skb, bool in)
{
	struct packet_ip ip;
	struct bpf_sock *sk;

	if (!packet_ip(skb, 0, &ip) || (ip.protocol != IPPROTO_UDP && (in || ip.protocol != IPPROTO_TCP)))
		return;
	sk = skb->sk;
	if (!sk)
		return; /* the kernel's own */
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	if (ip.protocol == IPPROTO_UDP)
		dns_udp(c, skb, sk, &ip, in);
	else
		dns_tcp(skb, sk, &ip);
}

SEC("cgroup_skb/egress")
int dns_egress(struct __sk_buff *skb)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 1;
	began = probe_enter(c);
	dns_packet(c, skb, false);
	probe_leave(c, began);
	return 1; /* pass, always */
}

SEC("cgroup_skb/ingress")
int dns_ingress(struct __sk_buff *skb)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 1;
	began = probe_enter(c);
	dns_packet(c, skb, true);
	probe_leave(c, began);
	return 1; /* pass, always */
}

/* dns_closed counts what a socket still waited for. */
static __noinline int dns_closed(struct dns_socket *s)
{
	struct probe_cpu *c = probe_account();
	u64 now = bpf_ktime_get_ns(), sent;
	struct dns_slot *slot;
	struct dns_query *q;
	u32 state;

	if (!c)
		return 0;
	slot = dns_counts(s->cgroup);
	if (!slot)
		return 0;
	for (int i = 0; i < DNS_QUERIES; i++) {
		q = &s->queries[i];
		dns_expire(c, slot, q, now);
		state = q->state;
		sent = q->sent;
		if (state & DNS_WAITS && dns_take(q, state))
			dns_ended(c, slot, sent, &slot->abandoned);
	}
	return 0;
}

SEC("cgroup/sock_release")
int dns_release(struct bpf_sock *sk)
{
	struct probe_cpu *c = probe_account();
	struct dns_socket *s;
	u64 began;

	if (!c)
		return 1;
	began = probe_enter(c);
	if (sk->protocol == IPPROTO_UDP) {
		s = bpf_sk_storage_get(&dns_sockets, sk, NULL, 0);
		if (s)
			dns_closed(s);
	}
	probe_leave(c, began);
	return 1;
}

/* Counts the queries of a socket that wait for too long. User space walks over all before it reads the counts. */
static __always_inline int dns_overdue(struct dns_socket *s)
{
	struct probe_cpu *c = probe_account();
	u64 now = bpf_ktime_get_ns();
	struct dns_slot *slot;

	if (!s || !c)
		return 0;
	slot = dns_counts(s->cgroup);
	if (!slot)
		return 0;
	for (int i = 0; i < DNS_QUERIES; i++)
		dns_expire(c, slot, &s->queries[i], now);
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int dns_sweep(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	return dns_overdue(ctx->value);
}

SEC("iter/task_file")
int dns_sweep_files(struct bpf_iter__task_file *ctx)
{
	struct sock *sk = walk_sock(ctx);

	return sk ? dns_overdue(bpf_sk_storage_get(&dns_sockets, sk, NULL, 0)) : 0;
}

char LICENSE[] SEC("license") = "GPL";
