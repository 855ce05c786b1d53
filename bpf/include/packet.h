/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The IP header of a packet, of any version, for programs that see packets. What comes over a network is hostile: who
 * uses a number of it checks it against the buffer.
 */
#ifndef SLID_PACKET_H
#define SLID_PACKET_H

#include "core.h"
#include "net.h"

#define IPPROTO_UDP 17

/* RFC 768 */
struct udp_header {
	u16 source, destination;
	u16 length;
	u16 checksum;
};

/* What an IP header says of the transport header behind it. */
struct packet_ip {
	u32 off;  /* of the transport header, from the IP header on */
	u32 size; /* of the datagram, from there on too; 0 for jumbograms (BIG TCP), which say so */
	u8 protocol;
	bool v6;
};

/*
 * packet_ip reads the IP header that stands at network in the buffer. It is false for what is cut off, for all fragments
 * but the first, and for IPv6 with extension headers other than that of jumbograms.
 */
static __always_inline bool packet_ip(struct __sk_buff *skb, u32 network, struct packet_ip *ip)
{
	void *data = (void *)(long)skb->data + network, *end = (void *)(long)skb->data_end;
	struct ip4_header *ip4 = data;
	struct ip6_header *ip6 = data;

	if (data + sizeof(*ip4) > end)
		return false;
	ip->v6 = ip4->version_ihl >> 4 == 6;
	if (!ip->v6) {
		ip->protocol = ip4->protocol;
		ip->off = (ip4->version_ihl & 15) * 4;
		ip->size = bpf_ntohs(ip4->length);
		return !(ip4->frag_off & bpf_htons(IP_OFFSET));
	}
	if (data + sizeof(*ip6) + 8 > end)
		return false;
	ip->protocol = ip6->next_header;
	ip->off = sizeof(*ip6);
	ip->size = bpf_ntohs(ip6->payload_length);
	if (ip->size)
		ip->size += sizeof(*ip6);
	if (ip->protocol == IPPROTO_HOPOPTS) { /* a jumbogram has one such header of 8 bytes */
		ip->protocol = *(u8 *)(ip6 + 1);
		ip->off += 8;
	}
	return true;
}

#endif
