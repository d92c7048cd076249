/* Into a tunnel, one packet at a time: everything the fast loop leaves to it, and what our
 * own ICMP errors and copies need. The rules are in ipip.h and icmp.h; here is their order.
 *
 * encapsulate_chain  one packet to every live binding of a node (RFC 5944 4.2.3)
 * encapsulate_one    loop checks, MTU, then the outer header (tunnel.h)
 * encapsulate_fragments  RFC 2003 5.1: cut before encapsulating
 * answer             an ICMP error of ours, by the way its receiver can be reached
 */
#ifndef FASTMIP_ENCAPSULATE_H
#define FASTMIP_ENCAPSULATE_H

#include "esp.h"
#include "icmp.h"
#include "offload.h"
#include "tunnel.h"

/* Line that holds this address: its own binding, or its mobile network's router's. */
FM_FN uint32_t find_binding(const struct fm_engine *e, uint32_t address_be)
{
    uint32_t number = index_find(&e->by_home, address_be);
    if (number && e->lines[number].home == address_be)
        return number;
    if (!__atomic_load_n(&e->prefixes.count, __ATOMIC_RELAXED))
        return FM_NO_LINE;
    uint32_t router = prefixes_find(&e->prefixes, swap32(address_be)), home_be;
    if (!router)
        return FM_NO_LINE;
    number = router_line(&e->prefixes, router, &home_be) & ~FM_ROUTER_NESTED;
    return number && e->lines[number].home == home_be ? number : FM_NO_LINE;
}

/* Does a packet for a mobile network get a header to its router's home address first? So that the
 * foreign agent knows whose it is (RFC 5177 7). */
FM_INLINE int is_for_network_behind(const struct fm_engine *e, const struct fm_line *line,
                                    const uint8_t *p)
{
    return (line->flags & FM_LINE_NESTED) && e->role == FM_HOME_AGENT &&
           ipv4_destination_be(p) != line->home;
}

/* Nest a packet in one from the home agent to the home address: IP in IP (RFC 5944 4.3, 5177 7). */
FM_FN void nest_for_home(struct fm_desc *d, const struct fm_line *line)
{
    uint8_t tos = d->data[OFF_TOS] & line->tos_mask;
    uint32_t sum = ipip_constant_sum(line->local, line->home, 64, PROTO_IPIP);
    uint64_t middle = ipip_constant_middle(line->local, 64, PROTO_IPIP);
    ipip_write_outer(d->data, d->len, tos, sum, middle, line->home);
    d->data -= IPIP_OVERHEAD;
    d->len += IPIP_OVERHEAD;
}

/* The largest inner packet whose outer one has at most `mtu` octets. ESP counts as its bundle sends
 * now. */
FM_FN uint32_t line_fit(const struct fm_engine *e, const struct fm_line *line, uint32_t mtu)
{
    uint32_t overhead = line_overhead(line);
    if (line->method & FM_ESP) {
        const struct esp_bundle *b = &e->esp->bundles[e->esp->line_bundle[line - e->lines]];
        uint32_t sa = __atomic_load_n(&b->out, __ATOMIC_ACQUIRE);
        uint32_t room = mtu < IPV4_MIN_HEADER_LEN ? 0 : mtu - IPV4_MIN_HEADER_LEN;
        mtu = (sa ? esp_fit(&e->esp->sas[sa], room) : room - ESP_OVERHEAD_MAX) +
              IPV4_MIN_HEADER_LEN;
    }
    return mtu > overhead ? mtu - overhead : 0;
}

FM_INLINE int sends_on_head_only(const struct fm_engine *e, const struct fm_line *head)
{
    return e->role != FM_HOME_AGENT || (head->flags & FM_LINE_FIRST_ONLY);
}

/* Can anything be sent on this chain now? */
FM_FN int chain_is_alive(const struct fm_engine *e, uint32_t head, uint64_t now_ns)
{
    for (uint32_t number = head; number; number = e->lines[number].next) {
        if (line_is_alive(&e->lines[number], now_ns))
            return 1;
        if (sends_on_head_only(e, &e->lines[head]))
            return 0;
    }
    return 0;
}

/* Largest inner packet now: as configured, lowered by what ICMP taught recently. */
FM_FN uint32_t line_budget(const struct fm_line *line, struct fm_soft soft, uint64_t now_ns)
{
    if (soft.budget && soft.budget < line->budget &&
        (uint32_t)(now_ns / 1000000000u) - soft.learnt_s < FM_SOFT_LIFE_S)
        return soft.budget;
    return line->budget;
}

FM_FN void answer(struct fm_worker *w, uint32_t source_be, uint8_t type, uint8_t code,
                  uint32_t rest, const uint8_t *about, uint32_t len, struct fm_out *out);

/* Everything in front of a packet. FM_NONE, or why it cannot be sent. */
FM_INLINE int put_outer(struct fm_worker *w, struct fm_desc *d, uint32_t number,
                        struct fm_out *out)
{
    const struct fm_line *line = &w->engine->lines[number];
    uint32_t len = d->len;
    if (is_for_network_behind(w->engine, line, d->data))
        nest_for_home(d, line);
    uint32_t added = outer_write(line, d->data, d->len);
    d->data -= added;
    d->len += added;
    d->line = number;
    if (line->method & FM_ESP) {
        int verdict = esp_wrap_line(w, d, number);
        if (verdict != FM_NONE)
            return verdict;
    }
    w->sent[number].packets++;
    w->sent[number].bytes += len;
    fm_emit(out, FM_TUNNEL, d);
    return FM_NONE;
}

/* Options that belong into every fragment (RFC 791 3.1: copied flag), padded; their length. */
FM_FN uint32_t copied_options(const uint8_t *p, uint32_t header, uint8_t *to)
{
    uint32_t at = IPV4_MIN_HEADER_LEN, kept = 0;
    while (at < header && p[at] != 0) {
        uint32_t len = p[at] == 1 ? 1 : (at + 1 < header ? p[at + 1] : 0);
        if (len == 0 || at + len > header || (len < 2 && p[at] != 1))
            break;
        if (p[at] & 0x80) {
            memcpy(to + kept, p + at, len);
            kept += len;
        }
        at += len;
    }
    while (kept & 3)
        to[kept++] = 0;
    return kept;
}

/* Cut d to the budget and send each piece through the tunnel. Returns the verdict. */
FM_COLD int encapsulate_fragments(struct fm_worker *w, struct fm_desc *d, uint32_t number,
                                  uint32_t budget, struct fm_out *out)
{
    const uint8_t *p = d->data;
    uint8_t options[40];
    uint32_t header = ipv4_header_len(p), later = copied_options(p, header, options);
    if (budget < header + 8)
        return FM_DROP_TOO_BIG;
    uint16_t field = get16(p + OFF_FRAGMENT);
    if ((field & IPV4_OFFSET_MASK) * 8u + d->len - header > 65535)
        return FM_DROP_HEADER; /* ends past any packet: offsets of its pieces would wrap */
    later += IPV4_MIN_HEADER_LEN;
    uint32_t payload = d->len - header, step = (budget - later) & ~7u;
    uint32_t pieces = 2 + payload / step;
    if (pieces > fm_out_room(out, FM_TUNNEL) || pieces > FM_OUT_MAX - w->scratch_descs ||
        (uint64_t)pieces * (FM_HEADROOM_MIN + 20 + budget + FM_SCRATCH_TAIL + 64) >
            FM_SCRATCH_SIZE - w->scratch_used)
        return FM_DROP_BUFFER;
    for (uint32_t at = 0; at < payload;) {
        uint32_t head = at ? later : header, room = (budget - head) & ~7u;
        uint32_t size = payload - at <= budget - head ? payload - at : room;
        struct fm_desc *piece = fm_scratch(w, head + size);
        uint8_t *q = piece->data;
        memcpy(q, p, at ? IPV4_MIN_HEADER_LEN : header);
        if (at)
            memcpy(q + IPV4_MIN_HEADER_LEN, options, later - IPV4_MIN_HEADER_LEN);
        memcpy(q + head, p + header + at, size);
        q[0] = (uint8_t)(0x40 | head / 4);
        put16(q + OFF_TOTAL, (uint16_t)(head + size));
        uint16_t more = at + size < payload ? IPV4_MF : field & IPV4_MF;
        put16(q + OFF_FRAGMENT, (uint16_t)(((field & IPV4_OFFSET_MASK) + at / 8) | more));
        ipv4_set_checksum(q);
        piece->side = d->side;
        piece->verdict = FM_ENCAPSULATED_FRAGMENTS;
        int refused = put_outer(w, piece, number, out);
        if (refused != FM_NONE)
            return refused;
        fm_event(w, FM_EVENT_FRAGMENTS, 1);
        at += size;
    }
    return FM_ENCAPSULATED_FRAGMENTS;
}

/* d is the inner packet, trimmed to its total length, TTL already settled. */
FM_FN void encapsulate_one(struct fm_worker *w, struct fm_desc *d, uint32_t number,
                           int is_intercepted_tunnel, int sent, struct fm_out *out)
{
    struct fm_line *line = &w->engine->lines[number];
    uint32_t total = d->len;
    if (line->flags & FM_LINE_HALF_BOUND) {
        fm_finish(w, d, FM_DROP_HALF_BOUND, total);
        return;
    }
    if (ipv4_source_be(d->data) == line->remote) {
        fm_finish(w, d, is_intercepted_tunnel ? FM_DROP_LOOP_INTERCEPTED : FM_DROP_LOOP_TUNNEL,
                  total);
        return;
    }
    struct fm_soft soft = line_soft(line);
    int is_quiet = d->done & FM_DONE_QUIET;
    if (soft.pending_code && !is_quiet) {
        struct fm_soft told = soft;
        told.pending_code = 0;
        uint32_t age_s = (uint32_t)(w->now_ns / 1000000000u) - soft.learnt_s;
        if (line_replace_soft(line, soft, told)) {
            offload_learn(w->engine, line);
            if (age_s < FM_PENDING_LIFE_S)
                answer(w, line->local, ICMP_UNREACHABLE, (uint8_t)(soft.pending_code - 1), 0,
                       d->data, total, out);
        }
    }
    uint32_t budget = line_budget(line, soft, w->now_ns);
    int is_nested = is_for_network_behind(w->engine, line, d->data);
    if (is_nested)
        budget -= IPIP_OVERHEAD;
    else if (line_falls_back(line, d->data))
        budget -= FM_FALLBACK_OCTETS;
    if (total <= budget) {
        int refused = put_outer(w, d, number, out);
        fm_finish(w, d, refused == FM_NONE ? sent : refused, total);
        return;
    }
    int verdict = FM_DROP_TOO_BIG;
    if (!ipv4_is_df(d->data)) {
        if (line_is_minimal(line) && !is_nested && !line_falls_back(line, d->data))
            budget -= FM_FALLBACK_OCTETS; /* each piece will be a fragment */
        verdict = encapsulate_fragments(w, d, number, budget, out);
    }
    if (verdict == FM_DROP_TOO_BIG && is_quiet)
        fm_event(w, FM_EVENT_ICMP_FORBIDDEN, 1);
    else if (verdict == FM_DROP_TOO_BIG)
        answer(w, line->local, ICMP_UNREACHABLE, ICMP_CODE_TOO_BIG, budget, d->data, total, out);
    fm_finish(w, d, verdict, total);
}

/* Call only when chain_is_alive. */
FM_FN void encapsulate_chain(struct fm_worker *w, struct fm_desc *d, uint32_t head, int sent,
                             struct fm_out *out)
{
    struct fm_engine *e = w->engine;
    const uint8_t *inner = d->data;
    uint8_t header[60]; /* minimal encapsulation of the first overwrites it */
    uint32_t total = d->len, header_len = ipv4_header_len(inner);
    int is_tunnel = 0, is_first = 1;
    memcpy(header, inner, header_len);
    uint8_t protocol = ipv4_protocol(inner);
    if (protocol == PROTO_IPIP || protocol == PROTO_GRE || protocol == PROTO_MINIMAL) {
        if (tunnel_nesting(inner) >= IPIP_NESTING_MAX) {
            fm_finish(w, d, FM_DROP_NESTING, total);
            return;
        }
        is_tunnel = tunnel_inner_destination_be(inner) == ipv4_destination_be(inner);
    }
    for (uint32_t number = head; number; number = e->lines[number].next) {
        if (!line_is_alive(&e->lines[number], w->now_ns)) {
            if (sends_on_head_only(e, &e->lines[head]))
                break;
            continue;
        }
        if (is_first) {
            encapsulate_one(w, d, number, is_tunnel, sent, out);
            is_first = 0;
        } else {
            struct fm_desc *copy = (struct fm_desc *)0;
            if (fm_out_room(out, FM_TUNNEL))
                copy = fm_scratch(w, total);
            w->copies++;
            if (!copy) {
                struct fm_desc lost;
                fm_finish(w, &lost, FM_DROP_BUFFER, total);
                continue;
            }
            memcpy(copy->data, header, header_len);
            memcpy(copy->data + header_len, inner + header_len, total - header_len);
            copy->side = d->side;
            copy->done = d->done;
            encapsulate_one(w, copy, number, is_tunnel, FM_ENCAPSULATED_COPY, out);
        }
        if (sends_on_head_only(e, &e->lines[head]))
            break;
    }
    if (is_first) /* expired between the caller's look and ours */
        fm_finish(w, d, FM_DROP_EXPIRED, total);
}

/* Send an ICMP error about `about` (header complete in len octets) to its source: through
 * its tunnel when it is a node away from home, to the home side otherwise. */
FM_FN void answer(struct fm_worker *w, uint32_t source_be, uint8_t type, uint8_t code,
                  uint32_t rest, const uint8_t *about, uint32_t len, struct fm_out *out)
{
    if (!icmp_may_answer(about, len)) {
        fm_event(w, FM_EVENT_ICMP_FORBIDDEN, 1);
        return;
    }
    struct fm_desc *d = (struct fm_desc *)0;
    if (fm_out_room(out, FM_HOME) && fm_out_room(out, FM_TUNNEL) &&
        icmp_take_token(w, w->now_ns))
        d = icmp_build(w, source_be, type, code, rest, about, len);
    if (!d) {
        fm_event(w, FM_EVENT_ICMP_SUPPRESSED, 1);
        return;
    }
    w->generated++;
    if (w->engine->role == FM_HOME_AGENT) {
        uint32_t head = find_binding(w->engine, ipv4_destination_be(d->data));
        if (head && chain_is_alive(w->engine, head, w->now_ns)) {
            encapsulate_chain(w, d, head, FM_ICMP_TUNNELLED, out);
            return;
        }
    }
    fm_emit(out, FM_HOME, d);
    fm_finish(w, d, FM_ICMP_SENT, d->len);
}

#endif
