/* IPv4 header (RFC 791): check once with ipv4_check, then accessors that cannot fail. */
#ifndef FASTMIP_IPV4_H
#define FASTMIP_IPV4_H

#include "octets.h"
#include "verdicts.h"

#define IPV4_MIN_HEADER_LEN 20u
#define OFF_TOS 1
#define OFF_TOTAL 2
#define OFF_ID 4
#define OFF_FRAGMENT 6
#define OFF_TTL 8
#define OFF_PROTOCOL 9
#define OFF_CHECKSUM 10
#define OFF_SOURCE 12
#define OFF_DESTINATION 16

#define IPV4_DF 0x4000u
#define IPV4_MF 0x2000u
#define IPV4_OFFSET_MASK 0x1fffu

#define PROTO_ICMP 1
#define PROTO_IPIP 4
#define PROTO_GRE 47
#define PROTO_MINIMAL 55

FM_INLINE uint32_t ipv4_header_len(const uint8_t *p) { return (uint32_t)(p[0] & 15) * 4; }
FM_INLINE uint32_t ipv4_total(const uint8_t *p) { return get16(p + OFF_TOTAL); }
FM_INLINE uint8_t ipv4_ttl(const uint8_t *p) { return p[OFF_TTL]; }
FM_INLINE uint8_t ipv4_protocol(const uint8_t *p) { return p[OFF_PROTOCOL]; }
FM_INLINE uint32_t ipv4_source_be(const uint8_t *p) { return load32(p + OFF_SOURCE); }
FM_INLINE uint32_t ipv4_destination_be(const uint8_t *p) { return load32(p + OFF_DESTINATION); }
FM_INLINE int ipv4_is_df(const uint8_t *p) { return (get16(p + OFF_FRAGMENT) & IPV4_DF) != 0; }
FM_INLINE int ipv4_is_fragment(const uint8_t *p)
{
    return (get16(p + OFF_FRAGMENT) & (IPV4_MF | IPV4_OFFSET_MASK)) != 0;
}

/* Is the checksum of a 20-octet header right? The one's complement sum is 0xffff exactly when
 * the plain sum of its words is a multiple of 65535 (an all-zero header is, too: check the
 * version), and compilers test that with one multiplication, which saves the folding. */
FM_INLINE int ipv4_sum20_is_right(const uint8_t *p)
{
    uint64_t a = load64(p), b = load64(p + 8), sum;
    sum = a + b;
    sum += sum < a; /* 2^64 is 1 modulo 65535 */
    sum = (sum >> 32) + (sum & 0xffffffffu) + load32(p + 16);
    return sum % 65535u == 0;
}

FM_INLINE void ipv4_set_checksum(uint8_t *p)
{
    store16(p + OFF_CHECKSUM, 0);
    store16(p + OFF_CHECKSUM, (uint16_t)~sum_octets(p, ipv4_header_len(p)));
}

/* Header fit for the accessors? Returns FM_NONE or the reason; reads at most len octets. */
FM_INLINE int ipv4_check(const uint8_t *p, uint32_t len, int checksum_done)
{
    if (len < 1)
        return FM_DROP_TRUNCATED;
    if (p[0] >> 4 != 4)
        return FM_DROP_NOT_IPV4;
    if (len < IPV4_MIN_HEADER_LEN)
        return FM_DROP_TRUNCATED;
    uint32_t header = ipv4_header_len(p), total = ipv4_total(p);
    if (header < IPV4_MIN_HEADER_LEN || total < header)
        return FM_DROP_HEADER;
    if (total > len)
        return FM_DROP_TRUNCATED;
    if (!checksum_done && sum_octets(p, header) != 0xffff)
        return FM_DROP_CHECKSUM;
    return FM_NONE;
}

/* The same for a packet inside another; reasons under their inner names. */
FM_INLINE int ipv4_check_inner(const uint8_t *p, uint32_t len)
{
    switch (ipv4_check(p, len, 0)) {
    case FM_NONE:
        return FM_NONE;
    case FM_DROP_NOT_IPV4:
        return FM_DROP_INNER_NOT_IPV4;
    case FM_DROP_HEADER:
        return FM_DROP_INNER_HEADER;
    case FM_DROP_CHECKSUM:
        return FM_DROP_INNER_CHECKSUM;
    default:
        return FM_DROP_INNER_TRUNCATED;
    }
}

/* No unicast host: 0/8, 127/8, multicast, reserved, broadcast (RFC 1812 5.3.7). */
FM_INLINE int ipv4_is_martian_source(uint32_t address_be)
{
    uint8_t first = (uint8_t)(address_be & 0xff);
    return ((uint8_t)(first - 1) >= 223) | (first == 127);
}

/* TTL - 1 with the checksum patched (RFC 1141); call only with TTL > 0. */
FM_INLINE void ipv4_decrement_ttl(uint8_t *p)
{
    uint32_t word = load32(p + OFF_TTL); /* raw order: TTL, protocol, checksum */
    uint32_t sum = (word >> 16) + 1;
    sum += sum >= 0xffff;
    store32(p + OFF_TTL, ((word - 1) & 0xffffu) | sum << 16);
}

FM_INLINE void ipv4_set_tos(uint8_t *p, uint8_t tos)
{
    uint16_t was = load16(p);
    p[OFF_TOS] = tos;
    store16(p + OFF_CHECKSUM, sum_update(load16(p + OFF_CHECKSUM), was, load16(p)));
}

#endif
