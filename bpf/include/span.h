/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How long a task is at something, from the hook where it begins to the hook where it ends. The beginning is kept in
 * the storage of the task: no map can fill up, no number of a process is used again, and the memory goes with the task.
 *
 * Beginnings and ends need not come in pairs: a probe is attached while something goes on, the kernel leaves out runs,
 * one thing happens within another. So both carry an id, of what they are about, and
 * - an end without its beginning is unmatched;
 * - a beginning whose end was missed is unmatched when the next one of the same id comes;
 * - within another one, and one more, the innermost is measured; the ends of the outer ones are told apart from unmatched
 *   ends;
 * - what began before the probe was attached again is unmatched: an end may be missing in between.
 */
#ifndef SLID_SPAN_H
#define SLID_SPAN_H

#include "core.h"
#include "probe.h"

struct span {
	u64 begun;    /* when something began last, in ns of bpf_ktime_get_ns() */
	u64 weight;   /* events that it stands for; 0: it ended, or is left out */
	u64 id;       /* of what it is about */
	u64 outer[2]; /* ids of what it began in, the innermost first; 0: nothing */
	u32 kind;     /* for the probe */
	u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct span);
} span_tasks SEC(".maps");

enum span_end {
	SPAN_UNKNOWN, /* it is counted why */
	SPAN_OUTER,   /* something within it was measured in its stead */
	SPAN_ENDED,   /* struct span_done tells more */
};

struct span_done {
	u64 ns;
	u64 weight;
	u32 kind;
};

/* span_begin notes that the running task begins something. id is not 0. */
static __always_inline void span_begin(struct probe_cpu *c, u64 id, u32 kind)
{
	u64 weight = probe_weight(c);
	struct span *s;

	s = bpf_task_storage_get(&span_tasks, bpf_get_current_task_btf(), 0,
				 weight ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
	if (!s) {
		if (weight)
			count(&c->lost); /* no memory */
		return;
	}
	if (s->begun <= probe_since) {
		s->weight = s->outer[0] = s->outer[1] = 0;
	} else if (s->weight && s->id == id) {
		count(&c->unmatched); /* it did not end, as far as is known */
	} else if (s->weight) {
		s->outer[1] = s->outer[0];
		s->outer[0] = s->id;
	}
	s->weight = weight; /* what is left out must not look like the former one */
	s->id = id;
	s->kind = kind;
	s->begun = bpf_ktime_get_ns();
}

/*
 * span_innermost returns the id of what the running task began last and has not ended, or 0. It is for hooks that do not
 * tell what ends.
 */
static __always_inline u64 span_innermost(void)
{
	struct span *s = bpf_task_storage_get(&span_tasks, bpf_get_current_task_btf(), 0, 0);

	if (!s || s->begun <= probe_since)
		return 0;
	return s->weight ? s->id : s->outer[0];
}

/* span_outer takes what was begun under an id from the list of those that others began in. */
static __always_inline bool span_outer(struct span *s, u64 id)
{
	if (s->outer[0] == id)
		s->outer[0] = s->outer[1];
	else if (s->outer[1] == id)
		s->outer[0] = 0; /* the end of this one was missed */
	else
		return false;
	s->outer[1] = 0;
	return true;
}

/* span_unmatched counts an end without a beginning. While events are left out, most such ends are theirs. */
static __always_inline enum span_end span_unmatched(struct probe_cpu *c)
{
	if (!sample_shift)
		count(&c->unmatched);
	return SPAN_UNKNOWN;
}

/* span_end ends what the running task began under an id. */
static __always_inline enum span_end span_end(struct probe_cpu *c, u64 id, struct span_done *done)
{
	u64 now = bpf_ktime_get_ns(), weight;
	struct span *s = bpf_task_storage_get(&span_tasks, bpf_get_current_task_btf(), 0, 0);

	if (!s || s->begun <= probe_since)
		return span_unmatched(c);
	weight = s->weight;
	if (!weight || s->id != id)
		return span_outer(s, id) ? SPAN_OUTER : span_unmatched(c);
	s->weight = 0;
	if (now < s->begun) {
		count(&c->discarded);
		return SPAN_UNKNOWN;
	}
	done->ns = now - s->begun;
	done->weight = weight;
	done->kind = s->kind;
	return SPAN_ENDED;
}

#endif
