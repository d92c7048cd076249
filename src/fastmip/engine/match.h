/* Which packets an operator wants to see: terms that must all be found somewhere in a packet.
 *
 * A packet is walked through its headers, outer and inner, IP in IP, GRE, minimal encapsulation
 * and UDP tunnels alike; a term may be found in any of them, so that one filter means the same
 * packet before and behind the engine. Nothing is verified here and nothing read beyond `len`.
 */
#ifndef FASTMIP_MATCH_H
#define FASTMIP_MATCH_H

#include "gre.h"
#include "minimal.h"
#include "udp_tunnel.h"

#define MATCH_TERMS 8
#define MATCH_LAYERS 4
#define MATCH_PROTO_TCP 6
#define MATCH_PROTO_ESP 50
#define MATCH_PROTO_AH 51
#define MATCH_PROTO_SCTP 132
#define MATCH_PORT_NAT_ESP 4500 /* RFC 3948 */

enum match_kind { MATCH_ADDRESS, MATCH_PROTOCOL, MATCH_PORT, MATCH_SPI };

struct match_term {
    uint32_t kind;
    uint32_t value, mask; /* of an address: network order */
};

struct match {
    uint32_t count;
    struct match_term terms[MATCH_TERMS];
};

/* Source and destination of each IPv4 header, outermost first, network order. */
struct match_path {
    uint32_t count;
    uint32_t source[MATCH_LAYERS], destination[MATCH_LAYERS];
};

/* Bits of the terms that this fact fulfils. */
FM_INLINE uint32_t match_fact(const struct match *m, enum match_kind kind, uint32_t value)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < m->count; i++)
        if (m->terms[i].kind == kind && (value & m->terms[i].mask) == m->terms[i].value)
            found |= 1u << i;
    return found;
}

FM_INLINE uint32_t match_addresses(const struct match *m, struct match_path *path, uint32_t source,
                                   uint32_t destination)
{
    path->source[path->count] = source;
    path->destination[path->count++] = destination;
    return match_fact(m, MATCH_ADDRESS, source) | match_fact(m, MATCH_ADDRESS, destination);
}

/* Octets of a GRE header in front of an IPv4 packet, 0 when it carries none. */
FM_INLINE uint32_t match_gre(const uint8_t *p, uint32_t room)
{
    if (room < GRE_HEADER_LEN || get16(p + 2) != GRE_IPV4)
        return 0;
    uint32_t flags = get16(p);
    return GRE_HEADER_LEN + 4u * ((flags & GRE_CHECKSUM) != 0) + 4u * ((flags & GRE_KEY) != 0) +
           4u * ((flags & GRE_SEQUENCE) != 0);
}

/* What follows an IPv4 header, of `protocol`. *p and *room move to the IPv4 packet it carries;
 * bits of terms found. *room is 0 when it carries none. */
FM_FN uint32_t match_payload(const struct match *m, uint32_t protocol, const uint8_t **p,
                             uint32_t *room, struct match_path *path)
{
    const uint8_t *q = *p;
    uint32_t left = *room, found = 0;
    *room = 0;
    for (uint32_t step = 0; step < 3; step++) { /* UDP, minimal encapsulation, the payload */
        found |= match_fact(m, MATCH_PROTOCOL, protocol);
        if (protocol == PROTO_UDP && left >= UDP_HEADER_LEN + 4) {
            uint32_t from = get16(q), to = get16(q + 2), first = get32(q + UDP_HEADER_LEN);
            found |= match_fact(m, MATCH_PORT, from) | match_fact(m, MATCH_PORT, to);
            if ((from == MATCH_PORT_NAT_ESP || to == MATCH_PORT_NAT_ESP) && first != 0)
                return found | match_fact(m, MATCH_SPI, first);
            if (first >> 24 != MIP_TUNNEL_DATA)
                return found;
            protocol = q[UDP_HEADER_LEN + 1];
            if (protocol != PROTO_IPIP && protocol != PROTO_GRE &&
                protocol != PROTO_MINIMAL)
                return found;
            q += UDP_SHIM_LEN;
            left -= UDP_SHIM_LEN;
        } else if (protocol == PROTO_MINIMAL && left >= MINIMAL_SHORT_LEN &&
                   left >= minimal_len(q) && path->count < MATCH_LAYERS) {
            uint32_t source = minimal_has_source(q) ? minimal_source_be(q)
                                                    : path->source[path->count - 1];
            found |= match_addresses(m, path, source, minimal_destination_be(q));
            protocol = minimal_protocol(q);
            left -= minimal_len(q);
            q += minimal_len(q);
        } else {
            break;
        }
    }
    found |= match_fact(m, MATCH_PROTOCOL, protocol);
    uint32_t before = protocol == PROTO_IPIP ? 0 : match_gre(q, left);
    if (protocol == PROTO_IPIP || (protocol == PROTO_GRE && before && before < left)) {
        *p = q + before;
        *room = left - before;
    } else if ((protocol == MATCH_PROTO_TCP || protocol == PROTO_UDP ||
                protocol == MATCH_PROTO_SCTP) && left >= 4) {
        found |= match_fact(m, MATCH_PORT, get16(q)) | match_fact(m, MATCH_PORT, get16(q + 2));
    } else if (protocol == MATCH_PROTO_ESP && left >= 4) {
        found |= match_fact(m, MATCH_SPI, get32(q));
    } else if (protocol == MATCH_PROTO_AH && left >= 8) {
        found |= match_fact(m, MATCH_SPI, get32(q + 4));
    }
    return found;
}

/* Does the packet fulfil every term? `path` becomes its addresses in any case. */
FM_FN int match_packet(const struct match *m, const uint8_t *p, uint32_t len,
                       struct match_path *path)
{
    uint32_t found = 0;
    path->count = 0;
    while (len >= IPV4_MIN_HEADER_LEN && p[0] >> 4 == 4 && path->count < MATCH_LAYERS) {
        uint32_t header = (uint32_t)(p[0] & 15) * 4, protocol = p[OFF_PROTOCOL];
        if (header < IPV4_MIN_HEADER_LEN || header > len)
            break;
        found |= match_addresses(m, path, ipv4_source_be(p), ipv4_destination_be(p));
        if (get16(p + OFF_FRAGMENT) & IPV4_OFFSET_MASK) { /* a later fragment: no header follows */
            found |= match_fact(m, MATCH_PROTOCOL, protocol);
            break;
        }
        p += header;
        len -= header;
        found |= match_payload(m, protocol, &p, &len, path);
    }
    return found == (1u << m->count) - 1;
}

#endif
