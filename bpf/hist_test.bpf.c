//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Runs the functions of hist.h on a value given by a test, by BPF_PROG_TEST_RUN. No product code loads it.
 */
#include "core.h"
#include "hist.h"

/* hist_test_hist has the histogram of the plain function at 0, that of the atomic one at 1. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct hist);
} hist_test_hist SEC(".maps");

/* hist_test_value reads the duration, in ns, that the test gives as first 8 bytes behind the link-layer header. */
static __always_inline int hist_test_value(struct __sk_buff *skb, u64 *ns)
{
	return bpf_skb_load_bytes(skb, 14, ns, sizeof(*ns));
}

/* hist_test_record records the duration in both histograms. */
SEC("tc")
int hist_test_record(struct __sk_buff *skb)
{
	u32 plain = 0, atomic = 1;
	struct hist *p = bpf_map_lookup_elem(&hist_test_hist, &plain);
	struct hist *a = bpf_map_lookup_elem(&hist_test_hist, &atomic);
	u64 ns;

	if (!p || !a || hist_test_value(skb, &ns))
		return -1;
	hist_record(p, ns);
	hist_record_atomic(a, ns);
	return 0;
}

/* hist_test_bucket returns the bucket of a duration inside the range. */
SEC("tc")
int hist_test_bucket(struct __sk_buff *skb)
{
	u64 ns;

	if (hist_test_value(skb, &ns))
		return -1;
	return hist_bucket(ns);
}

/* hist_test_speed records varied durations, to be timed with many repetitions. */
SEC("tc")
int hist_test_speed(struct __sk_buff *skb)
{
	u32 plain = 0;
	struct hist *p = bpf_map_lookup_elem(&hist_test_hist, &plain);

	if (!p)
		return -1;
	skb->mark = skb->mark * 1664525 + 1013904223; /* the generator of Numerical Recipes */
	hist_record(p, skb->mark);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
