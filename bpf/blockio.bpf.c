//go:build ignore
// SPDX-License-Identifier: GPL-2.0
/*
 * Block I/O latency: how long requests waited in the queue and how long the device took, for each disk and direction,
 * and how long the requests of each unit or container took in all.
 *
 * A request carries its own time stamps: start_time_ns of when it was made, io_start_time_ns of when the driver got it.
 * So one hook suffices, tp_btf/block_rq_complete, and no request can be missed or mixed up with another that began
 * before the probe did. It costs some hundred ns a request.
 *
 * Two more are attached where there is need:
 * - tp_btf/block_rq_issue, for disks whose requests come without io_start_time_ns: the kernel fills it where something
 *   of its own wants statistics (write-back throttling, kyber, bfq, io.cost). It notes the time itself.
 * - tp_btf/block_bio_queue and block_bio_complete, for disks that make no requests (dm, md, zram): the time of their
 *   bios, from one to the other, by a map. The bios of disks that make requests leave both at once.
 *
 * What counts, in agreement with /proc/diskstats:
 * - A request once: when it is complete. The time includes that of bios merged into it, from the first one on.
 * - flush is the command that the device gets. Requests without data that wait for it, several for the same one, are no
 *   I/O of the disk but count as flush of their owner.
 * - A write that wants the cache flushed afterwards (FUA that the device cannot do) ends with its data.
 * - Commands of drivers and programs (SG_IO, NVMe admin) do not count.
 */
#include "core.h"
#include "blockio.h"
#include "cgroup.h"
#include "hist.h"
#include "owner.h"
#include "probe.h"

#define BLOCKIO_PENDING 13                /* log2 of how many pairs of requests may be with drivers, untimed */
#define BLOCKIO_MOST_NS 86400000000000ULL /* a longer time is none: a day */

/* Whether control groups tell whose a request is. */
const volatile bool owned = false;

/* Whether to do without the kernel's io_start_time_ns, as if it were not filled. For tests. */
const volatile bool untold = false;

/* Disks and directions have slots of a table of their own, which has this size. */
const volatile u32 disk_slots = 8;
const volatile u32 disk_shards = 1;

/* When the probe was attached last, by bpf_ktime_get_ns(). What was noted before may be of another bio. */
volatile u64 blockio_since;

enum blockio_direction {
	BLOCKIO_READ,
	BLOCKIO_WRITE,
	BLOCKIO_FLUSH,
	BLOCKIO_OWNED, /* the directions above are told apart for owners */
	BLOCKIO_DISCARD = BLOCKIO_OWNED,
	BLOCKIO_DIRECTIONS,
};

/* Of what a slot is, beside the direction. */
#define BLOCKIO_BIOS    4 /* bios, not requests */
#define BLOCKIO_STACKED 8 /* no hardware of its own: what it is stacked on counts the same I/O */

/* The first slots take what found no other: those of requests, and those of bios, by direction. */
#define BLOCKIO_OTHERS 8

/* What is counted of a disk and direction. */
struct blockio_slot {
	struct hist total;  /* from making to completion */
	struct hist queue;  /* until the driver got it; none of bios */
	struct hist device; /* from then on; none of bios */
	u64 errors;
	u64 untimed; /* requests in total alone, for the time the driver got them is not known */
};

/* Whose a slot is. */
struct blockio_disk {
	u64 sequence; /* number of the disk, which no other gets (/sys/block/NAME/diskseq); 0: nobody's */
	u64 tag;      /* direction and flags; of the first slot: there is none left, until user space sets it back */
	char name[32];
};

/* What completions know of a disk and direction. */
struct blockio_ref {
	u32 slot;
	u32 untimed; /* its last request came without io_start_time_ns */
};

/* What is counted for an owner. */
struct blockio_owner {
	struct hist time[BLOCKIO_OWNED];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct blockio_slot);
} blockio_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct blockio_disk);
} blockio_disks SEC(".maps");

/* blockio_free has the slots that nobody has. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, u32);
} blockio_free SEC(".maps");

/* blockio_refs goes by the number of the disk and the direction. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, u64);
	__type(value, struct blockio_ref);
} blockio_refs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct blockio_owner);
} blockio_owners SEC(".maps");

/* Two requests that are with the driver, by their addresses, and since when. */
struct blockio_pair {
	u64 request[2]; /* 0: none */
	u64 since[2];
};

/*
 * blockio_issued has the time that the driver got a request, at the place that its address hashes to, or beside it. A
 * hash map would take five times as long. Writers do not exclude each other: two requests that hash to the same pair at
 * the same moment may have each other's time, which is as good, and of three one loses its.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << BLOCKIO_PENDING);
	__type(key, u32);
	__type(value, struct blockio_pair);
} blockio_issued SEC(".maps");

/* What is noted of a bio. */
struct blockio_bio {
	u64 since;
	u32 direction;
	u32 weight;
};

/*
 * blockio_bios forgets what was used longest ago when it is full: drivers may hand a bio on to another disk (NVMe
 * multipath), and what becomes of that one does not show here.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, u64);
	__type(value, struct blockio_bio);
} blockio_bios SEC(".maps");

/* blockio_direction returns the direction as /proc/diskstats has it (op_stat_group in block/blk.h). */
static __always_inline u32 blockio_direction(u32 op)
{
	if (op == REQ_OP_FLUSH)
		return BLOCKIO_FLUSH;
	if (op == REQ_OP_DISCARD)
		return BLOCKIO_DISCARD;
	return op & 1 ? BLOCKIO_WRITE : BLOCKIO_READ;
}

static __always_inline bool blockio_stacked(struct gendisk *disk)
{
	return !disk->part0->bd_device.parent;
}

/* blockio_claim gives a free slot to a disk and direction that were not seen before. */
static __noinline struct blockio_ref *blockio_claim(struct gendisk *disk, u64 key, u32 tag)
{
	struct blockio_ref ref = {};
	struct blockio_disk *whose, *full = bpf_map_lookup_elem(&blockio_disks, &ref.slot);

	if (!full || full->tag)
		return NULL;
	if (bpf_map_pop_elem(&blockio_free, &ref.slot)) {
		full->tag = 1;
		return NULL;
	}
	whose = bpf_map_lookup_elem(&blockio_disks, &ref.slot);
	if (!whose)
		return NULL; /* no such slot: user space hands out none beyond the table */
	if (bpf_map_update_elem(&blockio_refs, &key, &ref, BPF_NOEXIST)) {
		bpf_map_push_elem(&blockio_free, &ref.slot, 0); /* another CPU was faster */
	} else {
		if (blockio_stacked(disk))
			tag |= BLOCKIO_STACKED;
		bpf_probe_read_kernel(whose->name, sizeof(whose->name), disk->disk_name);
		whose->tag = tag;
		whose->sequence = disk->diskseq; /* from now on user space sees it */
	}
	return bpf_map_lookup_elem(&blockio_refs, &key);
}

/* blockio_find returns what is known of a disk and direction; NULL if there is no room to know anything. */
static __always_inline struct blockio_ref *blockio_find(struct gendisk *disk, u32 tag)
{
	u64 key = disk->diskseq << 2 | (tag & 3);
	struct blockio_ref *ref = bpf_map_lookup_elem(&blockio_refs, &key);

	return ref ?: blockio_claim(disk, key, tag);
}

/* blockio_slot returns the slot of a disk and direction, or that of all others. */
static __always_inline struct blockio_slot *blockio_slot(struct blockio_ref *ref, u32 tag)
{
	u32 key = ref ? ref->slot : tag & (BLOCKIO_OTHERS - 1);

	key += (bpf_get_smp_processor_id() & (disk_shards - 1)) * disk_slots;
	return bpf_map_lookup_elem(&blockio_table, &key);
}

/* blockio_own counts a request for the unit or container that it is of. */
static __always_inline void blockio_own(struct request *rq, u32 direction, u64 total, u64 weight)
{
	struct blockio_owner *owner;
	struct cgroup *group;
	u32 slot = OWNER_REST, key;

	if (!owned || direction >= BLOCKIO_OWNED || blockio_stacked(rq->q->disk))
		return;
	group = rq->bio->bi_blkg->blkcg->css.cgroup;
	if (!group->root->hierarchy_id)
		slot = owner_of(group->kn->id);
	key = table_key(slot);
	owner = bpf_map_lookup_elem(&blockio_owners, &key);
	if (owner)
		hist_add_atomic(&owner->time[direction], total, weight);
}

/* blockio_address returns the address of a request as a number to count with, which the verifier does not let it be. */
static __always_inline u64 blockio_address(struct request *rq)
{
	u64 pointer = (u64)rq, address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), &pointer);
	return address;
}

/* blockio_pair returns where the time is noted at which the driver got the request of an address. */
static __always_inline struct blockio_pair *blockio_pair(u64 address)
{
	u32 key = (u32)(address >> 6) * 0x9e3779b1 >> (32 - BLOCKIO_PENDING); /* Fibonacci hashing */

	return bpf_map_lookup_elem(&blockio_issued, &key);
}

/* blockio_noted returns the noted time at which the driver got a request, and forgets it; 0 if there is none. */
static __always_inline u64 blockio_noted(struct request *rq)
{
	u64 address = blockio_address(rq), since;
	struct blockio_pair *pair = blockio_pair(address);

	if (!pair)
		return 0; /* never: all keys exist */
	if (pair->request[0] == address) {
		since = pair->since[0];
		pair->request[0] = 0;
		return since;
	}
	if (pair->request[1] == address) {
		since = pair->since[1];
		pair->request[1] = 0;
		return since;
	}
	return 0;
}

/*
 * blockio_device returns how long the device took of the time since start, or -1 if that is not known. The kernel's two
 * times may be out of order by some us: since Linux 6.9 a task that plugs requests reads the clock once for all of them.
 */
static __always_inline u64 blockio_device(struct request *rq, struct blockio_ref *ref, u64 start, u64 now)
{
	u64 begun = untold ? 0 : rq->io_start_time_ns;
	bool untimed = !begun;

	if (ref && ref->untimed != untimed)
		ref->untimed = untimed;
	if (untimed) {
		begun = blockio_noted(rq);
		if (begun < start)
			return -1; /* none, or of an earlier use of the request */
	}
	if (begun < start)
		begun = start;
	return begun < now ? now - begun : 0;
}

/* blockio_starts returns when a request was made, or 0 if the kernel does not account for it (queue/iostats is 0). */
static __always_inline u64 blockio_starts(struct request *rq, u32 direction)
{
	/* Since Linux 6.13 one that is not accounted for has the time of its former use. */
	if (direction != BLOCKIO_FLUSH && bpf_core_enum_value_exists(enum rqf_flags, __RQF_IO_STAT) &&
	    !(rq->rq_flags & 1U << bpf_core_enum_value(enum rqf_flags, __RQF_IO_STAT)))
		return 0;
	return rq->start_time_ns;
}

/* blockio_timed counts how long a complete request took. */
static __always_inline void blockio_timed(struct probe_cpu *c, struct request *rq, u32 direction, bool waited,
					  struct blockio_ref *ref, struct blockio_slot *slot, u64 weight)
{
	u64 start = blockio_starts(rq, direction), now = bpf_ktime_get_ns(), total, device;

	if (!start) {
		count(&c->unmatched);
		return;
	}
	total = now - start;
	if (total > BLOCKIO_MOST_NS) {
		count(&c->discarded); /* negative, or the time stamp is none */
		return;
	}
	count(&c->recorded);
	if (waited) {
		blockio_own(rq, BLOCKIO_FLUSH, total, weight);
		return;
	}
	if (direction != BLOCKIO_FLUSH)
		blockio_own(rq, direction, total, weight); /* the disk's command is nobody's */
	if (!slot)
		return; /* no such slot */
	hist_add_atomic(&slot->total, total, weight);
	device = blockio_device(rq, ref, start, now);
	if (device > total) {
		__sync_fetch_and_add(&slot->untimed, weight);
		return;
	}
	hist_add_atomic(&slot->queue, total - device, weight);
	hist_add_atomic(&slot->device, device, weight);
}

/* blockio_completed is what completion does: of a request, or a part of one. */
static __always_inline void blockio_completed(struct probe_cpu *c, struct request *rq, bool failed, u32 bytes)
{
	u32 op = rq->cmd_flags & REQ_OP_MASK, direction = blockio_direction(op);
	bool part = bytes < rq->__data_len;
	bool waited = op == REQ_OP_WRITE && !bytes; /* without data, for a flush */
	struct blockio_slot *slot = NULL;
	struct blockio_ref *ref = NULL;
	u64 weight = 1;

	if (op >= REQ_OP_OTHERS)
		return; /* a command, no I/O */
	if (part && !failed)
		return; /* it counts when the rest is complete */
	if (!rq->q->disk->diskseq) {
		count(&c->unmatched); /* of no disk, or one that is gone */
		return;
	}
	if (!failed) {
		weight = probe_weight(c);
		if (!weight)
			return;
	}
	if (!waited) {
		ref = blockio_find(rq->q->disk, direction);
		slot = blockio_slot(ref, direction);
		if (failed && slot)
			count(&slot->errors);
	}
	if (!part)
		blockio_timed(c, rq, direction, waited, ref, slot, weight);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(blockio_done, struct request *rq, int error, unsigned int bytes)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	blockio_completed(c, rq, error, bytes);
	probe_leave(c, began);
	return 0;
}

/* blockio_got notes when the driver gets a request of a disk whose requests do not tell. */
static __always_inline void blockio_got(struct probe_cpu *c, struct request *rq)
{
	u32 op = rq->cmd_flags & REQ_OP_MASK;
	struct blockio_pair *pair;
	struct blockio_ref *ref;
	u64 address;

	if (op >= REQ_OP_OTHERS)
		return;
	ref = blockio_find(rq->q->disk, blockio_direction(op));
	if (!ref || !ref->untimed)
		return;
	address = blockio_address(rq);
	pair = blockio_pair(address);
	if (!pair)
		return; /* never: all keys exist */
	if (!pair->request[0] || pair->request[0] == address) {
		pair->since[0] = bpf_ktime_get_ns();
		pair->request[0] = address;
		return;
	}
	if (pair->request[1] && pair->request[1] != address)
		count(&c->lost); /* how long the device takes for that one; its whole time will be known all the same */
	pair->since[1] = bpf_ktime_get_ns();
	pair->request[1] = address;
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(blockio_issue, struct request *rq)
{
	struct probe_cpu *c = probe_account();
	u64 began;

	if (!c)
		return 0;
	began = probe_enter(c);
	blockio_got(c, rq);
	probe_leave(c, began);
	return 0;
}

/* blockio_begins notes when a bio was handed to a disk that makes no requests. */
static __always_inline void blockio_begins(struct probe_cpu *c, struct bio *bio)
{
	struct blockio_bio noted = {.direction = blockio_direction(bio->bi_opf & REQ_OP_MASK)};
	u64 key = (u64)bio;

	noted.weight = probe_weight(c);
	if (!noted.weight) {
		bpf_map_delete_elem(&blockio_bios, &key); /* it may have held another */
		return;
	}
	if (noted.direction == BLOCKIO_WRITE && !bio->bi_iter.bi_size)
		noted.direction = BLOCKIO_FLUSH;
	noted.since = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&blockio_bios, &key, &noted, BPF_ANY))
		count(&c->lost);
}

/* blockio_makes_bios says whether a disk takes bios as they are. */
static __always_inline bool blockio_makes_bios(struct gendisk *disk)
{
	return !disk->queue->mq_ops;
}

SEC("tp_btf/block_bio_queue")
int BPF_PROG(blockio_queue, struct bio *bio)
{
	struct probe_cpu *c;
	u64 began;

	if (!blockio_makes_bios(bio->bi_bdev->bd_disk))
		return 0; /* it counts by its request */
	c = probe_account();
	if (!c)
		return 0;
	began = probe_enter(c);
	blockio_begins(c, bio);
	probe_leave(c, began);
	return 0;
}

/* blockio_ends counts a bio that is complete. */
static __always_inline void blockio_ends(struct probe_cpu *c, struct bio *bio)
{
	struct gendisk *disk = bio->bi_bdev->bd_disk;
	u64 key = (u64)bio, total = bpf_ktime_get_ns();
	struct blockio_bio *noted = bpf_map_lookup_elem(&blockio_bios, &key), was;
	struct blockio_slot *slot;
	u32 tag;

	if (!noted) {
		if (!sample_shift)
			count(&c->unmatched); /* it, or what it is split from, was queued before the probe began */
		return;
	}
	was = *noted;
	bpf_map_delete_elem(&blockio_bios, &key);
	if (was.since < blockio_since) {
		count(&c->unmatched);
		return;
	}
	total -= was.since;
	if (total > BLOCKIO_MOST_NS) {
		count(&c->discarded);
		return;
	}
	tag = (was.direction & 3) | BLOCKIO_BIOS;
	slot = blockio_slot(blockio_find(disk, tag), tag);
	if (!slot)
		return; /* no such slot */
	count(&c->recorded);
	hist_add_atomic(&slot->total, total, was.weight);
	if (bio->bi_status)
		__sync_fetch_and_add(&slot->errors, was.weight);
}

SEC("tp_btf/block_bio_complete")
int BPF_PROG(blockio_bio, struct request_queue *q, struct bio *bio)
{
	struct probe_cpu *c;
	u64 began;

	if (!blockio_makes_bios(bio->bi_bdev->bd_disk))
		return 0;
	c = probe_account();
	if (!c)
		return 0;
	began = probe_enter(c);
	blockio_ends(c, bio);
	probe_leave(c, began);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
