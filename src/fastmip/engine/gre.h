/* Generic Routing Encapsulation (RFC 2784) with key and sequence number (RFC 2890).
 *
 * Sent: no checksum, no sequence number, a key if one was negotiated. Received: any of the three;
 * checksums are verified, keys must be the negotiated one, and a packet that is not ahead of the
 * last one of its tunnel is dropped (no reordering buffer: whatever is ahead passes at once).
 */
#ifndef FASTMIP_GRE_H
#define FASTMIP_GRE_H

#include "ipv4.h"

#define GRE_HEADER_LEN 4u
#define GRE_CHECKSUM 0x8000u
#define GRE_KEY 0x2000u
#define GRE_SEQUENCE 0x1000u
/* Bits 1, 4 and 5 are neither known nor to be ignored (RFC 2784 2.3, less K and S). */
#define GRE_FORBIDDEN 0x4c00u
#define GRE_VERSION 7u
#define GRE_IPV4 0x0800u

/* The first word of what we send, as it lies in memory; and all that the fast loops take. */
#define GRE_PLAIN_WORD 0x00080000u
#define GRE_KEY_WORD 0x00080020u

struct gre {
    uint32_t len; /* of the header */
    uint32_t key, sequence;
    uint8_t has_key, has_sequence;
};

/* Read the header at p; `len` octets of header and payload. FM_NONE or the reason. */
FM_FN int gre_check(const uint8_t *p, uint32_t len, struct gre *gre)
{
    if (len < GRE_HEADER_LEN)
        return FM_DROP_GRE_TRUNCATED;
    uint16_t flags = get16(p);
    if (flags & GRE_VERSION)
        return FM_DROP_GRE_VERSION;
    if (flags & GRE_FORBIDDEN)
        return FM_DROP_GRE_RESERVED;
    const uint8_t *at = p + GRE_HEADER_LEN + (flags & GRE_CHECKSUM ? 4 : 0);
    gre->has_key = (flags & GRE_KEY) != 0;
    gre->has_sequence = (flags & GRE_SEQUENCE) != 0;
    gre->len = (uint32_t)(at - p) + 4u * gre->has_key + 4u * gre->has_sequence;
    if (gre->len > len)
        return FM_DROP_GRE_TRUNCATED;
    if ((flags & GRE_CHECKSUM) && sum_octets(p, len) != 0xffff)
        return FM_DROP_GRE_CHECKSUM;
    if (get16(p + 2) != GRE_IPV4)
        return FM_DROP_GRE_PROTOCOL;
    gre->key = gre->sequence = 0;
    if (gre->has_key)
        gre->key = load32(at);
    if (gre->has_sequence)
        gre->sequence = get32(at + 4 * gre->has_key);
    return FM_NONE;
}

/* Put a header in front of p; its length. The key is in network order. */
FM_INLINE uint32_t gre_write(uint8_t *p, int has_key, uint32_t key_be)
{
    if (!has_key) {
        store32(p - 4, GRE_PLAIN_WORD);
        return 4;
    }
    store32(p - 8, GRE_KEY_WORD);
    store32(p - 4, key_be);
    return 8;
}

/* RFC 2890 2.2: no number of the last one and the 2^31 - 1 before it; *last is atomic, shared by
 * workers, and starts at 2^32 - 1. */
FM_FN int gre_is_ahead(uint32_t *last, uint32_t sequence)
{
    uint32_t was = __atomic_load_n(last, __ATOMIC_RELAXED);
    do {
        if (was - sequence <= 0x7fffffffu)
            return 0;
    } while (!__atomic_compare_exchange_n(last, &was, sequence, 0, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return 1;
}

#endif
