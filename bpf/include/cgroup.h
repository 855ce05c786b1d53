/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fields of control groups that probes read.
 */
#ifndef SLID_CGROUP_H
#define SLID_CGROUP_H

#include "core.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/kernfs.h; id is the inode number */
struct kernfs_node {
	const char *name;
	u64 id;
};

/* include/linux/cgroup-defs.h; hierarchy_id is 0 for the cgroup2 tree */
struct cgroup_root {
	int hierarchy_id;
};

/* include/linux/cgroup-defs.h */
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

/* include/linux/cgroup-defs.h */
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

/* include/linux/cgroup-defs.h; dfl_cgrp is the group in the cgroup2 tree */
struct css_set {
	struct cgroup *dfl_cgrp;
};

#pragma clang attribute pop

#endif
