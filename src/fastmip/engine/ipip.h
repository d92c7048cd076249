/* IP in IP (RFC 2003) and its TOS/ECN rules (RFC 6040): what goes into the outer header,
 * what comes out of it, and when a packet must not enter a tunnel.
 *
 * Outer header: IHL 5, DF always set (RFC 2003 5.1; so every outer packet is atomic and its
 * Identification may be any value, here 0: RFC 6864 4.1), TTL of its own, inner options never
 * copied. What does not fit is fragmented before encapsulation, or refused when DF is set.
 */
#ifndef FASTMIP_IPIP_H
#define FASTMIP_IPIP_H

#include "ipv4.h"

#define IPIP_OVERHEAD 20u
#define IPIP_NESTING_MAX 10 /* headers in one packet, ours included (own limit): four routers within
                             * each other behind foreign agents, and a visitor (RFC 5177 7, 8) */
#define IPIP_FIRST_OCTETS 0x0040000000000045ull /* raw 45 .. .. .. 00 00 40 00: IHL, ID, DF */

#define ECN_MASK 3
#define ECN_CE 3
#define ECN_DROP 0x80
#define ECN_UNUSUAL 0x40

/* RFC 6040 figure 4, [inner][outer]: resulting codepoint, with marks. Order of codepoints on
 * the wire: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE. */
static const uint8_t ecn_egress[4][4] __attribute__((unused)) = {
    {0, 0 | ECN_UNUSUAL, 0 | ECN_UNUSUAL, ECN_DROP | ECN_UNUSUAL},
    {1, 1, 1 | ECN_UNUSUAL, 3},
    {2, 1, 2, 3},
    {3, 3 | ECN_UNUSUAL, 3, 3},
};

/* One's complement sum of everything in the outer header that is known at install time. */
FM_INLINE uint32_t ipip_constant_sum(uint32_t local_be, uint32_t remote_be, uint8_t ttl,
                                     uint8_t protocol)
{
    return 0x45u + 0x40u + (ttl | (uint32_t)protocol << 8) + (local_be & 0xffff) +
           (local_be >> 16) + (remote_be & 0xffff) + (remote_be >> 16);
}

/* Octets 8 to 15 of the outer header but for the checksum: TTL, protocol, source. */
FM_INLINE uint64_t ipip_constant_middle(uint32_t local_be, uint8_t ttl, uint8_t protocol)
{
    return ttl | (uint32_t)protocol << 8 | (uint64_t)local_be << 32;
}

/* Put the outer header in front of the inner packet (or of GRE, or UDP) at `inner`. */
FM_INLINE void ipip_write_outer(uint8_t *inner, uint32_t inner_total, uint8_t tos,
                                uint32_t constant_sum, uint64_t middle, uint32_t remote_be)
{
    uint32_t total = swap16((uint16_t)(inner_total + IPIP_OVERHEAD));
    uint32_t sum = constant_sum + ((uint32_t)tos << 8) + total;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    store64(inner - 20, IPIP_FIRST_OCTETS | (uint32_t)tos << 8 | total << 16);
    store64(inner - 12, middle | (uint32_t)(uint16_t)~sum << 16);
    store32(inner - 4, remote_be);
}

#define FM_TUNNEL_PROTOCOLS (1ull << PROTO_IPIP | 1ull << PROTO_GRE | 1ull << PROTO_MINIMAL)

/* Offset of the packet carried by an encapsulated packet, or 0 if it carries none: IPIP, GRE
 * with an IPv4 payload (RFC 2784/2890). p has passed ipv4_check. */
FM_INLINE uint32_t tunnel_payload_offset(const uint8_t *p)
{
    uint32_t header = ipv4_header_len(p), total = ipv4_total(p);
    if (get16(p + OFF_FRAGMENT) & IPV4_OFFSET_MASK)
        return 0;
    if (ipv4_protocol(p) == PROTO_IPIP)
        return header;
    if (ipv4_protocol(p) == PROTO_GRE && header + 4 <= total && get16(p + header + 2) == 0x0800) {
        uint8_t flags = p[header];
        return header + 4 + ((flags & 0x80) ? 4 : 0) + ((flags & 0x20) ? 4 : 0) +
               ((flags & 0x10) ? 4 : 0);
    }
    return 0;
}

/* Destination of the packet inside p (IPIP, GRE, minimal encapsulation); 0 if there is none. */
FM_INLINE uint32_t tunnel_inner_destination_be(const uint8_t *p)
{
    uint32_t header = ipv4_header_len(p), total = ipv4_total(p);
    if (ipv4_protocol(p) == PROTO_MINIMAL) {
        if (get16(p + OFF_FRAGMENT) & IPV4_OFFSET_MASK || header + 8 > total)
            return 0;
        return load32(p + header + 4); /* RFC 2004 3.1: original destination address */
    }
    uint32_t offset = tunnel_payload_offset(p);
    if (offset == 0 || offset + IPV4_MIN_HEADER_LEN > total || p[offset] >> 4 != 4)
        return 0;
    return load32(p + offset + OFF_DESTINATION);
}

/* IPv4 headers nested in p, p's own included; stops counting above the limit. */
FM_INLINE int tunnel_nesting(const uint8_t *p)
{
    const uint8_t *end = p + ipv4_total(p);
    int depth = 1;
    while (depth <= IPIP_NESTING_MAX) {
        uint32_t offset = tunnel_payload_offset(p);
        if (offset == 0 || (uint32_t)(end - p) < offset)
            return depth;
        p += offset;
        if (ipv4_check(p, (uint32_t)(end - p), 1) != FM_NONE)
            return depth;
        end = p + ipv4_total(p);
        depth++;
    }
    return depth;
}

#endif
