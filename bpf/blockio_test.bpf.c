//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * The usual way to measure block requests, to compare blockio.bpf.c with: the time of their insertion or issue in a map by
 * request, and their time in a histogram by disk and direction when they complete. No product code loads it.
 */
#include "core.h"
#include "blockio.h"
#include "hist.h"

#define STARTS 10240
#define SLOTS  256

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STARTS);
	__type(key, u64);
	__type(value, u64);
} blockio_starts SEC(".maps");

struct usual_key {
	u32 disk;
	u32 op;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SLOTS);
	__type(key, struct usual_key);
	__type(value, struct hist);
} blockio_usual SEC(".maps");

static const struct hist usual_none;

static __always_inline int usual_start(struct request *rq)
{
	u64 key = (u64)rq, now = bpf_ktime_get_ns();

	bpf_map_update_elem(&blockio_starts, &key, &now, BPF_ANY);
	return 0;
}

SEC("tp_btf/block_rq_insert")
int BPF_PROG(usual_insert, struct request *rq)
{
	return usual_start(rq);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(usual_issue, struct request *rq)
{
	return usual_start(rq);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(usual_complete, struct request *rq, int error, unsigned int bytes)
{
	struct usual_key disk = {.disk = rq->q->disk->diskseq, .op = rq->cmd_flags & REQ_OP_MASK};
	u64 key = (u64)rq, *start = bpf_map_lookup_elem(&blockio_starts, &key), took;
	struct hist *h;

	if (!start)
		return 0;
	took = bpf_ktime_get_ns() - *start;
	bpf_map_delete_elem(&blockio_starts, &key);
	h = bpf_map_lookup_elem(&blockio_usual, &disk);
	if (!h) {
		bpf_map_update_elem(&blockio_usual, &disk, &usual_none, BPF_NOEXIST);
		h = bpf_map_lookup_elem(&blockio_usual, &disk);
	}
	if (h)
		hist_record_atomic(h, took);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
