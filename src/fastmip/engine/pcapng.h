/* A capture's packets as pcapng blocks (draft-ietf-opsawg-pcapng): enhanced packet blocks, an
 * interface for each point, nanoseconds. A dropped packet carries its reason
 * as a comment; one that follows lost ones, their number. Section and interface blocks are
 * runtime/pcapng.py's.
 */
#ifndef FASTMIP_PCAPNG_H
#define FASTMIP_PCAPNG_H

#include "tap.h"

#define PCAPNG_ENHANCED_PACKET 6u
#define PCAPNG_OPT_COMMENT 1u
#define PCAPNG_OPT_DROP_COUNT 4u
#define PCAPNG_HEAD 28u
#define PCAPNG_OPTIONS_MAX 256u

/* Is this outcome the end of a packet that was expected to go on? */
FM_INLINE int verdict_is_drop(int verdict)
{
    const struct fm_outcome *outcome = &fm_verdict_table[verdict];
    return verdict != FM_NONE &&
           (outcome->severity != FM_INFO || strncmp(outcome->name, "drop-", 5) == 0);
}

FM_INLINE uint32_t pcapng_padded(uint32_t len) { return (len + 3) & ~3u; }

FM_INLINE uint8_t *pcapng_pad(uint8_t *to, uint32_t len)
{
    uint32_t padding = pcapng_padded(len) - len;
    memset(to, 0, padding);
    return to + padding;
}

FM_FN uint8_t *pcapng_comment(uint8_t *to, int verdict)
{
    const struct fm_outcome *outcome = &fm_verdict_table[verdict];
    uint8_t *text = to + 4;
    uint32_t name = (uint32_t)strlen(outcome->name), sentence = (uint32_t)strlen(outcome->sentence);
    if (name + 2 + sentence > PCAPNG_OPTIONS_MAX - 32)
        sentence = PCAPNG_OPTIONS_MAX - 32 - name - 2;
    memcpy(text, outcome->name, name);
    memcpy(text + name, ": ", 2);
    memcpy(text + name + 2, outcome->sentence, sentence);
    uint32_t len = name + 2 + sentence;
    store32(to, PCAPNG_OPT_COMMENT | len << 16);
    return pcapng_pad(text + len, len);
}

/* One packet at `to`, which has room for PCAPNG_HEAD + PCAPNG_OPTIONS_MAX and the padded packet;
 * octets written. */
FM_FN uint32_t pcapng_packet(uint8_t *to, const struct tap_seen *seen, uint32_t interface)
{
    store32(to, PCAPNG_ENHANCED_PACKET);
    store32(to + 8, interface);
    store32(to + 12, (uint32_t)(seen->wall_ns >> 32));
    store32(to + 16, (uint32_t)seen->wall_ns);
    store32(to + 20, seen->kept);
    store32(to + 24, seen->length);
    uint8_t *at = to + PCAPNG_HEAD;
    memcpy(at, seen + 1, seen->kept);
    at = pcapng_pad(at + seen->kept, seen->kept);
    int has_reason = seen->point == TAP_RX && verdict_is_drop(seen->verdict);
    if (has_reason)
        at = pcapng_comment(at, seen->verdict);
    if (seen->lost) {
        store32(at, PCAPNG_OPT_DROP_COUNT | 8u << 16);
        store64(at + 4, seen->lost);
        at += 12;
    }
    if (has_reason || seen->lost) {
        store32(at, 0); /* end of options */
        at += 4;
    }
    uint32_t total = (uint32_t)(at - to) + 4;
    store32(to + 4, total);
    store32(at, total);
    return total;
}

/* Packets of a capture, oldest first, as far as `room` octets hold them; octets written. Adds to
 * *packets. */
FM_FN uint64_t pcapng_read(struct fm_tap *tap, uint8_t *to, uint64_t room, uint64_t *packets)
{
    uint64_t used = 0;
    uint32_t most = PCAPNG_HEAD + pcapng_padded(tap->snap) + PCAPNG_OPTIONS_MAX;
    while (room - used >= most) {
        struct tap_ring *ring = tap_earliest(tap);
        if (!ring)
            break;
        const void *slot = tap_oldest(tap, ring);
        const struct tap_seen *seen = (const struct tap_seen *)slot;
        used += pcapng_packet(to + used, seen, tap->interfaces[seen->point]);
        tap_took(ring);
        ++*packets;
    }
    return used;
}

#endif
