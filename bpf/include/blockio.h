/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fields of block devices, requests and bios that probes read.
 */
#ifndef SLID_BLOCKIO_H
#define SLID_BLOCKIO_H

#include "cgroup.h"
#include "core.h"

/* include/linux/blk_types.h, enum req_op: the least byte of cmd_flags and bi_opf. */
#define REQ_OP_MASK    0xff
#define REQ_OP_WRITE   1
#define REQ_OP_FLUSH   2
#define REQ_OP_DISCARD 3
#define REQ_OP_OTHERS  32 /* from here on, commands of drivers and programs */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/device.h; parent is NULL for what has no hardware */
struct device {
	struct device *parent;
};

/* include/linux/blk_types.h */
struct block_device {
	struct gendisk *bd_disk;
	struct device bd_device;
};

/* include/linux/blkdev.h; diskseq is there since Linux 5.15 */
struct gendisk {
	char disk_name[32];
	struct block_device *part0; /* the whole disk */
	struct request_queue *queue;
	u64 diskseq;
};

/* include/linux/blkdev.h; mq_ops is NULL for disks that make no requests, disk for queues without one */
struct request_queue {
	const struct blk_mq_ops *mq_ops;
	struct gendisk *disk;
};

/* block/blk-cgroup.h; the control group of I/O */
struct blkcg {
	struct cgroup_subsys_state css;
};

/* block/blk-cgroup.h; a control group on a disk */
struct blkcg_gq {
	struct blkcg *blkcg;
};

/* include/linux/bvec.h */
struct bvec_iter {
	unsigned int bi_size; /* bytes that are left to do */
};

/* include/linux/blk_types.h; bi_blkg exists with CONFIG_BLK_CGROUP */
struct bio {
	struct block_device *bi_bdev;
	u32 bi_opf;
	u8 bi_status;
	struct bvec_iter bi_iter;
	struct blkcg_gq *bi_blkg;
};

/* include/linux/blk-mq.h; times are of bpf_ktime_get_ns(), 0 if the kernel does not keep them */
struct request {
	struct request_queue *q;
	u32 cmd_flags;
	u32 rq_flags;
	unsigned int __data_len; /* bytes that are left to do */
	struct bio *bio;
	u64 start_time_ns;
	u64 io_start_time_ns;
};

/* include/linux/blk-mq.h; bits of rq_flags. The enum has had no name before Linux 6.13. */
enum rqf_flags {
	__RQF_IO_STAT = 8,
};

#pragma clang attribute pop

#endif
