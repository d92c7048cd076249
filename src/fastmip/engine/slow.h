/* The two flows, one packet at a time, in the order of the texts. The fast loops (fast.h)
 * hand over whatever is not plain; a packet may always be handed here.
 */
#ifndef FASTMIP_SLOW_H
#define FASTMIP_SLOW_H

#include "tunnel_errors.h"

FM_FN int is_own_address(const struct fm_engine *e, uint32_t address_be)
{
    for (uint32_t i = 0; i < e->local_count; i++)
        if (e->local_be[i] == address_be)
            return 1;
    return 0;
}

/* TTL of a packet we forward; 1 when it may go on. Answers and finishes it otherwise. */
FM_FN int forward_ttl(struct fm_worker *w, struct fm_desc *d, uint32_t source_be,
                      struct fm_out *out)
{
    if (ipv4_ttl(d->data) > 1) {
        ipv4_decrement_ttl(d->data);
        return 1;
    }
    answer(w, source_be, ICMP_TIME_EXCEEDED, 0, 0, d->data, d->len, out);
    fm_finish(w, d, FM_DROP_TTL, d->len);
    return 0;
}

/* From the home side into a tunnel. */
FM_COLD void home_slow(struct fm_worker *w, struct fm_desc *d, struct fm_out *out)
{
    struct fm_engine *e = w->engine;
    uint8_t *p = d->data;
    int verdict = ipv4_check(p, d->len, d->done & FM_DONE_CHECKSUM);
    if (verdict != FM_NONE) {
        fm_finish(w, d, verdict, d->len);
        return;
    }
    d->len = ipv4_total(p);
    uint32_t source = ipv4_source_be(p);
    uint32_t head = find_binding(e, e->role == FM_MOBILE_NODE ? source : ipv4_destination_be(p));
    int is_alive = head && chain_is_alive(e, head, w->now_ns);
    if (!is_alive && e->role == FM_MOBILE_NODE) {
        fm_finish(w, d, head ? FM_DROP_EXPIRED : FM_DROP_NO_BINDING, d->len);
        return;
    }
    if (!is_alive) { /* RFC 5944 4.2.3: no binding, so the node is at home */
        fm_emit(out, FM_HOME, d);
        fm_finish(w, d, head ? FM_RETURNED_EXPIRED : FM_RETURNED_NO_BINDING, d->len);
        return;
    }
    if (!(d->done & FM_DONE_MARTIAN)) {
        verdict = is_own_address(e, source) ? FM_DROP_LOOP_OWN_SOURCE
                  : ipv4_is_martian_source(source) ? FM_DROP_MARTIAN
                                                   : FM_NONE;
        if (verdict != FM_NONE) {
            fm_finish(w, d, verdict, d->len);
            return;
        }
    }
    if (!(d->done & FM_DONE_TTL)) {
        if (!forward_ttl(w, d, e->lines[head].local, out))
            return;
    } else if (ipv4_ttl(p) == 0) { /* RFC 2003 3.1: MUST NOT be encapsulated */
        fm_finish(w, d, FM_DROP_TTL, d->len);
        return;
    }
    encapsulate_chain(w, d, head, FM_ENCAPSULATED, out);
}

/* The record that allows this tunnel packet (RFC 3024 4.3.2; RFC 5944 4.2.3), or its absence
 * as a verdict. *allowed is the line to account to. */
FM_FN int check_tunnel(const struct fm_worker *w, uint32_t head, uint32_t outer_source,
                       uint32_t outer_destination, uint32_t *allowed)
{
    const struct fm_engine *e = w->engine;
    int verdict = FM_DROP_CARE_OF_ADDRESS;
    for (uint32_t number = head; number; number = e->lines[number].next) {
        const struct fm_line *line = &e->lines[number];
        if (line->remote != outer_source)
            continue;
        if (line->local != outer_destination) {
            if (verdict == FM_DROP_CARE_OF_ADDRESS)
                verdict = FM_DROP_TUNNEL_END;
        } else if (!line_is_alive(line, w->now_ns)) {
            verdict = FM_DROP_EXPIRED;
        } else if (!(line->flags & FM_LINE_IPIP)) {
            return FM_DROP_ENCAPSULATION;
        } else if (e->role == FM_HOME_AGENT && !(line->flags & FM_LINE_REVERSE)) {
            return FM_DROP_NOT_REVERSE;
        } else {
            *allowed = number;
            return FM_NONE;
        }
    }
    return verdict;
}

FM_FN uint32_t find_receiver(const struct fm_engine *e, const uint8_t *outer,
                             const uint8_t *inner)
{
    if (e->role == FM_HOME_AGENT)
        return find_binding(e, ipv4_source_be(inner));
    uint32_t destination = ipv4_destination_be(inner);
    uint32_t head = find_binding(e, destination);
    if (head || (destination & 0xff) < 224)
        return head;
    /* Broadcast and multicast for a mobile node come through its tunnel (RFC 5944 4.3, 4.4). */
    uint32_t number = index_find(&e->by_remote, ipv4_source_be(outer));
    return number ? find_binding(e, e->lines[number].home) : FM_NO_LINE;
}

/* Checks of a decapsulated packet that need no binding. */
FM_FN int check_inner(struct fm_worker *w, const uint8_t *outer, uint32_t outer_total)
{
    uint32_t header = ipv4_header_len(outer);
    const uint8_t *inner = outer + header;
    int verdict = ipv4_check_inner(inner, outer_total - header);
    if (verdict != FM_NONE)
        return verdict;
    if (ipv4_ttl(inner) == 0) /* RFC 2003 3.1 */
        return FM_DROP_INNER_TTL;
    if (ipv4_protocol(inner) == PROTO_IPIP && tunnel_nesting(inner) >= IPIP_NESTING_MAX)
        return FM_DROP_NESTING;
    if (ipv4_is_martian_source(ipv4_source_be(inner)))
        return FM_DROP_MARTIAN;
    return FM_NONE;
}

/* Merge the outer ECN field into the inner one (RFC 6040 4.2). */
FM_FN int merge_ecn(struct fm_worker *w, uint8_t outer_tos, uint8_t *inner)
{
    uint8_t tos = inner[OFF_TOS];
    uint8_t rule = ecn_egress[tos & ECN_MASK][outer_tos & ECN_MASK];
    if (rule & ECN_UNUSUAL)
        fm_event(w, FM_EVENT_ECN_UNUSUAL, 1);
    if (rule & ECN_DROP)
        return FM_DROP_ECN;
    if ((rule & ECN_MASK) != (tos & ECN_MASK))
        ipv4_set_tos(inner, (uint8_t)((tos & ~ECN_MASK) | (rule & ECN_MASK)));
    return FM_NONE;
}

/* From a tunnel to the home side, or straight into another node's tunnel. */
FM_COLD void tunnel_slow(struct fm_worker *w, struct fm_desc *d, struct fm_out *out)
{
    struct fm_engine *e = w->engine;
    uint8_t *p = d->data;
    int verdict = ipv4_check(p, d->len, d->done & FM_DONE_CHECKSUM);
    uint32_t number = FM_NO_LINE;
    if (verdict == FM_NONE) {
        d->len = ipv4_total(p);
        uint8_t protocol = ipv4_protocol(p);
        if (ipv4_is_fragment(p))
            verdict = FM_DROP_OUTER_FRAGMENT;
        else if (protocol == PROTO_ICMP)
            verdict = tunnel_error(w, d, out);
        else if (protocol == PROTO_GRE || protocol == PROTO_MINIMAL)
            verdict = FM_DROP_ENCAPSULATION;
        else if (protocol != PROTO_IPIP)
            verdict = FM_DROP_NOT_TUNNEL;
        else
            verdict = check_inner(w, p, d->len);
    }
    uint8_t *inner = p;
    if (verdict == FM_NONE) {
        inner = p + ipv4_header_len(p);
        uint32_t head = find_receiver(e, p, inner);
        verdict = head ? check_tunnel(w, head, ipv4_source_be(p), ipv4_destination_be(p), &number)
                       : FM_DROP_NO_BINDING;
    }
    if (verdict == FM_NONE)
        verdict = merge_ecn(w, p[OFF_TOS], inner);
    if (verdict != FM_NONE) {
        fm_finish(w, d, verdict, d->len);
        return;
    }
    d->data = inner;
    d->len = ipv4_total(inner);
    d->line = number;
    w->received[number].packets++;
    w->received[number].bytes += d->len;
    if (e->role == FM_HOME_AGENT) {
        uint32_t local = e->lines[number].local;
        uint32_t head = find_binding(e, ipv4_destination_be(inner));
        if (head && chain_is_alive(e, head, w->now_ns)) { /* no kernel on this path: our TTL */
            if (forward_ttl(w, d, local, out))
                encapsulate_chain(w, d, head, FM_REENCAPSULATED, out);
            return;
        }
        if (!(d->done & FM_DONE_TTL) && !forward_ttl(w, d, local, out))
            return;
    }
    fm_emit(out, FM_HOME, d);
    fm_finish(w, d, FM_DECAPSULATED, d->len);
}

#endif
