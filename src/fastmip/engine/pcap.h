/* Classic pcap files (both byte orders, microseconds or nanoseconds): find the IPv4 packets
 * in one, write packets to another as raw IP.
 *
 * Link types read: Ethernet (with VLAN tags), Linux cooked v1 and v2, raw IP, null. A record
 * that ends past the file ends the reading; a record without IPv4 is skipped and counted.
 */
#ifndef FASTMIP_PCAP_H
#define FASTMIP_PCAP_H

#include "octets.h"

#define PCAP_FILE_HEADER_LEN 24u
#define PCAP_RECORD_HEADER_LEN 16u
#define PCAP_LINK_NULL 0
#define PCAP_LINK_ETHERNET 1
#define PCAP_LINK_RAW_OLD 12
#define PCAP_LINK_RAW 101
#define PCAP_LINK_COOKED 113
#define PCAP_LINK_IPV4 228
#define PCAP_LINK_COOKED2 276
#define PCAP_SNAP_MAX 65535u

struct pcap_packet {
    const uint8_t *data; /* IPv4 header, inside the caller's buffer */
    uint32_t len;
    uint32_t seconds, nanoseconds;
};

struct pcap_reader {
    const uint8_t *at, *end;
    int is_swapped, is_nano;
    uint32_t link;
    uint64_t skipped; /* records without an IPv4 packet */
};

FM_INLINE uint32_t pcap_word(const struct pcap_reader *r, const uint8_t *p)
{
    return r->is_swapped ? swap32(load32(p)) : load32(p);
}

/* 0, or -1 if this is no classic pcap file, or -2 for a link type not read here. */
FM_FN int pcap_open(struct pcap_reader *r, const uint8_t *file, uint64_t len)
{
    memset(r, 0, sizeof *r);
    if (len < PCAP_FILE_HEADER_LEN)
        return -1;
    uint32_t magic = load32(file);
    r->is_swapped = magic == 0xd4c3b2a1u || magic == 0x4d3cb2a1u;
    magic = pcap_word(r, file);
    r->is_nano = magic == 0xa1b23c4du;
    if (magic != 0xa1b2c3d4u && !r->is_nano)
        return -1;
    r->link = pcap_word(r, file + 20) & 0x0fffffffu; /* upper bits: FCS length */
    r->at = file + PCAP_FILE_HEADER_LEN;
    r->end = file + len;
    switch (r->link) {
    case PCAP_LINK_NULL:
    case PCAP_LINK_ETHERNET:
    case PCAP_LINK_RAW_OLD:
    case PCAP_LINK_RAW:
    case PCAP_LINK_COOKED:
    case PCAP_LINK_IPV4:
    case PCAP_LINK_COOKED2:
        return 0;
    default:
        return -2;
    }
}

/* Octets before the IPv4 header, or -1 if the record holds none. */
FM_FN int pcap_link_header(const struct pcap_reader *r, const uint8_t *p, uint32_t len)
{
    uint32_t at = 12;
    switch (r->link) {
    case PCAP_LINK_ETHERNET:
        while (at + 2 <= len && (get16(p + at) == 0x8100 || get16(p + at) == 0x88a8))
            at += 4;
        return at + 2 <= len && get16(p + at) == 0x0800 ? (int)at + 2 : -1;
    case PCAP_LINK_COOKED:
        return len >= 16 && get16(p + 14) == 0x0800 ? 16 : -1;
    case PCAP_LINK_COOKED2:
        return len >= 20 && get16(p) == 0x0800 ? 20 : -1;
    case PCAP_LINK_NULL:
        return len >= 4 && pcap_word(r, p) == 2 ? 4 : -1;
    default: /* raw: whatever it is, the pipeline judges it */
        return 0;
    }
}

/* Next packet; 1, or 0 at the end. */
FM_FN int pcap_next(struct pcap_reader *r, struct pcap_packet *packet)
{
    while ((uint64_t)(r->end - r->at) >= PCAP_RECORD_HEADER_LEN) {
        const uint8_t *p = r->at + PCAP_RECORD_HEADER_LEN;
        uint32_t len = pcap_word(r, r->at + 8), fraction = pcap_word(r, r->at + 4);
        packet->seconds = pcap_word(r, r->at);
        packet->nanoseconds = r->is_nano ? fraction : fraction * 1000u;
        if (len > (uint64_t)(r->end - p))
            return 0;
        r->at = p + len;
        int skip = pcap_link_header(r, p, len);
        if (skip < 0 || len - (uint32_t)skip > PCAP_SNAP_MAX) {
            r->skipped++;
            continue;
        }
        packet->data = p + skip;
        packet->len = len - (uint32_t)skip;
        return 1;
    }
    return 0;
}

/* File header of what we write: nanoseconds, raw IP. */
FM_INLINE void pcap_file_header(uint8_t to[PCAP_FILE_HEADER_LEN])
{
    memset(to, 0, PCAP_FILE_HEADER_LEN);
    store32(to, 0xa1b23c4du);
    store16(to + 4, 2);
    store16(to + 6, 4);
    store32(to + 16, PCAP_SNAP_MAX);
    store32(to + 20, PCAP_LINK_RAW);
}

FM_INLINE void pcap_record_header(uint8_t to[PCAP_RECORD_HEADER_LEN], uint32_t seconds,
                                  uint32_t nanoseconds, uint32_t len)
{
    store32(to, seconds);
    store32(to + 4, nanoseconds);
    store32(to + 8, len);
    store32(to + 12, len);
}

#endif
