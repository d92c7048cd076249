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

/* What a header gets in place of its own. */
struct minimal_fields {
    uint32_t total, source, destination; /* host order; network order */
    uint8_t protocol;
    uint8_t hops; /* to take off its TTL */
};

/* The header of `len` octets at `from`, changed, to `to`. They may overlap. The usual 20 octets
 * go through registers: to read back what was just written in parts costs more than all else. */
FM_INLINE void minimal_header(uint8_t *to, const uint8_t *from, uint32_t len,
                              const struct minimal_fields *f)
{
    if (FM_UNLIKELY(len != IPV4_MIN_HEADER_LEN)) {
        memmove(to, from, len);
        put16(to + OFF_TOTAL, (uint16_t)f->total);
        to[OFF_TTL] = (uint8_t)(to[OFF_TTL] - f->hops);
        to[OFF_PROTOCOL] = f->protocol;
        store32(to + OFF_SOURCE, f->source);
        store32(to + OFF_DESTINATION, f->destination);
        ipv4_set_checksum(to);
        return;
    }
    uint64_t first = load64(from) & 0xffffffff0000ffffu;
    first |= (uint64_t)swap16((uint16_t)f->total) << 16;
    uint32_t ttl = (uint8_t)(from[OFF_TTL] - f->hops), middle = ttl | (uint32_t)f->protocol << 8;
    uint64_t sum = (first & 0xffffffffu) + (first >> 32) + middle + f->source + f->destination;
    store64(to, first);
    store64(to + 8, middle | (uint64_t)(uint16_t)~sum_fold(sum) << 16 | (uint64_t)f->source << 32);
    store32(to + 16, f->destination);
}

/* Make the IPv4 packet at p (no fragment) one that goes from local to remote, with `gap` octets
 * left free behind its header (for UDP), which then has `protocol`; octets added in front. */
FM_INLINE uint32_t minimal_write(uint8_t *p, uint32_t header, uint32_t gap, uint8_t protocol,
                                 uint8_t hops, uint32_t local_be, uint32_t remote_be)
{
    uint32_t total = ipv4_total(p);
    uint32_t source = ipv4_source_be(p), destination = ipv4_destination_be(p);
    uint32_t has_source = source != local_be; /* else the header says it already: S is 0 */
    uint32_t size = MINIMAL_SHORT_LEN + 4 * has_source, added = size + gap;
    uint32_t word = ipv4_protocol(p) | has_source << 15;
    struct minimal_fields f = {total + added, local_be, remote_be, protocol, hops};
    minimal_header(p - added, p, header, &f);
    uint8_t *m = p + header - size;
    uint16_t sum = sum_fold((uint64_t)word + destination + (has_source ? source : 0));
    store32(m, word | (uint32_t)(uint16_t)~sum << 16);
    store32(m + 4, destination);
    if (has_source)
        store32(m + 8, source);
    return added;
}

/* Restore the packet at p whose forwarding header at m has passed minimal_check. Returns its
 * beginning; the outer header is overwritten. */
FM_INLINE uint8_t *minimal_restore(uint8_t *p, uint32_t header, uint8_t *m, uint32_t total,
                                   uint8_t hops)
{
    uint32_t size = minimal_len(m);
    uint32_t source = minimal_has_source(m) ? minimal_source_be(m) : ipv4_source_be(p);
    uint8_t *to = m + size - header;
    struct minimal_fields f = {total - (uint32_t)(to - p), source, minimal_destination_be(m),
                               minimal_protocol(m), hops};
    minimal_header(to, p, header, &f);
    return to;
}

#endif
