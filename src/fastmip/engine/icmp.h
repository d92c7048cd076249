/* ICMP errors to the inner source (RFC 792, 1191, 1812 4.3.2): when allowed, how built.
 *
 * Building is separate from sending: the caller decides where the error goes, because the
 * inner source may itself be a node away from home.
 */
#ifndef FASTMIP_ICMP_H
#define FASTMIP_ICMP_H

#include "worker.h"

#define ICMP_UNREACHABLE 3
#define ICMP_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMP_CODE_NET 0
#define ICMP_CODE_HOST 1
#define ICMP_CODE_PROTOCOL 2
#define ICMP_CODE_PORT 3
#define ICMP_CODE_TOO_BIG 4
#define ICMP_CODE_SOURCE_ROUTE 5
#define ICMP_HEADER_LEN 8u
#define ICMP_ERROR_MAX 576u /* RFC 1812 4.3.2.3: as much of the original as fits in 576 */
#define ICMP_ERROR_TTL 64
#define ICMP_ERROR_TOS 0xc0 /* RFC 1812 4.3.2.5: precedence 6 */

FM_INLINE int icmp_is_error(uint8_t type)
{
    return type == ICMP_UNREACHABLE || type == ICMP_QUENCH || type == ICMP_REDIRECT ||
           type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER;
}

/* RFC 1122 3.2.2, RFC 1812 4.3.2.7: no error about an error, a later fragment, a broadcast or
 * multicast, or to a source that is no single host. p has a complete header in len octets. */
FM_INLINE int icmp_may_answer(const uint8_t *p, uint32_t len)
{
    uint32_t header = ipv4_header_len(p);
    if (get16(p + OFF_FRAGMENT) & IPV4_OFFSET_MASK)
        return 0;
    if ((ipv4_destination_be(p) & 0xff) >= 224 || ipv4_is_martian_source(ipv4_source_be(p)))
        return 0;
    if (ipv4_protocol(p) == PROTO_ICMP && (header >= len || icmp_is_error(p[header])))
        return 0;
    return 1;
}

/* Token bucket kept as the time the next error is due if the bucket were empty. */
FM_INLINE int icmp_take_token(struct fm_worker *w, uint64_t now_ns)
{
    uint64_t floor = now_ns > w->icmp_burst_ns ? now_ns - w->icmp_burst_ns : 0;
    if (w->icmp_next_ns < floor)
        w->icmp_next_ns = floor;
    if (w->icmp_next_ns > now_ns)
        return 0;
    w->icmp_next_ns += w->icmp_interval_ns;
    return 1;
}

/* Build an error about `about` (header checked, len octets present) in a scratch frame.
 * `rest` is the second word: next-hop MTU (3/4), pointer << 24 (12/0). NULL without scratch. */
FM_FN struct fm_desc *icmp_build(struct fm_worker *w, uint32_t source_be, uint8_t type,
                                 uint8_t code, uint32_t rest, const uint8_t *about,
                                 uint32_t len)
{
    uint32_t room = ICMP_ERROR_MAX - IPV4_MIN_HEADER_LEN - ICMP_HEADER_LEN;
    uint32_t quote = len < room ? len : room;
    uint32_t total = IPV4_MIN_HEADER_LEN + ICMP_HEADER_LEN + quote;
    struct fm_desc *d = fm_scratch(w, total);
    if (!d)
        return d;
    uint8_t *p = d->data, *icmp = p + IPV4_MIN_HEADER_LEN;
    memset(p, 0, IPV4_MIN_HEADER_LEN + ICMP_HEADER_LEN);
    p[0] = 0x45;
    p[OFF_TOS] = ICMP_ERROR_TOS;
    put16(p + OFF_TOTAL, (uint16_t)total);
    put16(p + OFF_ID, (uint16_t)w->icmp_id); /* no DF, so unique: RFC 6864 4.1 */
    w->icmp_id += w->icmp_id_step;
    p[OFF_TTL] = ICMP_ERROR_TTL;
    p[OFF_PROTOCOL] = PROTO_ICMP;
    store32(p + OFF_SOURCE, source_be);
    store32(p + OFF_DESTINATION, ipv4_source_be(about));
    ipv4_set_checksum(p);
    icmp[0] = type;
    icmp[1] = code;
    put32(icmp + 4, rest);
    memcpy(icmp + ICMP_HEADER_LEN, about, quote);
    store16(icmp + 2, (uint16_t)~sum_octets(icmp, ICMP_HEADER_LEN + quote));
    d->side = FM_HOME;
    d->done = FM_DONE_TTL | FM_DONE_CHECKSUM | FM_DONE_REASSEMBLY | FM_DONE_MARTIAN;
    return d;
}

#endif
