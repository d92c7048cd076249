/* One tunnel's encapsulation: the headers a line puts in front of a packet, and what is inside
 * a tunnel packet, whatever its encapsulation.
 */
#ifndef FASTMIP_TUNNEL_H
#define FASTMIP_TUNNEL_H

#include "bindings.h"
#include "gre.h"
#include "minimal.h"
#include "udp_tunnel.h"

/* What goes by IP in IP where minimal encapsulation was negotiated: fragments (RFC 2004 3), and in
 * UDP whatever may be fragmented, because the one header minimal encapsulation leaves belongs to
 * the datagram socket there, which sets DF and does not tell the receiver of it. */
FM_INLINE int line_falls_back(const struct fm_line *line, const uint8_t *inner)
{
    return line_is_minimal(line) &&
           (ipv4_is_fragment(inner) || ((line->method & FM_UDP) && !ipv4_is_df(inner)));
}

/* Minimal encapsulation of the packet at p; octets added in front. */
FM_INLINE uint32_t outer_write_minimal(const struct fm_line *line, uint8_t *p, uint32_t header,
                                       uint8_t hops)
{
    if (!(line->method & FM_UDP))
        return minimal_write(p, header, 0, PROTO_MINIMAL, hops, line->local, line->remote);
    uint32_t carried = ipv4_total(p);
    uint32_t added =
        minimal_write(p, header, UDP_SHIM_LEN, PROTO_UDP, hops, line->local, line->remote);
    uint8_t *outer = p - added;
    carried += added - UDP_SHIM_LEN - header; /* forwarding header and payload */
    udp_tunnel_write(outer + header, line->ports, carried, PROTO_MINIMAL);
    return added;
}

/* An outer header of its own, with GRE and UDP headers behind it as the line's method says. */
FM_INLINE uint32_t outer_write_whole(const struct fm_line *line, uint8_t *p, uint32_t total)
{
    uint32_t shim = 0;
    uint8_t tos = p[OFF_TOS] & line->tos_mask;
    if (line->method & FM_GRE)
        shim = gre_write(p, line->flags & FM_LINE_KEY, line->gre_key);
    if (line->method & FM_UDP) {
        uint8_t next = line->method & FM_GRE ? PROTO_GRE : PROTO_IPIP;
        shim += UDP_SHIM_LEN;
        udp_tunnel_write(p - shim, line->ports, total + shim - UDP_SHIM_LEN, next);
    }
    ipip_write_outer(p - shim, total + shim, tos, line->constant_sum, line->outer, line->remote);
    return shim + IPIP_OVERHEAD;
}

/* Put the line's headers in front of the packet at p; octets added. Minimal encapsulation
 * overwrites the packet's own header. */
FM_INLINE uint32_t outer_write(const struct fm_line *line, uint8_t *p, uint32_t total)
{
    if (line_is_minimal(line) && !line_falls_back(line, p))
        return outer_write_minimal(line, p, ipv4_header_len(p), 0);
    return outer_write_whole(line, p, total);
}

/* The same for the fast loop: no options, nothing that falls back; `hops` (0 or 1) are taken
 * off the TTL on the way. */
FM_INLINE uint32_t outer_write_plain(const struct fm_line *line, uint8_t *p, uint32_t total,
                                     uint8_t hops)
{
    if (line_is_minimal(line))
        return outer_write_minimal(line, p, IPV4_MIN_HEADER_LEN, hops);
    if (hops)
        ipv4_decrement_ttl(p);
    return outer_write_whole(line, p, total);
}

/* What a tunnel packet carried, and what must be compared with its binding. */
struct fm_carried {
    uint8_t *inner; /* IPv4 header */
    uint32_t room;  /* octets from there on */
    uint32_t source, destination; /* outer, network order */
    uint32_t ports;               /* as in the packet: theirs, ours; 0 without UDP */
    uint8_t method;               /* enum fm_method */
    uint8_t tos;                  /* of the outer header */
    uint8_t is_opened;            /* by ESP, of `bundle` */
    uint32_t bundle;
    struct gre gre;               /* zero unless GRE */
};

/* Open the tunnel packet at p, which has passed ipv4_check and is no fragment. FM_NONE or the
 * reason. Minimal encapsulation: the inner header is restored in place. */
FM_FN int carried_open(uint8_t *p, struct fm_carried *c)
{
    uint32_t at = ipv4_header_len(p), end = ipv4_total(p);
    uint8_t protocol = ipv4_protocol(p), is_opened = c->is_opened;
    uint32_t bundle = c->bundle;
    memset(c, 0, sizeof *c);
    c->is_opened = is_opened; /* holds for everything inside */
    c->bundle = bundle;
    c->source = ipv4_source_be(p);
    c->destination = ipv4_destination_be(p);
    c->tos = p[OFF_TOS];
    if (protocol == PROTO_UDP) {
        int verdict = udp_tunnel_check(p, at, &end);
        if (verdict != FM_NONE)
            return verdict;
        c->method = FM_UDP;
        c->ports = load32(p + at);
        protocol = p[at + UDP_HEADER_LEN + 1];
        at += UDP_SHIM_LEN;
    }
    if (protocol == PROTO_GRE) {
        int verdict = gre_check(p + at, end - at, &c->gre);
        if (verdict != FM_NONE)
            return verdict;
        c->method |= FM_GRE;
        at += c->gre.len;
    } else if (protocol == PROTO_MINIMAL) {
        int verdict = minimal_check(p + at, end - at);
        if (verdict != FM_NONE)
            return verdict;
        c->method |= FM_MINIMAL;
        c->inner = minimal_restore(p, ipv4_header_len(p), p + at, end, 0);
        c->room = end - (uint32_t)(c->inner - p);
        return FM_NONE;
    } else if (protocol != PROTO_IPIP) {
        return c->method ? FM_DROP_ENCAPSULATION : FM_DROP_NOT_TUNNEL;
    }
    c->inner = p + at;
    c->room = end - at;
    return FM_NONE;
}

/* Is this what the line negotiated? Fragments go by IP in IP where minimal was. */
FM_INLINE int line_uses(const struct fm_line *line, uint8_t method)
{
    uint8_t mine = line->method & (uint8_t)~FM_ESP;
    return mine == method || (line_is_minimal(line) && mine == (method | FM_MINIMAL));
}

FM_INLINE int line_takes_key(const struct fm_line *line, const struct gre *gre)
{
    return !(line->flags & FM_LINE_KEY) == !gre->has_key && line->gre_key == gre->key;
}

#endif
