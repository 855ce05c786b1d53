/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The times of events that have a begin and an end of their own, each a program. What a begin leaves behind is out of date
 * once the programs were detached, since the end may have come meanwhile: the next end would make a giant of it.
 */
#ifndef SLID_TIMING_H
#define SLID_TIMING_H

#include "core.h"
#include "probe.h"

/* What a begin leaves behind. */
struct timing {
	u64 begin;  /* bpf_ktime_get_ns(); 0: none */
	u64 weight; /* how many events it stands for; 0: it was left out by sampling */
};

/* timing_open says whether a begin is on record, one that counts or was left out. */
static __always_inline bool timing_open(struct timing *s)
{
	return s->begin && probe_saw(s->begin);
}

/* timing_begin notes a begin, and decides whether the event is recorded. */
static __always_inline void timing_begin(struct probe_cpu *c, struct timing *s)
{
	s->weight = probe_weight(c);
	s->begin = s->weight ? bpf_ktime_get_ns() : ~0ULL; /* the time of what was left out is of no interest */
}

/*
 * timing_end returns how many events it stands for and stores its length, or returns 0 if there is nothing to
 * record: there was no begin, it was left out, or its length is beyond limit_ns, which says that an end was missed.
 */
static __always_inline u64 timing_end(struct probe_cpu *c, struct timing *s, u64 limit_ns, u64 *length)
{
	bool open = timing_open(s);
	u64 begin = s->begin;

	s->begin = 0;
	if (!open) {
		count(&c->unmatched); /* it began before the probe did, or its begin was missed */
		return 0;
	}
	if (!s->weight)
		return 0; /* counted as skipped when it began */
	*length = bpf_ktime_get_ns() - begin;
	if (*length > limit_ns) {
		count(&c->discarded); /* it cannot be that long */
		return 0;
	}
	count(&c->recorded);
	return s->weight;
}

#endif
