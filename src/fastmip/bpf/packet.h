/* Headers as the programs see them, and the frame in hand. */
#ifndef FASTMIP_BPF_PACKET_H
#define FASTMIP_BPF_PACKET_H

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include "tables.h"

#define IPV4_HEADER 20
#define IPV4_FRAGMENT 0x3fff /* offset and "more fragments" */
#define IPV4_DF 0x4000
#define PROTO_IPIP 4
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_GRE 47
#define PROTO_MINIMAL 55
#define MIP_TUNNEL_DATA 4 /* RFC 3519 3.1 */
#define FM_HEADERS 74 /* Ethernet, two IPv4 headers, TCP: what is read of a frame */
#define TCX_NEXT (-1) /* to the next program, or the kernel */
#define ECN_MASK 3
#define ECN_CE 3

struct ipv4 {
    __u8 version_ihl, tos;
    __u16 total, id, fragment;
    __u8 ttl, protocol;
    __u16 checksum;
    __u32 source, destination;
};

struct udp {
    __u16 source, destination, length, checksum;
    __u8 type;
};

/* A frame at XDP or, `is_skb`, at TC: known when compiled, so each program has its own code. */
struct frame {
    void *ctx; /* struct xdp_md or __sk_buff */
    const struct fm_settings *settings;
    void *data, *end; /* what can be read */
    struct ipv4 *ip;
    __u32 length;   /* of the frame */
    __u32 place;    /* of its interface */
    __u32 ifindex;  /* of its interface */
    __u32 gso_size; /* of a super-frame: payload of the packets it stands for, else 0 */
    int is_skb;
};

/* Where the frame lies; again after every change of it. */
INLINE void look(struct frame *f)
{
    if (f->is_skb) {
        f->data = (void *)(long)((struct __sk_buff *)f->ctx)->data;
        f->end = (void *)(long)((struct __sk_buff *)f->ctx)->data_end;
    } else {
        f->data = (void *)(long)((struct xdp_md *)f->ctx)->data;
        f->end = (void *)(long)((struct xdp_md *)f->ctx)->data_end;
    }
}

/* Room for an outer header behind the Ethernet header, or one less; -1: not here. A super-frame
 * stays whole, with its sums as unfinished as they were. At XDP the Ethernet header is lost. */
INLINE int change_room(struct frame *f, int octets)
{
    __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
    if (octets > 0)
        flags |= BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
    if (f->is_skb ? bpf_skb_adjust_room(f->ctx, octets, BPF_ADJ_ROOM_MAC, flags)
                  : bpf_xdp_adjust_head(f->ctx, -octets))
        return -1;
    look(f);
    return 0;
}

/* Octets of the largest packet a frame stands for, itself if it is no super-frame; `ip` is the header
 * next to its payload. More than any MTU: it cannot be told. */
INLINE __u32 largest_packet(const struct frame *f, const struct ipv4 *ip)
{
    const __u8 *payload = (const void *)(ip + 1);
    if (LIKELY(!f->gso_size))
        return BE16(ip->total);
    if (ip->protocol == PROTO_UDP)
        return IPV4_HEADER + 8 + f->gso_size;
    if (ip->protocol != PROTO_TCP || (const void *)(payload + 13) > f->end)
        return 0x10000;
    return IPV4_HEADER + (payload[12] >> 4) * 4 + f->gso_size;
}

INLINE void count(const struct frame *f, __u32 outcome, __u32 bytes)
{
    __u32 key = f->place * FM_OUTCOME_COUNT + outcome;
    struct fm_count *found = bpf_map_lookup_elem(&counters, &key);
    if (LIKELY(found != 0)) {
        found->packets++;
        found->bytes += bytes;
    }
}

INLINE int finish(const struct frame *f, __u32 outcome, int action)
{
    count(f, outcome, f->length);
    return action;
}

INLINE int is_own(const struct fm_settings *s, __u32 address)
{
    for (__u32 i = 0; i < FM_OWN_MAX && i < s->own_count; i++)
        if (s->own[i] == address)
            return 1;
    return 0;
}

/* Place of a home address in homes plus 1, or 0 if it lies in no home network. */
INLINE __u32 home_number(const struct fm_settings *s, __u32 address)
{
    __u32 key = BE32(address);
    for (__u32 i = 0; i < FM_NETWORKS_MAX && i < s->network_count; i++) {
        __u32 offset = key - s->network[i].first;
        if (offset <= s->network[i].last - s->network[i].first)
            return s->network[i].home + offset + 1;
    }
    return 0;
}

/* Is the one's complement sum of 20 octets right? */
INLINE int sum20_is_right(const struct ipv4 *ip)
{
    const __u32 *word = (const __u32 *)ip;
    __u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff;
}

/* One off the TTL, and the checksum after it (RFC 1141). */
INLINE void decrement_ttl(struct ipv4 *ip)
{
    __u32 sum = ip->checksum + (__u32)BE16(0x0100);
    ip->checksum = (__u16)(sum + (sum >= 0xffff));
    ip->ttl--;
}

/* 0/8, 127/8, multicast and above are no unicast hosts. */
INLINE int is_martian(__u32 source)
{
    __u8 first = (__u8)source;
    return first == 0 || first == 127 || first >= 224;
}

INLINE int is_tunnel_protocol(__u8 protocol)
{
    return protocol == PROTO_IPIP || protocol == PROTO_GRE || protocol == PROTO_MINIMAL;
}

#endif
