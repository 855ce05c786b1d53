/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Latency histograms in the kernel: the base-2 exponential histogram of OpenTelemetry at scale 3, in seconds.
 * Bucket b holds the durations in (2^((b-192)/8) s, 2^((b-191)/8) s]: upper bounds inclusive, each bucket 9.05 % wider
 * than the one before, 60 ns to 256 s in 256 buckets. internal/metric.Durations is the same range in Go, and a test
 * compares the two value by value.
 *
 * The bounds are powers of 2^(1/8) of a second while durations come in ns. No conversion is needed: the bounds in ns,
 * 10^9 * 2^(k/8), have the same eight mantissas in each octave of ns. So a bucket is found from the position of the
 * highest bit and one comparison of the mantissa, exactly, for every whole number of ns. It takes about 10 ns.
 */
#ifndef SLID_HIST_H
#define SLID_HIST_H

#include "core.h"

#define HIST_BUCKETS 256
#define HIST_ZERO_NS 59ULL           /* the last whole ns below 2^-24 s; up to here a duration counts as zero */
#define HIST_MAX_NS  256000000000ULL /* 2^8 s; longer durations count in the last bucket and as overflow */

struct hist {
	u64 zero;     /* durations of at most HIST_ZERO_NS; they are in no bucket */
	u64 overflow; /* durations above HIST_MAX_NS; they are in the last bucket too */
	u64 sum_ns;   /* sum of all durations */
	u64 buckets[HIST_BUCKETS];
};

_Static_assert(sizeof(struct hist) == (3 + HIST_BUCKETS) * 8, "struct hist has no padding");

/*
 * An octave of ns, 2^e to 2^(e+1), is cut into 16 cells of equal width. Bounds lie more than a cell apart, so each cell
 * has one bound at most: hist_bound is its mantissa, floor(2^62 * 10^9 * 2^(k/8) / 2^e), or the greatest mantissa in
 * cells without a bound; hist_below counts the bounds in lower cells of the octave.
 */
static const u64 hist_bound[16] = {
	0x40ffd3d4aa4e5371, 0x46e1dc4b00b253ec, 0x7fffffffffffffff, 0x4d4c3382a6a891c8,
	0x7fffffffffffffff, 0x544b2fba5f832838, 0x5bec4509686ecf50, 0x7fffffffffffffff,
	0x7fffffffffffffff, 0x643e1f3e81e6df61, 0x7fffffffffffffff, 0x6d50be1668caaaed,
	0x7fffffffffffffff, 0x7735940000000000, 0x7fffffffffffffff, 0x7fffffffffffffff,
};
static const u8 hist_below[16] = {0, 1, 2, 2, 3, 3, 4, 5, 5, 5, 6, 6, 7, 7, 8, 8};

/* hist_log2 returns the position of the highest bit of v, which is not 0. The instruction set has none for it. */
static __always_inline u32 hist_log2(u64 v)
{
	u32 n = 0, w = v;

	if (v >> 32) {
		w = v >> 32;
		n = 32;
	}
	if (w >> 16) {
		w >>= 16;
		n += 16;
	}
	if (w >> 8) {
		w >>= 8;
		n += 8;
	}
	if (w >> 4) {
		w >>= 4;
		n += 4;
	}
	if (w >> 2) {
		w >>= 2;
		n += 2;
	}
	return n + (w >> 1);
}

/* hist_bucket returns the bucket of a duration in (HIST_ZERO_NS, HIST_MAX_NS]. */
static __always_inline u32 hist_bucket(u64 ns)
{
	u32 e = hist_log2(ns);
	u64 mantissa = ns << (62 - e);
	u32 cell = mantissa >> 58 & 15;

	/* The difference is negative, its highest bit 1, for a mantissa above the bound. */
	u32 above = (hist_bound[cell] - mantissa) >> 63;

	return (8 * e + hist_below[cell] + above - 48) & (HIST_BUCKETS - 1);
}

/*
 * hist_add counts a duration n times in a histogram that nobody else writes at the same time: one per CPU, from a
 * program that cannot be interrupted by another writer (e.g. with interrupts off).
 */
static __always_inline void hist_add(struct hist *h, u64 ns, u64 n)
{
	h->sum_ns += ns * n;
	if (ns <= HIST_ZERO_NS) {
		h->zero += n;
		return;
	}
	if (ns > HIST_MAX_NS) {
		ns = HIST_MAX_NS;
		h->overflow += n;
	}
	h->buckets[hist_bucket(ns)] += n;
}

/* hist_add_atomic counts a duration n times in a histogram that several CPUs write. */
static __always_inline void hist_add_atomic(struct hist *h, u64 ns, u64 n)
{
	__sync_fetch_and_add(&h->sum_ns, ns * n);
	if (ns <= HIST_ZERO_NS) {
		__sync_fetch_and_add(&h->zero, n);
		return;
	}
	if (ns > HIST_MAX_NS) {
		ns = HIST_MAX_NS;
		__sync_fetch_and_add(&h->overflow, n);
	}
	__sync_fetch_and_add(&h->buckets[hist_bucket(ns)], n);
}

/* hist_record counts a duration as hist_add does, once. */
static __always_inline void hist_record(struct hist *h, u64 ns)
{
	hist_add(h, ns, 1);
}

/* hist_record_atomic counts a duration as hist_add_atomic does, once. */
static __always_inline void hist_record_atomic(struct hist *h, u64 ns)
{
	hist_add_atomic(h, ns, 1);
}

#endif
