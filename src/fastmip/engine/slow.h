/* The two flows, one packet at a time, in the order of the texts. The fast loops (fast.h)
 * hand over whatever is not plain; a packet may always be handed here.
 */
#ifndef FASTMIP_SLOW_H
#define FASTMIP_SLOW_H

#include "half_bound.h"
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

/* Does a foreign agent tunnel this packet of a visitor to its home agent? Only unicast, and
 * nothing when the visitor asked for encapsulating delivery (RFC 3024 5.1, 5.2.1). */
FM_INLINE int is_for_reverse_tunnel(const struct fm_line *line, const uint8_t *p)
{
    return (line->flags & (FM_LINE_REVERSE | FM_LINE_NESTED)) == FM_LINE_REVERSE &&
           (ipv4_destination_be(p) & 0xff) < 224;
}

/* A mobile node sends through the tunnel that its home agent granted, not through one that was
 * asked for, or given back (RFC 5944 3.6.1.2, RFC 3024 3.1). */
FM_INLINE int is_not_granted(const struct fm_engine *e, const struct fm_line *line)
{
    return e->role == FM_MOBILE_NODE && !(line->flags & FM_LINE_REVERSE);
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
    uint32_t head = find_binding(e, e->role == FM_HOME_AGENT ? ipv4_destination_be(p) : source);
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
    if (is_not_granted(e, &e->lines[head])) {
        fm_finish(w, d, FM_DROP_NOT_GRANTED, d->len);
        return;
    }
    if (e->role == FM_FOREIGN_AGENT && !is_for_reverse_tunnel(&e->lines[head], p)) {
        fm_emit(out, FM_HOME, d);
        fm_finish(w, d, FM_RETURNED_NOT_REVERSE, d->len);
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

/* How far a line lets a tunnel packet in: the place of its first objection. */
enum fm_objection {
    FM_NOT_SOURCE,
    FM_NOT_END,
    FM_NOT_PORT,
    FM_NOT_ALIVE,
    FM_NOT_METHOD,
    FM_NOT_KEY,
    FM_NOT_REVERSE,
    FM_NOT_POLICY,
    FM_NOT_PROTECTED,
    FM_NO_OBJECTION
};

FM_FN enum fm_objection line_objection(const struct fm_worker *w, const struct fm_line *line,
                                       const struct fm_carried *c)
{
    if (line->remote != c->source)
        return FM_NOT_SOURCE;
    if (line->local != c->destination)
        return FM_NOT_END;
    if ((line->method & c->method & FM_UDP) &&
        (line->ports != c->ports || (line->flags & FM_LINE_HALF_BOUND)))
        return FM_NOT_PORT;
    if (!line_is_alive(line, w->now_ns))
        return FM_NOT_ALIVE;
    if (!line_uses(line, c->method))
        return FM_NOT_METHOD;
    if (!line_takes_key(line, &c->gre))
        return FM_NOT_KEY;
    if (w->engine->role == FM_HOME_AGENT && !(line->flags & FM_LINE_REVERSE))
        return FM_NOT_REVERSE;
    /* RFC 4301 5.2 step 4: what came by ESP is held against what the binding wants. */
    int is_protected = line->method & FM_ESP;
    if (is_protected && !c->is_opened)
        return FM_NOT_PROTECTED;
    uint32_t number = (uint32_t)(line - w->engine->lines);
    if (c->is_opened && (!is_protected || w->engine->esp->line_bundle[number] != c->bundle))
        return FM_NOT_POLICY;
    return FM_NO_OBJECTION;
}

/* The record that allows this tunnel packet (RFC 3024 4.3.2; RFC 5944 4.2.3; RFC 3519 4.3), or
 * the last objection as a verdict. *allowed is the line to account to. */
FM_FN int check_tunnel(const struct fm_worker *w, uint32_t head, const struct fm_carried *c,
                       uint32_t *allowed)
{
    static const uint16_t verdicts[] = {FM_DROP_CARE_OF_ADDRESS, FM_DROP_TUNNEL_END,
                                        FM_DROP_UDP_PORT,        FM_DROP_EXPIRED,
                                        FM_DROP_ENCAPSULATION,   FM_DROP_GRE_KEY,
                                        FM_DROP_NOT_REVERSE,     FM_DROP_ESP_POLICY,
                                        FM_DROP_ESP_REQUIRED,    FM_NONE};
    const struct fm_engine *e = w->engine;
    enum fm_objection last = FM_NOT_SOURCE;
    for (uint32_t number = head; number && last != FM_NO_OBJECTION;
         number = e->lines[number].next) {
        enum fm_objection objection = line_objection(w, &e->lines[number], c);
        if (objection > last)
            last = objection;
        *allowed = number;
    }
    return verdicts[last];
}

/* A tunnel packet of a half bound line: the keepalive that binds it, or nothing at all. */
FM_COLD int check_half_bound(struct fm_worker *w, uint32_t head, const struct fm_carried *c)
{
    const struct fm_engine *e = w->engine;
    for (uint32_t number = head; number; number = e->lines[number].next) {
        const struct fm_line *line = &e->lines[number];
        if (!(line->flags & FM_LINE_HALF_BOUND) || !half_bound_comes_from(line, c))
            continue;
        if (!line_is_alive(line, w->now_ns))
            return FM_DROP_EXPIRED;
        if (!line_uses(line, c->method))
            return FM_DROP_ENCAPSULATION;
        if (!half_bound_is_keepalive(line, c->inner))
            return FM_DROP_HALF_BOUND;
        half_bound_tell(w, line, c);
        return FM_HALF_BOUND_KEEPALIVE;
    }
    return FM_DROP_UDP_PORT;
}

FM_FN uint32_t find_receiver(const struct fm_engine *e, const struct fm_carried *c)
{
    if (e->role == FM_HOME_AGENT)
        return find_binding(e, ipv4_source_be(c->inner));
    uint32_t destination = ipv4_destination_be(c->inner);
    uint32_t head = find_binding(e, destination);
    if (head || (destination & 0xff) < 224 || e->role == FM_FOREIGN_AGENT)
        return head;
    /* Broadcast and multicast for a mobile node come through its tunnel (RFC 5944 4.3, 4.4). */
    uint32_t number = index_find(&e->by_remote, c->source);
    return number ? find_binding(e, e->lines[number].home) : FM_NO_LINE;
}

/* Checks of a decapsulated packet that need no binding. */
FM_FN int check_inner(const struct fm_carried *c)
{
    const uint8_t *inner = c->inner;
    int verdict = ipv4_check_inner(inner, c->room);
    if (verdict != FM_NONE)
        return verdict;
    if (ipv4_ttl(inner) == 0) /* RFC 2003 3.1 */
        return FM_DROP_INNER_TTL;
    if (ipv4_protocol(inner) == PROTO_IPIP && tunnel_nesting(inner) >= IPIP_NESTING_MAX)
        return FM_DROP_NESTING;
    if (ipv4_is_martian_source(ipv4_source_be(inner)))
        return FM_DROP_MARTIAN;
    if ((c->method & FM_GRE) && ipv4_destination_be(inner) == c->source)
        return FM_DROP_LOOP_ENCAPSULATOR;
    return FM_NONE;
}

/* Merge the outer ECN field into the inner one (RFC 6040 4.2). */
FM_FN int merge_ecn(struct fm_worker *w, const struct fm_carried *c)
{
    if (c->method & FM_MINIMAL) /* one header, one field */
        return FM_NONE;
    uint8_t tos = c->inner[OFF_TOS];
    uint8_t rule = ecn_egress[tos & ECN_MASK][c->tos & ECN_MASK];
    if (rule & ECN_UNUSUAL)
        fm_event(w, FM_EVENT_ECN_UNUSUAL, 1);
    if (rule & ECN_DROP)
        return FM_DROP_ECN;
    if ((rule & ECN_MASK) != (tos & ECN_MASK))
        ipv4_set_tos(c->inner, (uint8_t)((tos & ~ECN_MASK) | (rule & ECN_MASK)));
    return FM_NONE;
}

/* Encapsulating delivery (RFC 3024 5.2): a visitor's packet in a tunnel from its home address to
 * us. Is it one? *head is the visitor's line. */
FM_FN int is_delivered(const struct fm_engine *e, const struct fm_carried *c, uint32_t *head)
{
    if (e->role != FM_FOREIGN_AGENT || c->source != ipv4_source_be(c->inner))
        return 0;
    *head = find_binding(e, c->source);
    return *head && e->lines[*head].flags & FM_LINE_NESTED;
}

/* The same encapsulation as towards the home agent, or the default (RFC 3024 5.2.2). */
FM_FN int check_delivered(const struct fm_worker *w, const struct fm_line *line,
                          const struct fm_carried *c)
{
    if (!is_own_address(w->engine, c->destination))
        return FM_DROP_TUNNEL_END;
    if (!line_is_alive(line, w->now_ns))
        return FM_DROP_EXPIRED;
    if (c->method != FM_IPIP && c->method != (line->method & ~FM_UDP))
        return FM_DROP_ENCAPSULATION;
    if ((c->method & FM_GRE) && !line_takes_key(line, &c->gre))
        return FM_DROP_GRE_KEY;
    return line->flags & FM_LINE_REVERSE ? FM_NONE : FM_DROP_NOT_REVERSE;
}

/* A mobile router behind a foreign agent tunnels twice (RFC 5177 7): inside the tunnel from the
 * care-of address is one from its home address. *number is the line that let the outer one in. */
FM_FN int check_within(const struct fm_worker *w, const struct fm_carried *c, uint32_t *number)
{
    const struct fm_engine *e = w->engine;
    uint32_t head = find_receiver(e, c);
    if (!head)
        return FM_DROP_NO_BINDING;
    if (e->lines[head].home == c->source && e->lines[*number].home == c->source)
        return FM_NONE;
    return check_tunnel(w, head, c, number);
}

/* Is what was carried a tunnel packet to us in its turn? IP in IP only. */
FM_INLINE int is_tunnel_to_us(const struct fm_engine *e, const uint8_t *inner)
{
    return e->role == FM_HOME_AGENT && ipv4_protocol(inner) == PROTO_IPIP &&
           !ipv4_is_fragment(inner) && is_own_address(e, ipv4_destination_be(inner));
}

/* ECN and GRE sequence number of a tunnel packet that its line lets in. */
FM_FN int check_order(struct fm_worker *w, const struct fm_carried *c, uint32_t number)
{
    int verdict = merge_ecn(w, c);
    if (verdict == FM_NONE && c->gre.has_sequence &&
        !gre_is_ahead(&w->engine->lines[number].gre_last, c->gre.sequence))
        verdict = FM_DROP_GRE_SEQUENCE;
    return verdict;
}

/* Everything that may be wrong with a packet of the tunnel side. *number becomes its line;
 * *onward the chain it goes on by when a visitor delivered it. */
FM_FN int check_carried(struct fm_worker *w, const struct fm_desc *d, struct fm_carried *c,
                        uint32_t *number, uint32_t *onward)
{
    struct fm_engine *e = w->engine;
    c->is_opened = (d->done & FM_DONE_ESP) != 0;
    c->bundle = d->line;
    int verdict = carried_open(d->data, c);
    if (verdict == FM_NONE)
        verdict = check_inner(c);
    if (verdict != FM_NONE)
        return verdict;
    if (is_delivered(e, c, onward)) {
        *number = *onward;
        verdict = check_delivered(w, &e->lines[*number], c);
    } else {
        *onward = FM_NO_LINE;
        uint32_t head = find_receiver(e, c);
        verdict = head ? check_tunnel(w, head, c, number) : FM_DROP_NO_BINDING;
        if (verdict == FM_DROP_UDP_PORT)
            verdict = check_half_bound(w, head, c);
    }
    if (verdict == FM_NONE)
        verdict = check_order(w, c, *number);
    while (verdict == FM_NONE && is_tunnel_to_us(e, c->inner)) { /* check_inner bounds the depth */
        verdict = carried_open(c->inner, c);
        if (verdict == FM_NONE)
            verdict = check_inner(c);
        if (verdict == FM_NONE)
            verdict = check_within(w, c, number);
        if (verdict == FM_NONE)
            verdict = check_order(w, c, *number);
    }
    return verdict;
}

/* From a tunnel to the home side, or straight into another tunnel. */
FM_COLD void tunnel_slow(struct fm_worker *w, struct fm_desc *d, struct fm_out *out)
{
    struct fm_engine *e = w->engine;
    struct fm_carried c;
    uint32_t number = FM_NO_LINE, onward = FM_NO_LINE;
    int verdict = ipv4_check(d->data, d->len, d->done & FM_DONE_CHECKSUM);
    if (verdict == FM_NONE) {
        d->len = ipv4_total(d->data);
        if (ipv4_is_fragment(d->data))
            verdict = FM_DROP_OUTER_FRAGMENT;
        else if (ipv4_protocol(d->data) == PROTO_ICMP)
            verdict = tunnel_error(w, d, out);
        else
            verdict = check_carried(w, d, &c, &number, &onward);
    }
    if (verdict != FM_NONE) {
        fm_finish(w, d, verdict, d->len);
        return;
    }
    d->data = c.inner;
    d->len = ipv4_total(c.inner);
    d->line = number;
    w->received[number].packets++;
    w->received[number].bytes += d->len;
    if (e->role != FM_MOBILE_NODE) {
        uint32_t local = e->lines[number].local;
        if (e->role == FM_HOME_AGENT)
            onward = find_binding(e, ipv4_destination_be(c.inner));
        if (onward && chain_is_alive(e, onward, w->now_ns)) { /* no kernel on this path: our TTL */
            if (forward_ttl(w, d, local, out))
                encapsulate_chain(w, d, onward, FM_REENCAPSULATED, out);
            return;
        }
        if (!(d->done & FM_DONE_TTL) && !forward_ttl(w, d, local, out))
            return;
    }
    fm_emit(out, FM_HOME, d);
    fm_finish(w, d, FM_DECAPSULATED, d->len);
}

#endif
