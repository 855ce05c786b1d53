//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only
/*
 * http counts the HTTP/1.x requests that this host's servers answer, in the kernel, one socket at a time.
 *
 * Hooks: cgroup_skb ingress and egress on the root of the cgroup2 tree, where every TCP segment of every
 * network namespace passes with its socket; an iterator over the sockets' state closes what has gone quiet.
 * Where that root is out of sight, in a container, tcx on the interfaces of one network namespace does the same: on
 * the way in it looks up the socket first, which costs some 100 ns more.
 * State: 80 bytes of socket-local storage per connection that carried data; freed with the socket.
 * Result: one struct http_service per (cgroup, network namespace, port), read by mmap.
 *
 * What is counted is the response: a request counts when the head of its final response leaves the server, with
 * the status that it carries. So nothing is ever invented: no request without a response, and no status that was
 * not sent. A request whose connection ends before that is `aborted`. A duration runs from the first byte of the
 * request, before the accept queue, to the last new byte of the response, which is known when the next request
 * or the end of the connection follows, or when the iterator finds the response quiet.
 *
 * Objectives are counted at exactly their own conditions, once per request, when its response has ended: by status,
 * method, the start of the path and the duration in ns (http_step). What is not known of a request stands for anything:
 * it is good or bad only if it is so whatever the unknown is, and lost otherwise. Without objectives none of this runs.
 *
 * Services that are counted by route have a struct http_cell for each route, method and status that occurred. A response
 * counts either there or in its service, so that the sum of both is exact, whatever is known of its request.
 *
 * A request that comes before its connection does waits in http_early: TCP_DEFER_ACCEPT, TCP_FASTOPEN and clients that
 * send it with their last segment of the handshake show it to the listening socket only.
 *
 * What is not understood is counted too: `unknown` responses (of connections that were joined amid a request),
 * `untimed` ones (their request was not seen), and opaque connections, which speak something else.
 */
#include "hist.h"
#include "net.h"
#include "packet.h"
#include "walk.h"

#define HTTP_SLOTS     256  /* services at a time; slot 0 takes those that find none free */
#define HTTP_CODES     500  /* statuses 100 to 599 */
#define HTTP_CLASSES   5    /* 1xx to 5xx */
#define HTTP_TIMED     256  /* of so many runs one is timed by the probe itself */
#define HTTP_CPUS      4096 /* most CPUs; user space lowers it to the machine's */

#define HTTP_RULES     16   /* objectives of a service */
#define HTTP_ENDPOINTS 1024 /* whose service is known before their first connection */
#define HTTP_PATH      64   /* bytes of a path that tell its route */
#define HTTP_CELLS     4096 /* of all services that are counted by route; user space lowers it to what they need */
#define HTTP_EARLY     1024 /* requests that wait for their connection at a time */
#define HTTP_TARGET    160  /* bytes of a target in absolute form in which its path must begin */

#define HEAD           16 /* bytes at the start of a message that tell what it is */
#define RESPONSE_HEAD  12 /* "HTTP/1.1 200" */
#define CONTINUE_HEAD  25 /* "HTTP/1.1 100 Continue\r\n\r\n" */
#define JOIN_TRIES     16 /* segments until a connection joined amid its life counts as opaque */

/* Only sockets of the network namespace with this inode number; 0: all. A sidecar sets it to its pod's. */
const volatile u32 only_netns;

/* A response with no new byte for this long counts as complete when the iterator finds it. */
const volatile u64 quiet_ns = 1000000000;

/*
 * Whether there are sets (struct http_set), and whether some have objectives or are counted by route. Where there are none,
 * the kernel drops the code for them when it loads the programs.
 */
const volatile u32 sets;
const volatile u32 objectives;
const volatile u32 cells;

/* Where the IP header starts in the buffer. */
#define AT_CGROUP    0
#define AT_INTERFACE 14 /* behind an Ethernet header, which the loopback interface has too */

#define TCX_PASS     -1 /* TCX_NEXT: on to whoever is next at the interface */

struct http_key {
	u64 cgroup; /* id: the inode number of its directory */
	u32 netns;  /* inode number of /proc/PID/ns/net */
	u16 port;   /* local, host order */
	u16 pad;
};

struct http_service {
	struct http_key key;
	u32 generation;         /* grows with every new owner of the slot; odd: in use */
	u32 set;                /* its objectives: SET_* or a number of http_sets */
	u64 http_connections;   /* that carried at least one response */
	u64 opaque_connections; /* that speak something else */
	u64 aborted;            /* requests whose connection ended before a response */
	u64 unknown;            /* responses and ends that cannot be attributed to a request */
	u64 untimed;            /* responses whose request was not seen: counted in codes, without duration */
	u64 cut; /* responses that went on after they were taken as complete: their duration is too short */
	u64 codes[HTTP_CODES];              /* responses that no cell counts */
	struct hist first_byte;             /* of all */
	struct hist duration[HTTP_CLASSES]; /* of responses that no cell counts */
};

#define SET_UNBOUND 0 /* user space has not said yet which service it is */
#define SET_NONE    1 /* a service without objectives that is not counted by route */

/* The objectives of a service, and the routes by which it is counted. */
struct http_set {
	u32 first;   /* of its steps in http_steps */
	u32 steps;   /* their number */
	u32 routes;  /* number of its routes; 0: the path does not matter */
	u32 rule;    /* of its first objective among those of all sets */
	u32 counted; /* whether it is counted by route */
	/* For each route, and at 0 for all other paths: the number of the route by which it is counted. */
	u8 counts[64];
};

/* What a cell counts. */
struct http_cell_key {
	u32 slot; /* generation << 16 | slot */
	u16 set;  /* in which route is a number */
	u16 status;
	u16 methods; /* bit of the method */
	u16 route;   /* 0: a path of no route */
};

struct http_cell {
	struct http_cell_key key;
	u32 used;
	u64 responses;
	struct hist duration; /* of those whose duration is known */
};

enum http_outcome {
	HTTP_GOOD,
	HTTP_BAD,
	HTTP_EXCLUDED,
	HTTP_UNKNOWN,  /* from here on lost: nothing is known of the request or of the response */
	HTTP_HEAD,     /* the start of the request did not tell route or method */
	HTTP_UNTIMED,  /* the request was not seen */
	HTTP_CUT,      /* the response went on after it was counted */
	HTTP_ABORTED,  /* no response, and not yet certain to be bad */
	HTTP_OUTCOMES, /* also: not the objective's business */
};

/*
 * A step of deciding an objective: requests that meet the condition and no earlier one of the same objective have the
 * outcome. Those that meet none are not its business.
 */
struct http_step {
	u64 statuses[8]; /* bit i: status 100 + i */
	u64 routes;      /* bit 0: paths of none of the set's routes; bit i: those of route i */
	u64 least, most; /* duration in ns, both included */
	u16 methods;     /* enum http_method */
	u8 rule;         /* number of the objective in the set */
	u8 outcome;      /* enum http_outcome */
	u8 all_statuses;
	u8 last; /* of the objective */
	u8 pad[2];
};

/* What became of the events of a slot's objectives. */
struct http_events {
	u64 unbound; /* events while the slot was unbound: whose they are is not known yet */
	u64 rules[HTTP_RULES][HTTP_OUTCOMES];
};

/* Methods in the order of OpenTelemetry's http.request.method, as slo.Methods has them. */
enum http_method {
	METHOD_GET,
	METHOD_HEAD,
	METHOD_POST,
	METHOD_PUT,
	METHOD_DELETE,
	METHOD_CONNECT,
	METHOD_OPTIONS,
	METHOD_TRACE,
	METHOD_PATCH,
	METHOD_OTHER,
	METHODS,
};

struct http_route {
	u32 bits; /* 32 for the set and 8 for each byte of the path */
	u32 set;
	u8 path[HTTP_PATH];
};

struct http_endpoint {
	u32 netns; /* 0: any */
	u32 port;
};

/* Losses that belong to no service. */
struct http_losses {
	u64 no_storage; /* connections without state: out of memory */
	u64 no_slot;    /* connections of services over the number of slots, counted in slot 0 */
	u64 no_cell;    /* responses that were counted without their route: all cells are taken */
};

/* Runs of the programs on one CPU. The size is that of a cache line. */
struct http_runs {
	u64 runs;
	u64 timed_runs; /* runs that timed themselves, one of HTTP_TIMED */
	u64 timed_ns;   /* their time */
	u64 pad[5];
};

enum conn_state {
	CONN_NEW,        /* no decision yet */
	CONN_IGNORED,    /* a client, or closed */
	CONN_OPAQUE,     /* a server that speaks something else */
	CONN_JOINED,     /* a server, joined amid its life: waiting for a certain start of a request */
	CONN_HEAD,       /* the first bytes of a request, too few to tell */
	CONN_PENDING,    /* a request, no final response yet */
	CONN_RESPONDING, /* a final response began */
	CONN_QUIET,      /* a response that was taken as complete because nothing more came for quiet_ns */
	CONN_IDLE,       /* between requests */
};

#define CONN_COUNTED 0x01 /* the connection is counted in http_connections */
#define CONN_UNTIMED 0x02 /* the request of the present response was not seen */
#define CONN_BODY    0x04 /* the present request may have a body */
#define CONN_DOUBT   0x08 /* the present request may be the rest of the previous one's body */
#define CONN_CONNECT 0x10 /* the present request asks for a tunnel */

struct conn {
	u64 started;  /* first byte of the request, CLOCK_MONOTONIC */
	u64 last;     /* last new byte of the response */
	u32 state;    /* enum conn_state; compare-and-swapped, as two hooks may want to close a request */
	u32 slot;     /* generation << 16 | slot */
	u32 next_in;  /* sequence number expected next from the client */
	u32 ahead;    /* end of what came out of order beyond it; 0: none */
	u32 next_out; /* sequence number expected next from the server */
	u16 status;
	u8 flags;
	u8 tries;
	u8 gathered; /* bytes in head */
	u8 sides;    /* 1: next_in is set, 2: next_out is set */
	u16 methods; /* bit of the request's method; 0: not known */
	u8 route;    /* 1 + the request's route; 0: not known */
	u8 pad;
	u16 cell;          /* 1 + the cell of the present response; 0: none */
	u8 head[2 * HEAD]; /* the start of a message; twice, for the verifier */
};

/* A connection that has no socket yet. */
struct http_tuple {
	u8 local[16], remote[16]; /* addresses; those of IPv4 have 4 bytes */
	u32 netns;
	u16 local_port;  /* host order */
	u16 remote_port; /* network order */
};

/* What came for it. */
struct http_early {
	u32 seq; /* the first of its data */
	u32 pad;
	struct conn conn;
};

struct packet {
	u32 network; /* where the IP header starts */
	u32 seq;
	u32 len;                 /* of the payload */
	u32 off;                 /* of the payload in the buffer */
	u16 destination, source; /* ports, in network order */
	u8 flags;                /* TH_* */
	bool v6;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct conn);
} http_conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HTTP_SLOTS);
	__type(key, struct http_key);
	__type(value, u32); /* generation << 16 | slot */
} http_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, HTTP_SLOTS);
	__uint(value_size, sizeof(u32));
} http_free SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HTTP_SLOTS);
	__type(key, u32);
	__type(value, struct http_service);
} http_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct http_losses);
} http_loss SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HTTP_CPUS);
	__type(key, u32);
	__type(value, struct http_runs);
} http_run SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* user space sets it, as for the next three */
	__type(key, u32);
	__type(value, struct http_set);
} http_sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct http_step);
} http_steps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct http_route);
	__type(value, u32); /* number of the route in its set, from 1 */
} http_routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct http_events);
} http_event_counts SEC(".maps");

/* Durations of the good and of the bad events of each objective of all sets. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct hist);
} http_event_times SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HTTP_ENDPOINTS);
	__type(key, struct http_endpoint);
	__type(value, u32); /* a set */
} http_expected SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* user space sets it, as for the next two */
	__type(key, struct http_cell_key);
	__type(value, u32); /* number of the cell */
} http_cells SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__uint(value_size, sizeof(u32));
} http_free_cells SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct http_cell);
} http_cell_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HTTP_EARLY);
	__type(key, struct http_tuple);
	__type(value, struct http_early);
} http_early SEC(".maps");

static __always_inline void count(u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static __always_inline struct http_runs *this_cpu(void)
{
	u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&http_run, &cpu);
}

/* Counts a run and starts the clock for one of HTTP_TIMED. Egress may be interrupted by ingress on the same CPU. */
static __always_inline u64 run_begins(struct http_runs *r)
{
	if (!r || __sync_fetch_and_add(&r->runs, 1) % HTTP_TIMED)
		return 0;
	return bpf_ktime_get_ns();
}

static __always_inline void run_ends(struct http_runs *r, u64 began)
{
	if (!r || !began)
		return;
	__sync_fetch_and_add(&r->timed_ns, bpf_ktime_get_ns() - began);
	count(&r->timed_runs);
}

/* Finds sequence number, flags and payload of a TCP segment. False for everything else. */
static __always_inline bool parse(struct __sk_buff *skb, u32 network, struct packet *p)
{
	void *data = (void *)(long)skb->data + network, *end = (void *)(long)skb->data_end;
	struct tcp_header *tcp;
	struct packet_ip ip;
	u32 off, size;

	if (!packet_ip(skb, network, &ip) || ip.protocol != IPPROTO_TCP)
		return false;
	tcp = data + ip.off;
	if ((void *)(tcp + 1) > end)
		return false;
	p->network = network;
	p->v6 = ip.v6;
	p->seq = bpf_ntohl(tcp->seq);
	p->flags = tcp->flags;
	p->destination = tcp->destination;
	p->source = tcp->source;
	off = ip.off + (tcp->data_offset >> 4) * 4;
	size = ip.size;
	if (!size) /* BIG TCP; otherwise a short frame may be longer than its datagram */
		size = skb->len - network;
	if (off > size || size > skb->len - network)
		return false;
	p->off = network + off;
	p->len = size - off;
	return true;
}

/* Says to which service a socket belongs. */
static __always_inline void key_of(struct tcp_sock *tp, struct bpf_sock *sk, struct http_key *key)
{
	struct sock *s = &tp->inet_conn.icsk_inet.sk;

	key->cgroup = s->sk_cgrp_data.cgroup->kn->id;
	key->netns = s->__sk_common.skc_net.net->ns.inum;
	key->port = sk->src_port;
	key->pad = 0;
}

/* Says whether somebody listens on the socket's own address and port: then its side is the server. */
static __always_inline bool is_server(struct __sk_buff *skb, struct bpf_sock *sk, bool v6)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *listener;
	bool found;

	if (v6) {
		__builtin_memcpy(t.ipv6.daddr, sk->src_ip6, sizeof(t.ipv6.daddr));
		t.ipv6.dport = bpf_htons(sk->src_port);
		listener = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	} else {
		t.ipv4.daddr = sk->src_ip4;
		t.ipv4.dport = bpf_htons(sk->src_port);
		listener = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	if (!listener)
		return false;
	found = listener->state == BPF_TCP_LISTEN;
	bpf_sk_release(listener);
	return found;
}

/* The objectives of a new service, if user space knows already who will serve at the endpoint. */
static __always_inline u32 expected_set(struct http_key *key)
{
	struct http_endpoint e = {.netns = key->netns, .port = key->port};
	u32 *set = bpf_map_lookup_elem(&http_expected, &e);

	if (!set) {
		e.netns = 0;
		set = bpf_map_lookup_elem(&http_expected, &e);
	}
	return set ? *set : SET_UNBOUND;
}

/* Takes a free slot for a new service and publishes it. Slot 0 is for those that come when none is free. */
static __noinline u32 new_slot(struct http_key *key)
{
	struct http_losses *losses;
	struct http_service *s;
	u32 slot = 0, zero = 0, value, *other;

	if (!key)
		return 0;
	if (bpf_map_pop_elem(&http_free, &slot)) {
		losses = bpf_map_lookup_elem(&http_loss, &zero);
		if (losses)
			count(&losses->no_slot);
		return 0;
	}
	s = bpf_map_lookup_elem(&http_services, &slot);
	if (!s)
		return 0;
	s->key = *key;
	if (sets)
		s->set = expected_set(key);
	value = __sync_add_and_fetch(&s->generation, 1) << 16 | slot;     /* in use before anybody can find it */
	if (bpf_map_update_elem(&http_slots, key, &value, BPF_NOEXIST)) { /* another CPU was first */
		__sync_fetch_and_add(&s->generation, 1);
		bpf_map_push_elem(&http_free, &slot, 0);
		other = bpf_map_lookup_elem(&http_slots, key);
		return other ? *other : 0;
	}
	return value;
}

static __always_inline u32 slot_of(struct http_key *key)
{
	u32 *slot = bpf_map_lookup_elem(&http_slots, key);

	return slot ? *slot : new_slot(key);
}

/* The connection's service. A slot that changed hands since (its service was given up as dead) is of no use. */
static __always_inline struct http_service *service_of(struct conn *c)
{
	u32 slot = c->slot & 0xffff;
	struct http_service *s = bpf_map_lookup_elem(&http_services, &slot);

	if (!s || (slot && (s->generation & 0xffff) != c->slot >> 16))
		return NULL;
	return s;
}

/* Reads up to HEAD bytes from the start of a message into c->head, over several segments if they are short. */
static __always_inline u32 gather(struct __sk_buff *skb, struct conn *c, struct packet *p)
{
	u32 have = c->gathered & (HEAD - 1), n = p->len;

	if (have == 0 && n >= HEAD) {
		if (bpf_skb_load_bytes(skb, p->off, c->head, HEAD))
			return 0;
		c->gathered = 0;
		return HEAD;
	}
	if (n > HEAD - have)
		n = HEAD - have;
	if (n == 0)
		return 0;
	barrier_var(n); /* or clang would drop the bounds, which verifiers before 6.8 do not conclude from n != 0 */
	n = ((n - 1) & (HEAD - 1)) + 1;
	if (bpf_skb_load_bytes(skb, p->off, c->head + have, n))
		return 0;
	c->gathered = have + n == HEAD ? 0 : have + n;
	return have + n;
}

enum match {
	NO,
	YES,
	MORE
};

/* Says whether n bytes start a request line: a method in capitals, a space, and the start of a target. */
static __always_inline enum match match_request(const u8 *h, u32 n)
{
	u32 i;

	if (n >= 5 && h[0] == 'G' && h[1] == 'E' && h[2] == 'T' && h[3] == ' ' && h[4] == '/')
		return YES;
	for (i = 0; i < HEAD; i++) {
		if (i >= n)
			return MORE;
		if (h[i] == ' ')
			break;
		if ((h[i] < 'A' || h[i] > 'Z') && h[i] != '-' && h[i] != '_')
			return NO;
	}
	if (i < 3 || i >= HEAD)
		return NO;
	if (h[0] == 'P' && h[1] == 'R' && h[2] == 'I') /* the preface of HTTP/2 */
		return NO;
	if (i + 1 >= n)
		return MORE;
	if (h[0] == 'C' && h[1] == 'O' && h[2] == 'N') /* CONNECT host:port */
		return YES;
	return h[i + 1] == '/' || h[i + 1] == '*' || h[i + 1] == 'h' || h[i + 1] == 'H' ? YES : NO;
}

/* Says whether n bytes start an HTTP/1.x status line, and which status it has. */
static __always_inline enum match match_response(const u8 *h, u32 n, u16 *status)
{
	const char want[] = {'H', 'T', 'T', 'P', '/', '1', '.'};
	u32 code = 0, i;

	for (i = 0; i < sizeof(want); i++) {
		if (i >= n)
			return MORE;
		if (h[i] != want[i])
			return NO;
	}
	if (n < RESPONSE_HEAD)
		return MORE;
	if (h[8] != ' ')
		return NO;
	for (i = 9; i < RESPONSE_HEAD; i++) {
		if (h[i] < '0' || h[i] > '9')
			return NO;
		code = code * 10 + (h[i] - '0');
	}
	if (code < 100 || code > 599)
		return NO;
	*status = code;
	return YES;
}

/* The clocks of receiving and sending are the same one; should a kernel stamp otherwise, no giant comes of it. */
static __always_inline u64 elapsed(u64 from, u64 to)
{
	return to > from ? to - from : 0;
}

#define LONGEST (~0ULL >> 1) /* ns */

/* What is known of a request; what is 0 is not. */
struct http_event {
	u64 least, most; /* bounds of its duration */
	u32 slot;
	u16 status;
	u16 methods; /* one bit */
	u8 route;    /* 1 + number */
	u8 reason;   /* the outcome if what is known does not suffice */
	u8 again;    /* counted already: only what does not suffice counts */
	u8 pad[5];
};

/* An event on its way through the steps. */
struct judging {
	u64 routes, least, most;
	struct http_events *events;
	u32 first; /* step of the set */
	u32 rule;  /* its first */
	u32 status, methods;
	u32 possible; /* outcomes of the present rule, as bits */
	u32 decided;
	u32 reason, again;
};

/* The only possible outcome of the present rule, or the reason why there is none. */
static __always_inline u32 outcome_of(struct judging *j)
{
	if (j->possible == 1 << HTTP_GOOD)
		return HTTP_GOOD;
	if (j->possible == 1 << HTTP_BAD)
		return HTTP_BAD;
	if (j->possible == 1 << HTTP_EXCLUDED)
		return HTTP_EXCLUDED;
	return j->reason;
}

/* Notes how long an event took that was good or bad. */
static __always_inline void time_event(u32 rule, u32 outcome, u64 ns)
{
	u32 at = 2 * rule + outcome;
	struct hist *h = bpf_map_lookup_elem(&http_event_times, &at);

	if (h)
		hist_record_atomic(h, ns);
}

/* Takes one step. A loop of the helper's, whose body the verifier checks once: unrolled it takes it seconds. */
static long judge_step(u32 i, struct judging *j)
{
	u32 at = j->first + i, code = j->status - 100, outcome;
	struct http_events *events = j->events;
	struct http_step *s = bpf_map_lookup_elem(&http_steps, &at);

	if (!s)
		return 1;
	if (!j->decided && s->methods & j->methods && s->routes & j->routes && j->least <= s->most &&
	    j->most >= s->least && (!j->status || s->statuses[code >> 6 & 7] >> (code & 63) & 1)) {
		j->possible |= 1 << (s->outcome & 7);
		j->decided = !(j->methods & ~s->methods) && !(j->routes & ~s->routes) && j->least >= s->least &&
			     j->most <= s->most && (j->status || s->all_statuses);
	}
	if (!s->last)
		return 0;
	if (j->possible) {
		if (!j->decided)
			j->possible |= 1 << HTTP_OUTCOMES; /* it may not be the objective's business */
		outcome = outcome_of(j);
		if (!j->again || outcome == j->reason)
			count(&events->rules[s->rule & (HTTP_RULES - 1)][outcome & (HTTP_OUTCOMES - 1)]);
		if (outcome <= HTTP_BAD && j->least == j->most && !j->again)
			time_event(j->rule + s->rule, outcome, j->least);
	}
	j->possible = 0;
	j->decided = 0;
	return 0;
}

/*
 * Counts an event for each objective of its slot. Unknown parts stand for all values they may have: a step that some of
 * these meet is possible, one that all meet is certain. Only an outcome without alternative counts. A function of its own,
 * which the verifier checks once and not in each place that calls it.
 */
__noinline int http_judge(struct http_event *e)
{
	struct judging j = {};
	struct http_service *s;
	struct http_set *set;
	u32 at;

	if (!e)
		return 0;
	at = e->slot & 0xffff;
	s = bpf_map_lookup_elem(&http_services, &at);
	j.events = bpf_map_lookup_elem(&http_event_counts, &at);
	if (!s || !j.events)
		return 0;
	at = s->set;
	if (at == SET_UNBOUND && !e->again)
		count(&j.events->unbound);
	if (at <= SET_NONE)
		return 0;
	set = bpf_map_lookup_elem(&http_sets, &at);
	if (!set)
		return 0;
	j.first = set->first;
	j.rule = set->rule;
	j.status = e->status;
	j.methods = e->methods ? e->methods : (1 << METHODS) - 1;
	j.routes = e->route ? 1ULL << ((e->route - 1) & 63) : ~0ULL;
	j.least = e->least;
	j.most = e->most;
	j.reason = e->reason;
	j.again = e->again;
	bpf_loop(set->steps, judge_step, &j, 0);
	return 0;
}

/* What is known of the connection's present request. */
static __always_inline struct http_event event_of(struct conn *c, u16 status, u64 least, u64 most, u32 reason)
{
	struct http_event e = {.least = least,
			       .most = most,
			       .slot = c->slot & 0xffff,
			       .status = status,
			       .methods = c->methods,
			       .route = c->route,
			       .reason = reason,
			       .again = reason == HTTP_CUT};

	return e;
}

/* Counts the end of the connection's present request for the objectives. */
static __always_inline void judge(struct conn *c, u16 status, u64 least, u64 most, u32 reason)
{
	struct http_event e = event_of(c, status, least, most, reason);

	http_judge(&e);
}

/* Counts for the objectives what cannot be attributed to a request. */
static __always_inline void judge_unknown(struct conn *c)
{
	struct http_event e = {.most = LONGEST, .slot = c->slot & 0xffff, .reason = HTTP_UNKNOWN};

	if (objectives)
		http_judge(&e);
}

/* Takes a free cell for what occurred for the first time and publishes it, as new_slot does. Returns 1 + its number, or 0. */
static __noinline u32 new_cell(struct http_cell_key *key)
{
	struct http_losses *losses;
	struct http_cell *cell;
	u32 number = 0, zero = 0, *other;

	if (!key)
		return 0;
	if (bpf_map_pop_elem(&http_free_cells, &number)) {
		losses = bpf_map_lookup_elem(&http_loss, &zero);
		if (losses)
			count(&losses->no_cell);
		return 0;
	}
	cell = bpf_map_lookup_elem(&http_cell_counts, &number);
	if (!cell)
		return 0;
	cell->key = *key;
	__sync_fetch_and_add(&cell->used, 1); /* a barrier too: user space reads the key after it */
	if (bpf_map_update_elem(&http_cells, key, &number, BPF_NOEXIST)) { /* another CPU was first */
		__sync_fetch_and_add(&cell->used, -1);
		bpf_map_push_elem(&http_free_cells, &number, 0);
		other = bpf_map_lookup_elem(&http_cells, key);
		return other ? 1 + *other : 0;
	}
	return 1 + number;
}

/*
 * The cell of a response of the connection as 1 + its number, or 0 if it counts in its service: the service is not counted
 * by route, or the route is not known. A function of its own for the verifier, as http_judge is.
 */
__noinline int http_cell_of(u32 slot, u32 status, u32 methods, u32 route)
{
	struct http_cell_key key = {.slot = slot, .status = status, .methods = methods};
	u32 at = slot & 0xffff, *number;
	struct http_service *s = bpf_map_lookup_elem(&http_services, &at);
	struct http_set *set;

	if (!s || !route)
		return 0;
	at = s->set;
	if (at <= SET_NONE)
		return 0;
	set = bpf_map_lookup_elem(&http_sets, &at);
	if (!set || !set->counted)
		return 0;
	key.set = at;
	key.route = set->counts[(route - 1) & 63];
	number = bpf_map_lookup_elem(&http_cells, &key);
	return number ? 1 + *number : new_cell(&key);
}

/* The cell of the present response, or NULL. */
static __always_inline struct http_cell *cell_of(u32 cell)
{
	u32 number = cell - 1;

	return cells && cell ? bpf_map_lookup_elem(&http_cell_counts, &number) : NULL;
}

/* Closes the present response, once, whoever comes first, and leaves the connection in the state next. */
static __always_inline void finish(struct conn *c, u32 next)
{
	/* Read before the state changes: another hook may then begin the next request. */
	u64 lasted = elapsed(c->started, c->last);
	bool untimed = c->flags & CONN_UNTIMED;
	u64 class = c->status / 100 - 1ULL;
	u32 number = c->cell;
	struct http_service *s;
	struct http_cell *cell;
	struct http_event e;

	if (objectives && untimed)
		e = event_of(c, c->status, 0, LONGEST, HTTP_UNTIMED);
	else if (objectives)
		e = event_of(c, c->status, lasted, lasted, HTTP_HEAD);
	if (__sync_val_compare_and_swap(&c->state, CONN_RESPONDING, next) != CONN_RESPONDING)
		return;
	s = service_of(c);
	if (!s)
		return;
	if (objectives)
		http_judge(&e);
	if (untimed)
		return;
	cell = cell_of(number);
	if (cell) {
		hist_record_atomic(&cell->duration, lasted);
		return;
	}
	barrier_var(class); /* Linux 6.1 does not see the bound of a copy */
	if (class < HTTP_CLASSES)
		hist_record_atomic(&s->duration[class], lasted);
}

static __always_inline void begin(struct conn *c, u64 started)
{
	u8 flags = c->flags & CONN_COUNTED;

	if (c->flags & CONN_BODY)
		flags |= CONN_DOUBT;
	if (c->head[0] != 'G' && c->head[0] != 'H')
		flags |= CONN_BODY;
	if (c->head[0] == 'C' && c->head[1] == 'O' && c->head[2] == 'N')
		flags |= CONN_CONNECT;
	c->flags = flags;
	c->started = started;
	c->gathered = 0;
	c->methods = 0;
	c->route = 0;
	c->state = CONN_PENDING;
}

static __always_inline void become_opaque(struct conn *c)
{
	struct http_service *s = service_of(c);

	c->state = CONN_OPAQUE;
	if (s && !(c->flags & CONN_COUNTED))
		count(&s->opaque_connections);
}

/* The connection ends: what was being answered is complete, what was not answered is aborted. */
static __always_inline void end(struct conn *c)
{
	u32 state = c->state;
	struct http_service *s;

	if (state == CONN_RESPONDING)
		finish(c, CONN_IDLE);
	if (state == CONN_PENDING) {
		s = service_of(c);
		if (s && c->flags & CONN_DOUBT) {
			count(&s->unknown);
			judge_unknown(c);
		} else if (s) {
			count(&s->aborted);
			if (objectives)
				judge(c, 0, elapsed(c->started, bpf_ktime_get_ns()), LONGEST, HTTP_ABORTED);
		}
	}
	c->state = state == CONN_OPAQUE ? CONN_OPAQUE : CONN_IGNORED;
}

/* A final response head left: the request is counted now. */
static __always_inline void respond(struct conn *c, struct http_service *s, u16 status, u64 now)
{
	u32 code = status - 100;
	struct http_cell *cell;

	c->cell = cells ? http_cell_of(c->slot, status, c->methods, c->route) : 0;
	cell = cell_of(c->cell);
	if (cell)
		count(&cell->responses);
	else if (code < HTTP_CODES)
		count(&s->codes[code]);
	if (c->flags & CONN_UNTIMED)
		count(&s->untimed);
	else
		hist_record_atomic(&s->first_byte, elapsed(c->started, now));
	if (!(c->flags & CONN_COUNTED)) {
		c->flags |= CONN_COUNTED;
		count(&s->http_connections);
	}
	c->status = status;
	c->last = now;
	c->gathered = 0;
	c->state = CONN_RESPONDING;
	if (status == 101 || (c->flags & CONN_CONNECT && status / 100 == 2)) {
		finish(c, CONN_IDLE);
		c->state = CONN_OPAQUE; /* what follows is not HTTP/1.x */
	}
}

/* When a segment left: TCP stamped it with the monotonic clock, which spares a reading of it. */
static __always_inline u64 sent_at(struct __sk_buff *skb)
{
	u64 t = skb->tstamp;

	return t ? t : bpf_ktime_get_ns();
}

/* Data from the server where a response should begin, and it is none. */
static __always_inline void not_a_response(struct conn *c, struct http_service *s)
{
	bool http = c->flags & CONN_COUNTED;

	switch (c->state) {
	case CONN_PENDING:
		if (http) {
			count(&s->unknown);
			judge_unknown(c);
		} else {
			become_opaque(c); /* the request only looked like HTTP */
		}
		break;
	case CONN_QUIET:
		count(&s->cut);
		if (objectives && !(c->flags & CONN_UNTIMED))
			judge(c, c->status, elapsed(c->started, c->last), LONGEST, HTTP_CUT);
		break;
	case CONN_JOINED:
		if (++c->tries > JOIN_TRIES)
			become_opaque(c);
		return;
	case CONN_IDLE:
		if (!http)
			become_opaque(c); /* its first word, to a request that was not seen */
	}
	if (c->state != CONN_OPAQUE)
		c->state = CONN_IDLE;
}

/* The request of the present response was not seen, or not for certain. */
static __always_inline void unseen(struct conn *c)
{
	c->flags |= CONN_UNTIMED;
	c->methods = 0;
	c->route = 0;
}

/* A segment with data from the server while it does not answer: it may begin to, or while nothing is known of a request. */
static __always_inline void response_data(struct __sk_buff *skb, struct conn *c, struct packet *p)
{
	struct http_service *s = service_of(c);
	u32 n, state = c->state;
	u16 status = 0;
	enum match m;

	if (!s)
		return;
	n = gather(skb, c, p);
	m = match_response(c->head, n, &status);
	if (m == MORE && n < RESPONSE_HEAD)
		return;
	c->gathered = 0;
	if (m != YES) {
		not_a_response(c, s);
		return;
	}
	if (state == CONN_JOINED || (state != CONN_PENDING && c->flags & CONN_COUNTED)) {
		count(&s->unknown); /* no request is open: a text that looks like a status line proves nothing */
		judge_unknown(c);
		return;
	}
	if (status / 100 == 1 && status != 101) {
		if (status != 100 || p->len < CONTINUE_HEAD + HEAD)
			return; /* interim: the final one follows in a segment of its own */
		if (bpf_skb_load_bytes(skb, p->off + CONTINUE_HEAD, c->head, HEAD))
			return;
		if (match_response(c->head, HEAD, &status) != YES)
			return;
	}
	if (state != CONN_PENDING)
		unseen(c);
	respond(c, s, status, sent_at(skb));
}

/* More of a response. A second status line in it is a pipelined answer or text; it cannot be told. */
static __always_inline void more_response(struct __sk_buff *skb, struct conn *c, struct packet *p)
{
	struct http_service *s;
	u16 status;

	c->last = sent_at(skb);
	if (p->len < HEAD || bpf_skb_load_bytes(skb, p->off, c->head, HEAD))
		return;
	if (c->head[0] == 'H' && match_response(c->head, HEAD, &status) == YES) {
		s = service_of(c);
		if (s) {
			count(&s->unknown);
			judge_unknown(c);
		}
	}
}

#define CHARACTER(c, i)  ((u64)(c) << 8 * (i))
#define WORD(a, b, c, d) (CHARACTER(a, 0) | CHARACTER(b, 1) | CHARACTER(c, 2) | CHARACTER(d, 3))
#define FIRST(n)         (~0ULL >> (64 - 8 * (n)))

/* The method of a request line, whose first bytes are h. */
static __always_inline u32 method_of(const u8 *h)
{
	u64 w;

	__builtin_memcpy(&w, h, sizeof(w));
	if ((w & FIRST(4)) == WORD('G', 'E', 'T', ' '))
		return METHOD_GET;
	if ((w & FIRST(5)) == (WORD('P', 'O', 'S', 'T') | CHARACTER(' ', 4)))
		return METHOD_POST;
	if ((w & FIRST(5)) == (WORD('H', 'E', 'A', 'D') | CHARACTER(' ', 4)))
		return METHOD_HEAD;
	if ((w & FIRST(4)) == WORD('P', 'U', 'T', ' '))
		return METHOD_PUT;
	if ((w & FIRST(7)) == (WORD('D', 'E', 'L', 'E') | WORD('T', 'E', ' ', 0) << 32))
		return METHOD_DELETE;
	if (w == (WORD('C', 'O', 'N', 'N') | WORD('E', 'C', 'T', ' ') << 32))
		return METHOD_CONNECT;
	if (w == (WORD('O', 'P', 'T', 'I') | WORD('O', 'N', 'S', ' ') << 32))
		return METHOD_OPTIONS;
	if ((w & FIRST(6)) == (WORD('T', 'R', 'A', 'C') | WORD('E', ' ', 0, 0) << 32))
		return METHOD_TRACE;
	if ((w & FIRST(6)) == (WORD('P', 'A', 'T', 'C') | WORD('H', ' ', 0, 0) << 32))
		return METHOD_PATCH;
	return METHOD_OTHER;
}

#define NO_PATH    (~0U)
#define EMPTY_PATH (~0U - 1)

/* A search for the path in a target. */
struct target {
	struct __sk_buff *skb;
	u32 off, len;
	u32 slashes;
	u32 path; /* where it begins, NO_PATH or EMPTY_PATH */
	u8 before;
};

static long target_step(u32 i, struct target *t)
{
	u8 b;

	if (i >= t->len || bpf_skb_load_bytes(t->skb, t->off + i, &b, 1))
		return 1;
	if (b == ' ' || b == '?' || b == '\r' || b == '\n') {
		if (t->slashes == 2)
			t->path = EMPTY_PATH;
		return 1;
	}
	if (b == '/') {
		if (++t->slashes == 3) {
			t->path = i;
			return 1;
		}
		if (t->before != (t->slashes == 1 ? ':' : '/'))
			return 1;
	}
	t->before = b;
	return 0;
}

/* Says where in a target in absolute form ("http://host/path") the path begins. */
static __always_inline u32 path_in(struct __sk_buff *skb, u32 off, u32 len)
{
	struct target t = {.skb = skb, .off = off, .len = len, .path = NO_PATH};

	bpf_loop(HTTP_TARGET, target_step, &t, 0);
	return t.path;
}

/* Says whether the path ends among the n bytes. No route has any of these characters. */
static __always_inline bool path_ends(const u8 *path, u32 n)
{
	u32 i;

	for (i = 0; i < HTTP_PATH; i++) {
		if (i >= n)
			return false;
		if (path[i] == ' ' || path[i] == '?' || path[i] == '\r' || path[i] == '\n')
			return true;
	}
	return true; /* longer than every route */
}

/*
 * Returns 1 + the number of the route of a request's target, which has len bytes at off of the segment, or 0 if the
 * segment ends before it can be told. The target is taken as it is: encoded bytes and letters of either case are others.
 * A function of its own for the verifier, as http_judge is.
 */
__noinline int http_route_of(struct __sk_buff *skb, u32 off, u32 len, u32 set)
{
	struct http_route key = {.set = set, .bits = 32 + 8 * HTTP_PATH};
	u32 n, *route;
	u8 first;

	if (!len || bpf_skb_load_bytes(skb, off, &first, 1))
		return 0;
	n = first == 'h' || first == 'H' ? path_in(skb, off, len) : 0;
	if (n == NO_PATH)
		return 0;
	if (n == EMPTY_PATH) {
		key.path[0] = '/';
		key.bits = 32 + 8;
	} else {
		off += n;
		n = len - n;
		if (n > HTTP_PATH)
			n = HTTP_PATH;
		if (n == 0)
			return 0;
		barrier_var(n); /* see gather */
		n = ((n - 1) & (HTTP_PATH - 1)) + 1;
		if (bpf_skb_load_bytes(skb, off, key.path, n) || !path_ends(key.path, n))
			return 0;
	}
	route = bpf_map_lookup_elem(&http_routes, &key);
	return route ? 1 + *route : 1;
}

/* Notes what its set needs to know of a request whose start is in the segment; whole: from its first byte. */
static __always_inline void note_request(struct __sk_buff *skb, struct conn *c, struct packet *p, bool whole)
{
	struct http_service *s = service_of(c);
	struct http_set *set;
	u32 number, target;

	if (!s)
		return;
	number = s->set;
	if (number <= SET_NONE)
		return;
	set = bpf_map_lookup_elem(&http_sets, &number);
	if (!set)
		return;
	c->methods = 1 << method_of(c->head);
	if (!set->routes)
		return;
	if (c->methods == 1 << METHOD_CONNECT) {
		c->route = 1; /* its target is no path */
		return;
	}
	if (!whole)
		return;
	for (target = 0; target < HEAD; target++)
		if (c->head[target] == ' ')
			break;
	target++;
	if (target < p->len)
		c->route = http_route_of(skb, p->off + target, p->len - target, number);
}

/* Data from the client where a request may begin. */
static __always_inline void request_data(struct __sk_buff *skb, struct conn *c, struct packet *p)
{
	u64 started = c->started;
	bool whole = c->state != CONN_HEAD;
	enum match m;
	u32 n;

	if (whole)
		c->gathered = 0;
	n = gather(skb, c, p);
	m = match_request(c->head, n);
	if (m == NO) {
		c->gathered = 0;
		if (c->state == CONN_HEAD)
			c->state = CONN_IDLE;
		return; /* the rest of a body that was answered early, or an empty line between requests */
	}
	finish(c, CONN_IDLE);
	if (c->state != CONN_HEAD)
		started = bpf_ktime_get_ns();
	if (m == YES) {
		begin(c, started);
		if (sets)
			note_request(skb, c, p, whole);
	} else {
		c->started = started;
		c->state = CONN_HEAD;
	}
}

/* The first data of a new connection comes from the client. */
static __always_inline void first_request(struct __sk_buff *skb, struct bpf_sock *sk, struct conn *c, struct packet *p,
					  struct http_key *key)
{
	u32 n = gather(skb, c, p);
	enum match m = match_request(c->head, n);

	if (m == NO && !is_server(skb, sk, p->v6)) {
		c->state = CONN_IGNORED;
		return;
	}
	c->slot = slot_of(key);
	if (m == NO) {
		become_opaque(c);
	} else if (m == YES) {
		begin(c, bpf_ktime_get_ns());
		if (sets)
			note_request(skb, c, p, true);
	} else {
		c->started = bpf_ktime_get_ns();
		c->state = CONN_HEAD;
	}
}

static const struct http_early no_early;

/*
 * Data that reaches a listening socket: what will be a connection sent it with the end of its handshake (TCP_DEFER_ACCEPT
 * makes the kernel wait for that) or with its start (TCP_FASTOPEN). The connection's own socket never sees it pass.
 */
static __always_inline void early_request(struct __sk_buff *skb, struct bpf_sock *sk, struct packet *p)
{
	u32 seq = p->seq + (p->flags & TH_SYN ? 1 : 0);
	struct http_tuple t = {.remote_port = p->source};
	struct http_early *e;
	struct http_key key;
	struct tcp_sock *tp;
	u8 first;

	if (bpf_skb_load_bytes(skb, p->off, &first, 1) || first < 'A' || first > 'Z')
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	key_of(tp, sk, &key);
	if (only_netns && key.netns != only_netns)
		return;
	t.netns = key.netns;
	t.local_port = key.port;
	if (p->v6 ? bpf_skb_load_bytes(skb, p->network + offsetof(struct ip6_header, destination), t.local, 16) ||
			    bpf_skb_load_bytes(skb, p->network + offsetof(struct ip6_header, source), t.remote, 16)
		  : bpf_skb_load_bytes(skb, p->network + offsetof(struct ip4_header, destination), t.local, 4) ||
			    bpf_skb_load_bytes(skb, p->network + offsetof(struct ip4_header, source), t.remote, 4))
		return;
	e = bpf_map_lookup_elem(&http_early, &t);
	if (e && e->seq == seq)
		return; /* sent again */
	bpf_map_update_elem(&http_early, &t, &no_early, BPF_ANY);
	e = bpf_map_lookup_elem(&http_early, &t);
	if (!e)
		return;
	e->seq = seq;
	e->conn.sides = 1;
	e->conn.next_in = seq + p->len;
	first_request(skb, sk, &e->conn, p, &key);
}

/* Finds what came for a connection before it had a socket. */
static __always_inline struct http_early *came_early(struct bpf_sock *sk, struct tcp_sock *tp, struct packet *p,
						     struct http_key *key, struct http_tuple *t)
{
	struct http_early *e;

	t->netns = key->netns;
	t->local_port = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport); /* a reset leaves when inet_num is 0 */
	t->remote_port = sk->dst_port;
	if (p->v6) {
		__builtin_memcpy(t->local, sk->src_ip6, sizeof(t->local));
		__builtin_memcpy(t->remote, sk->dst_ip6, sizeof(t->remote));
	} else {
		*(u32 *)t->local = sk->src_ip4;
		*(u32 *)t->remote = sk->dst_ip4;
	}
	e = bpf_map_lookup_elem(&http_early, t);
	if (e && e->seq != tp->rcv_nxt - (u32)tp->bytes_received)
		return NULL; /* of an earlier connection with the same ports */
	return e;
}

/*
 * Gives a socket its state when its first data passes, or when the connection ends before the server said a word; decides
 * who it is.
 */
static __always_inline struct conn *create(struct __sk_buff *skb, struct bpf_sock *sk, struct packet *p, bool ingress)
{
	struct http_early *early = NULL;
	struct http_losses *losses;
	struct http_tuple t = {};
	struct tcp_sock *tp;
	struct conn *c;
	struct http_key key;
	u32 zero = 0;
	/* Then the client's FIN is one of the bytes received. */
	bool closed = sk->state == BPF_TCP_CLOSE_WAIT || sk->state == BPF_TCP_LAST_ACK;
	bool first, asked;

	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return NULL;
	/* The server's first word, or what comes before it: does it answer a request that came before the connection? */
	first = tp->bytes_sent == (ingress ? 0 : p->len);
	asked = tp->bytes_received > (closed ? 1 : 0);
	if (!p->len && !(first && asked))
		return NULL;
	key_of(tp, sk, &key);
	if (first && asked)
		early = came_early(sk, tp, p, &key, &t);
	if (!p->len && !early)
		return NULL;
	c = bpf_sk_storage_get(&http_conns, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c) {
		losses = bpf_map_lookup_elem(&http_loss, &zero);
		if (losses)
			count(&losses->no_storage);
		return NULL;
	}
	if (early) {
		*c = early->conn;
		bpf_map_delete_elem(&http_early, &t);
		return c;
	}
	if (only_netns && key.netns != only_netns) {
		c->state = CONN_IGNORED;
		return NULL;
	}
	if (ingress && tp->bytes_received == 0 && tp->bytes_sent == 0) {
		c->sides = 1;
		c->next_in = p->seq + p->len;
		first_request(skb, sk, c, p, &key);
		return NULL;
	}
	if (!is_server(skb, sk, p->v6)) {
		c->state = CONN_IGNORED;
		return NULL;
	}
	c->slot = slot_of(&key);
	if (ingress || !first) {
		c->state = CONN_JOINED;
	} else if (asked) {
		c->state = CONN_IDLE; /* the request that it answers was lost from http_early */
	} else if (closed) {
		c->state = CONN_IGNORED; /* the client left without a word, as checks of health do: nobody asked */
		return NULL;
	} else {
		become_opaque(c); /* the server speaks first, which HTTP does not */
		return NULL;
	}
	return c;
}

/* Keeps what is new and in order of a segment from the client. False if nothing is. */
static __always_inline bool in_order(struct conn *c, struct packet *p)
{
	u32 end = p->seq + p->len;
	s32 gap = p->seq - c->next_in;

	if (!(c->sides & 1)) {
		c->sides |= 1;
		c->next_in = end;
		return true;
	}
	if (gap > 0) { /* something before it is missing: it will come again */
		if (!c->ahead || (s32)(end - c->ahead) > 0)
			c->ahead = end;
		return false;
	}
	if ((s32)(end - c->next_in) <= 0)
		return false; /* seen */
	p->off -= gap;
	p->len += gap;
	c->next_in = end;
	if (c->ahead && (s32)(c->ahead - end) > 0)
		c->next_in = c->ahead;
	c->ahead = 0;
	return true;
}

/*
 * A joined connection is between requests if the server sent after it last received, so that what comes now starts a
 * request if it looks like one. TCP notes both in jiffies: when they are equal, this may also be the body of a request
 * whose start was not seen. It will be answered all the same, so it is counted, but its duration is unknown.
 */
static __always_inline void joined_request(struct __sk_buff *skb, struct bpf_sock *sk, struct conn *c, struct packet *p)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	s32 since;

	if (!tp)
		return;
	since = tp->lsndtime - tp->inet_conn.icsk_ack.lrcvtime;
	if (since >= 0 && tp->bytes_sent) {
		request_data(skb, c, p);
		if (c->state != CONN_JOINED) {
			if (since == 0)
				unseen(c);
			return;
		}
	}
	if (++c->tries > JOIN_TRIES)
		become_opaque(c);
}

static __always_inline void ingress(struct __sk_buff *skb, struct bpf_sock *sk, struct packet *p)
{
	struct conn *c = bpf_sk_storage_get(&http_conns, sk, NULL, 0);

	if (!c) {
		if (sk->state == BPF_TCP_LISTEN) {
			if (p->len)
				early_request(skb, sk, p);
			return;
		}
		c = create(skb, sk, p, true);
		if (!c)
			return;
	}
	if (c->state == CONN_IGNORED || c->state == CONN_OPAQUE)
		return;
	if (p->len && in_order(c, p)) {
		if (c->state == CONN_JOINED)
			joined_request(skb, sk, c, p);
		else if (c->state != CONN_PENDING) /* else: more of the request */
			request_data(skb, c, p);
	}
	if (p->flags & TH_RST)
		end(c);
}

static __always_inline void egress(struct __sk_buff *skb, struct bpf_sock *sk, struct packet *p)
{
	struct conn *c = bpf_sk_storage_get(&http_conns, sk, NULL, 0);
	u32 seq_end = p->seq + p->len;

	if (!c) {
		c = create(skb, sk, p, false);
		if (!c)
			return;
	}
	if (c->state == CONN_IGNORED || c->state == CONN_OPAQUE)
		return;
	if (p->len && (!(c->sides & 2) || (s32)(seq_end - c->next_out) > 0)) { /* else: sent again */
		c->sides |= 2;
		c->next_out = seq_end;
		if (c->state == CONN_HEAD) { /* an answer to a request that is not complete, e.g. a timeout's 408 */
			c->gathered = 0;
			c->methods = 0;
			c->route = 0;
			c->state = CONN_PENDING;
		}
		if (c->state == CONN_RESPONDING)
			more_response(skb, c, p);
		else
			response_data(skb, c, p);
	}
	if (p->flags & (TH_FIN | TH_RST))
		end(c);
}

/* A client's FIN closes its half only, the answer may follow; a server's comes last. */
static __always_inline bool matters(struct packet *p, bool in)
{
	return p->len || p->flags & (in ? TH_RST : TH_FIN | TH_RST);
}

static __always_inline void at_cgroup(struct __sk_buff *skb, bool in)
{
	struct bpf_sock *sk;
	struct packet p;

	if (!parse(skb, AT_CGROUP, &p) || !matters(&p, in))
		return;
	sk = skb->sk;
	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	if (in)
		ingress(skb, sk, &p);
	else
		egress(skb, sk, &p);
}

/* Finds the socket that a segment is for, before the IP layer has. The caller releases it. */
static __always_inline struct bpf_sock *receiver(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock_tuple t = {};

	if (p->v6) {
		if (bpf_skb_load_bytes(skb, AT_INTERFACE + offsetof(struct ip6_header, source), t.ipv6.saddr, 32))
			return NULL;
		t.ipv6.sport = p->source;
		t.ipv6.dport = p->destination;
		return bpf_sk_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (bpf_skb_load_bytes(skb, AT_INTERFACE + offsetof(struct ip4_header, source), &t.ipv4.saddr, 8))
		return NULL;
	t.ipv4.sport = p->source;
	t.ipv4.dport = p->destination;
	return bpf_sk_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
}

static __always_inline void into_interface(struct __sk_buff *skb)
{
	struct bpf_sock *sk;
	struct packet p;

	if (!parse(skb, AT_INTERFACE, &p)) {
		/* Drivers may leave the headers outside of what programs see directly. */
		if (bpf_skb_pull_data(skb, 0) || !parse(skb, AT_INTERFACE, &p))
			return;
	}
	if (!matters(&p, true))
		return;
	sk = receiver(skb, &p);
	if (!sk)
		return;
	ingress(skb, sk, &p);
	bpf_sk_release(sk);
}

static __always_inline void out_of_interface(struct __sk_buff *skb)
{
	struct bpf_sock *sk;
	struct packet p;

	if (!parse(skb, AT_INTERFACE, &p) || !matters(&p, false))
		return;
	sk = skb->sk;
	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (sk)
		egress(skb, sk, &p);
}

SEC("cgroup_skb/ingress")
int http_ingress(struct __sk_buff *skb)
{
	struct http_runs *r = this_cpu();
	u64 began = run_begins(r);

	at_cgroup(skb, true);
	run_ends(r, began);
	return 1; /* pass, always */
}

SEC("cgroup_skb/egress")
int http_egress(struct __sk_buff *skb)
{
	struct http_runs *r = this_cpu();
	u64 began = run_begins(r);

	at_cgroup(skb, false);
	run_ends(r, began);
	return 1; /* pass, always */
}

SEC("tcx/ingress")
int http_tcx_in(struct __sk_buff *skb)
{
	struct http_runs *r = this_cpu();
	u64 began = run_begins(r);

	into_interface(skb);
	run_ends(r, began);
	return TCX_PASS; /* always */
}

SEC("tcx/egress")
int http_tcx_out(struct __sk_buff *skb)
{
	struct http_runs *r = this_cpu();
	u64 began = run_begins(r);

	out_of_interface(skb);
	run_ends(r, began);
	return TCX_PASS; /* always */
}

/* Closes a response that has been quiet for quiet_ns. User space walks over all before it reads the durations. */
static __always_inline int flush(struct conn *c)
{
	if (c && c->state == CONN_RESPONDING && bpf_ktime_get_ns() - c->last >= quiet_ns)
		finish(c, CONN_QUIET);
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int http_flush(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	return flush(ctx->value);
}

SEC("iter/task_file")
int http_flush_files(struct bpf_iter__task_file *ctx)
{
	struct sock *sk = walk_sock(ctx);

	return sk ? flush(bpf_sk_storage_get(&http_conns, sk, NULL, 0)) : 0;
}

char LICENSE[] SEC("license") = "GPL";
