//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Runs span.h on the task that calls the program by BPF_PROG_TEST_RUN, for the tests: beginnings and ends in any order.
 */
#include "core.h"
#include "probe.h"
#include "span.h"

u64 span_lasted; /* ns of the last one that ended */
u64 span_stood;  /* its weight */

SEC("raw_tp/begin")
int span_begins(u64 *ctx)
{
	struct probe_cpu *c = probe_account();

	if (c)
		span_begin(c, ctx[0], 0);
	return 0;
}

SEC("raw_tp/end")
int span_ends(u64 *ctx)
{
	struct probe_cpu *c = probe_account();
	struct span_done done = {};
	enum span_end end;

	if (!c)
		return SPAN_UNKNOWN;
	end = span_end(c, ctx[0], &done);
	if (end == SPAN_ENDED) {
		span_lasted = done.ns;
		span_stood = done.weight;
	}
	return end;
}

/* span_back moves the beginning of what goes on: the clock of another CPU may be behind. */
SEC("raw_tp/move")
int span_move(u64 *ctx)
{
	struct span *s = bpf_task_storage_get(&span_tasks, bpf_get_current_task_btf(), 0, 0);

	if (s)
		s->begun += ctx[0];
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
