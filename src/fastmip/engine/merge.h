/* Merging TCP segments into super-frames on their way to the TUN device (software GRO).
 *
 * A write to a TUN device costs about a microsecond whatever its size, and the kernel then
 * handles a super-frame once where it would handle each segment. The segments of one TCP
 * flow that stand together in a batch are therefore written as one packet with a vnet header,
 * from which the kernel, or a NIC, makes the very same segments again.
 *
 * "The very same" decides what may be merged (as in Linux's tcp_gro_receive): consecutive
 * sequence numbers, equal acknowledgement, window, flags, options, TOS and TTL; no IP options,
 * no fragments, no flag but ACK, and PSH on the last one; equal payload lengths, only the last
 * may be shorter; consecutive IP IDs unless DF makes them meaningless (RFC 6864); and a TCP
 * checksum that holds, because the super-frame's is computed anew.
 *
 * Several flows are open at once, so that interleaving does not end merging. Order within a
 * flow is kept: what cannot be appended to its flow's merge closes it first.
 */
#ifndef FASTMIP_MERGE_H
#define FASTMIP_MERGE_H

#include <sys/uio.h>

#include "frames.h"
#include "vnet.h"

#define MERGE_FLOWS 8
#define MERGE_PARTS 64
#define MERGE_MAX 65535

enum { MERGE_ACK = 0x10, MERGE_DF = 0x4000 };
/* Octets from the IPv4 source address on: both addresses; both addresses and ports. */
enum { MERGE_HOSTS_LEN = 8, MERGE_FLOW_LEN = 12 };

struct merge {
    uint8_t *data;     /* first packet; NULL: not open */
    uint32_t len;      /* IPv4 total length of the super-frame so far */
    uint32_t headers;  /* IPv4 and TCP header of each part */
    uint32_t gso_size; /* payload of each part but the last */
    uint32_t next_seq;
    uint32_t parts;
    int is_full;       /* its last part was short or pushed: nothing may follow */
    uint16_t next_id;
    struct iovec iov[MERGE_PARTS];
};

/* Length of both headers if the packet may be part of a super-frame, else 0. */
static inline uint32_t merge_headers(const uint8_t *ip, uint32_t len)
{
    if (len < 40 || ip[0] != 0x45 || ip[VNET_IP_PROTOCOL] != VNET_PROTO_TCP) return 0;
    if (vnet_get16(ip + VNET_IP_TOTAL) != len) return 0;
    if (vnet_get16(ip + VNET_IP_FRAGMENT) & ~MERGE_DF) return 0;
    const uint8_t *tcp = ip + 20;
    uint32_t headers = 20 + (uint32_t)(tcp[VNET_TCP_OFFSET] >> 4) * 4;
    if (headers < 40 || headers >= len) return 0;
    if ((tcp[VNET_TCP_FLAGS] & ~VNET_PSH) != MERGE_ACK) return 0;
    return headers;
}

static inline int merge_checksum_holds(const uint8_t *ip, uint32_t len)
{
    return vnet_fold(vnet_pseudo(ip, VNET_PROTO_TCP, len - 20) + vnet_sum(ip + 20, len - 20)) ==
           0xffff;
}

/* True if the open merge has the same addresses, or with MERGE_FLOW_LEN the same flow. */
static inline int merge_is_between(const struct merge *m, const uint8_t *ip, size_t length)
{
    return m->data && !memcmp(m->data + VNET_IP_SOURCE, ip + VNET_IP_SOURCE, length);
}

/* True if the packet continues the super-frame exactly. */
static inline int merge_fits(const struct merge *m, const uint8_t *ip, uint32_t len,
                             uint32_t headers)
{
    const uint8_t *first = m->data;
    const uint8_t *tcp = ip + 20, *first_tcp = first + 20;
    uint32_t payload = len - headers;
    if (m->is_full || m->parts == MERGE_PARTS || headers != m->headers) return 0;
    if (payload > m->gso_size || m->len + payload > MERGE_MAX) return 0;
    if (vnet_get32(tcp + VNET_TCP_SEQ) != m->next_seq) return 0;
    if (ip[1] != first[1] || ip[8] != first[8]) return 0; /* TOS, TTL */
    if (ip[VNET_IP_FRAGMENT] != first[VNET_IP_FRAGMENT]) return 0;
    if (!(ip[VNET_IP_FRAGMENT] & (MERGE_DF >> 8)) && vnet_get16(ip + VNET_IP_ID) != m->next_id)
        return 0;
    /* Acknowledgement, offset; window; urgent pointer and options. Flags differ in PSH only,
     * which a merge that goes on does not have. */
    return !memcmp(tcp + 8, first_tcp + 8, 5) && !memcmp(tcp + 14, first_tcp + 14, 2) &&
           !memcmp(tcp + 18, first_tcp + 18, headers - 38);
}

static inline void merge_note_last(struct merge *m, const uint8_t *ip, uint32_t payload)
{
    uint8_t pushed = ip[20 + VNET_TCP_FLAGS] & VNET_PSH;
    m->data[20 + VNET_TCP_FLAGS] |= pushed;
    m->is_full = pushed || payload < m->gso_size;
    m->next_seq += payload;
    m->next_id++;
    m->parts++;
}

static inline void merge_open(struct merge *m, uint8_t *ip, uint32_t len, uint32_t headers)
{
    m->data = ip;
    m->len = len;
    m->headers = headers;
    m->gso_size = len - headers;
    m->next_seq = vnet_get32(ip + 20 + VNET_TCP_SEQ);
    m->next_id = vnet_get16(ip + VNET_IP_ID);
    m->parts = 0;
    merge_note_last(m, ip, m->gso_size);
}

static inline void merge_append(struct merge *m, uint8_t *ip, uint32_t len)
{
    uint32_t payload = len - m->headers;
    m->iov[m->parts].iov_base = ip + m->headers;
    m->iov[m->parts].iov_len = payload;
    m->len += payload;
    merge_note_last(m, ip, payload);
}

/* Finish headers; iov[0] is vnet header and first packet, iov[1..parts-1] the other payloads.
 * The vnet header is written in front of the first packet. */
static inline void merge_finish(struct merge *m)
{
    uint8_t *ip = m->data;
    struct vnet_hdr h = {0};
    uint32_t first = m->parts == 1 ? m->len : m->headers + m->gso_size;
    if (m->parts > 1) {
        vnet_put16(ip + VNET_IP_TOTAL, m->len);
        vnet_ip_checksum(ip, 20);
        vnet_store(ip + 20 + VNET_TCP_CHECKSUM,
                   vnet_fold(vnet_pseudo(ip, VNET_PROTO_TCP, m->len - 20)));
        h.flags = VNET_NEEDS_CSUM;
        h.gso_type = VNET_GSO_TCPV4;
        h.hdr_len = (uint16_t)m->headers;
        h.gso_size = (uint16_t)m->gso_size;
        h.csum_start = 20;
        h.csum_offset = VNET_TCP_CHECKSUM;
    }
    memcpy(ip - VNET_HDR_LEN, &h, VNET_HDR_LEN);
    m->iov[0].iov_base = ip - VNET_HDR_LEN;
    m->iov[0].iov_len = VNET_HDR_LEN + first;
}

#endif
