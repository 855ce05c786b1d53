/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For probes that remember the beginning of something until its end: since when they see all of it.
 */
#ifndef SLID_ATTACHED_H
#define SLID_ATTACHED_H

#include "core.h"

/*
 * When the programs were attached last, CLOCK_MONOTONIC in ns. What is remembered from before, the end of which may have
 * passed while they were not, is of unknown length. User space sets it.
 */
volatile u64 attached_since = ~0ULL;

/* attached_at says whether the programs were attached at a time, and all the time since. */
static __always_inline bool attached_at(u64 time)
{
	return time >= attached_since;
}

#endif
