/* Tunnel packets of other encapsulations than IP in IP, for the fast loop: read the headers once,
 * then compare with the binding. Only the most usual shape of each is taken: no options, no
 * checksum or sequence number in GRE, no UDP checksum. Everything else is slow.h's.
 */
#ifndef FASTMIP_SHAPES_H
#define FASTMIP_SHAPES_H

#include "slow.h"

/* Not inlined: the loops' registers are for IP in IP. */
#define FM_APART __attribute__((unused, noinline)) static

struct fm_shape {
    uint32_t ports, gre_key; /* as in the packet */
    uint8_t inner;           /* offset of the inner header, or of the forwarding header */
    uint8_t method, has_key;
};

/* An inner header at q that the fast loops take; `room` octets from there on. */
FM_INLINE int inner_is_plain(const uint8_t *q, uint32_t room)
{
    return (q[0] == 0x45) & (q[OFF_PROTOCOL] != PROTO_IPIP) & (ipv4_total(q) - 20 <= room - 20) &
           ipv4_sum20_is_right(q);
}

/* Home address a packet belongs to, or FM_NO_KEY. At least 40 octets are present. */
FM_APART uint32_t shape_read(const struct fm_desc *d, struct fm_shape *s, uint32_t is_home_agent,
                             int is_outer_right)
{
    const uint8_t *p = d->data;
    uint32_t total = ipv4_total(p), at = IPV4_MIN_HEADER_LEN;
    uint8_t protocol = p[OFF_PROTOCOL];
    if ((load64(p) & 0xff3f0000000000ffu) != 0x45 || total - 40 > d->len - 40 ||
        !(is_outer_right | (d->done & FM_DONE_CHECKSUM)))
        return FM_NO_KEY;
    s->method = FM_IPIP;
    s->ports = s->gre_key = s->has_key = 0;
    if (protocol == PROTO_UDP) { /* length, no checksum; type 4 */
        if (load32(p + 24) != swap16((uint16_t)(total - 20)) || p[28] != MIP_TUNNEL_DATA)
            return FM_NO_KEY;
        s->method = FM_UDP;
        s->ports = load32(p + 20);
        protocol = p[29];
        at += UDP_SHIM_LEN;
    }
    if (protocol == PROTO_MINIMAL) {
        const uint8_t *m = p + at;
        if (total < at + MINIMAL_LONG_LEN || m[0] == PROTO_IPIP)
            return FM_NO_KEY;
        uint32_t has_source = minimal_has_source(m) != 0;
        uint32_t source = has_source ? load32(m + 8) : 0;
        if (((uint64_t)load32(m) + load32(m + 4) + source) % 65535u)
            return FM_NO_KEY;
        s->method |= FM_MINIMAL;
        s->inner = (uint8_t)at;
        if (!is_home_agent)
            return load32(m + 4);
        return has_source ? source : ipv4_source_be(p);
    }
    if (protocol == PROTO_GRE) {
        uint32_t word = load32(p + at);
        s->method |= FM_GRE;
        s->has_key = word == GRE_KEY_WORD;
        if (word != GRE_PLAIN_WORD && !s->has_key)
            return FM_NO_KEY;
        at += GRE_HEADER_LEN;
        if (s->has_key) {
            s->gre_key = load32(p + at);
            at += 4;
        }
    } else if (protocol != PROTO_IPIP) {
        return FM_NO_KEY;
    }
    if (total < at + IPV4_MIN_HEADER_LEN || !inner_is_plain(p + at, total - at))
        return FM_NO_KEY;
    s->inner = (uint8_t)at;
    return load32(p + at + (is_home_agent ? OFF_SOURCE : OFF_DESTINATION));
}

/* Destination of the packet inside one that shape_read has read. */
FM_INLINE uint32_t shape_destination_be(const struct fm_desc *d, const struct fm_shape *s)
{
    const uint8_t *q = d->data + s->inner;
    return s->method & FM_MINIMAL ? minimal_destination_be(q) : ipv4_destination_be(q);
}

/* Decapsulate if nothing speaks against it: d->data becomes the inner packet, whose length is
 * returned; 0 leaves the packet as it is, to slow.h. */
FM_APART uint32_t shape_open(const struct fm_engine *e, struct fm_desc *d,
                              const struct fm_line *line, const struct fm_shape *s,
                              uint64_t now_ns)
{
    uint8_t *p = d->data, *q = p + s->inner;
    uint32_t is_minimal = s->method & FM_MINIMAL, is_home_agent = e->role == FM_HOME_AGENT;
    uint32_t is_forwarded = (e->role != FM_MOBILE_NODE) & ~(uint32_t)d->done;
    uint32_t source, destination, ttl, total;
    if (is_minimal) {
        total = ipv4_total(p) - s->inner + IPV4_MIN_HEADER_LEN - minimal_len(q);
        source = minimal_has_source(q) ? minimal_source_be(q) : ipv4_source_be(p);
        destination = minimal_destination_be(q);
        ttl = p[OFF_TTL];
    } else {
        uint32_t outer_ecn = p[OFF_TOS] & ECN_MASK;
        total = ipv4_total(q);
        source = ipv4_source_be(q);
        destination = ipv4_destination_be(q);
        ttl = q[OFF_TTL];
        if ((outer_ecn != 0) & (((p[OFF_TOS] ^ q[OFF_TOS]) & ECN_MASK) != 0))
            return 0;
    }
    uint32_t is_hairpin =
        is_home_agent & (swap32(destination) - e->lowest_home <= e->highest_home - e->lowest_home);
    if ((line->method != s->method) | (load64(&line->remote) != load64(p + OFF_SOURCE)) |
        (line->ports != s->ports) | (line->gre_key != s->gre_key) |
        (((line->flags & FM_LINE_KEY) != 0) != s->has_key) | !line_is_alive(line, now_ns) |
        (is_home_agent & !(line->flags & FM_LINE_REVERSE)) | (ttl <= is_forwarded) |
        is_martian_octet[source & 0xff] | is_hairpin | (destination == ipv4_source_be(p)) |
        (line->flags & FM_LINE_HALF_BOUND))
        return 0;
    if (is_minimal)
        q = minimal_restore(p, IPV4_MIN_HEADER_LEN, q, ipv4_total(p), (uint8_t)is_forwarded);
    else if (is_forwarded)
        ipv4_decrement_ttl(q);
    d->data = q;
    return total;
}

#endif
