/* Minimal encapsulation (RFC 2004): the inner IPv4 header becomes the outer one, and what it
 * loses (protocol, destination, source) moves into 8 or 12 octets behind it.
 *
 * TTL, TOS with its ECN field, Identification, DF and options stay in the one header: the TTL
 * keeps counting inside the tunnel, and there is nothing to copy or to merge. A fragment has no
 * place for two meanings of its fragment field: it goes by IP in IP instead.
 */
#ifndef FASTMIP_MINIMAL_H
#define FASTMIP_MINIMAL_H

#include "ipv4.h"

#define MINIMAL_SHORT_LEN 8u /* without the original source */
#define MINIMAL_LONG_LEN 12u
#define MINIMAL_SOURCE 0x80 /* S: original source address present */

FM_INLINE int minimal_has_source(const uint8_t *m) { return m[1] & MINIMAL_SOURCE; }
FM_INLINE uint32_t minimal_len(const uint8_t *m)
{
    return minimal_has_source(m) ? MINIMAL_LONG_LEN : MINIMAL_SHORT_LEN;
}
FM_INLINE uint8_t minimal_protocol(const uint8_t *m) { return m[0]; }
FM_INLINE uint32_t minimal_destination_be(const uint8_t *m) { return load32(m + 4); }
FM_INLINE uint32_t minimal_source_be(const uint8_t *m) { return load32(m + 8); }

/* Is the forwarding header at m whole and right? `len` octets are there. */
FM_INLINE int minimal_check(const uint8_t *m, uint32_t len)
{
    if (len < MINIMAL_SHORT_LEN || len < minimal_len(m))
        return FM_DROP_MINIMAL_TRUNCATED;
    if (sum_octets(m, minimal_len(m)) != 0xffff)
        return FM_DROP_MINIMAL_CHECKSUM;
    return FM_NONE;
}

/* Move an IPv4 header of `len` octets; with the usual 20 in registers. */
FM_INLINE void minimal_move(uint8_t *to, const uint8_t *from, uint32_t len)
{
    if (FM_UNLIKELY(len != IPV4_MIN_HEADER_LEN)) {
        memmove(to, from, len);
        return;
    }
    uint64_t a = load64(from), b = load64(from + 8);
    uint32_t c = load32(from + 16);
    store64(to, a);
    store64(to + 8, b);
    store32(to + 16, c);
}

FM_INLINE void minimal_finish(uint8_t *p, uint32_t total, uint8_t protocol, uint32_t source_be,
                              uint32_t destination_be)
{
    put16(p + OFF_TOTAL, (uint16_t)total);
    p[OFF_PROTOCOL] = protocol;
    store32(p + OFF_SOURCE, source_be);
    store32(p + OFF_DESTINATION, destination_be);
    ipv4_set_checksum(p);
}

/* Make the IPv4 packet at p (no fragment) one that goes from local to remote, with `gap` octets
 * left free behind its header (for UDP), which then has `protocol`; octets added in front. */
FM_INLINE uint32_t minimal_write(uint8_t *p, uint32_t gap, uint8_t protocol, uint32_t local_be,
                                 uint32_t remote_be)
{
    uint32_t header = ipv4_header_len(p), total = ipv4_total(p);
    uint32_t source = ipv4_source_be(p), destination = ipv4_destination_be(p);
    uint32_t has_source = source != local_be; /* else the header says it already: S is 0 */
    uint32_t size = MINIMAL_SHORT_LEN + 4 * has_source, added = size + gap;
    uint32_t word = ipv4_protocol(p) | has_source << 15;
    minimal_move(p - added, p, header);
    uint8_t *m = p + header - size;
    uint16_t sum = sum_fold((uint64_t)word + destination + (has_source ? source : 0));
    store32(m, word | (uint32_t)(uint16_t)~sum << 16);
    store32(m + 4, destination);
    if (has_source)
        store32(m + 8, source);
    minimal_finish(p - added, total + added, protocol, local_be, remote_be);
    return added;
}

/* Restore the packet at p whose forwarding header at m has passed minimal_check. Returns its
 * beginning; the outer header is overwritten. */
FM_INLINE uint8_t *minimal_restore(uint8_t *p, uint8_t *m, uint32_t total)
{
    uint32_t header = ipv4_header_len(p), size = minimal_len(m);
    uint32_t source = minimal_has_source(m) ? minimal_source_be(m) : ipv4_source_be(p);
    uint32_t destination = minimal_destination_be(m);
    uint8_t protocol = minimal_protocol(m);
    uint8_t *to = m + size - header;
    minimal_move(to, p, header);
    minimal_finish(to, total - (uint32_t)(to - p), protocol, source, destination);
    return to;
}

#endif
