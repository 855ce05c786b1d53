/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Packet headers as they stand on the wire (RFC 791, 8200, 9293). libc's headers for them depend on the architecture that
 * compiles; these do not.
 */
#ifndef SLID_NET_H
#define SLID_NET_H

#include "core.h"
#include "sock.h"
#include <bpf/bpf_endian.h>

#define IPPROTO_HOPOPTS 0
#define IP_OFFSET       0x1fff /* of frag_off: where in the datagram a fragment belongs */

#define TH_FIN          0x01
#define TH_SYN          0x02
#define TH_RST          0x04

struct ip4_header {
	u8 version_ihl; /* header length in 32-bit words below, version above */
	u8 tos;
	u16 length;
	u16 id;
	u16 frag_off;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 source, destination;
};

struct ip6_header {
	u32 version_class_flow;
	u16 payload_length;
	u8 next_header;
	u8 hop_limit;
	u8 source[16], destination[16];
};

struct tcp_header {
	u16 source, destination;
	u32 seq, ack;
	u8 data_offset; /* in 32-bit words, in the upper half */
	u8 flags;       /* TH_* */
	u16 window;
	u16 checksum;
	u16 urgent;
};

#endif
