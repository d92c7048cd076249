/* ICMP about outer packets (RFC 2003 4 and 5): validate the quote, keep soft state, relay.
 *
 * Such errors are unauthenticated. Only a quote of a packet we could have sent (our outer
 * source, the peer's outer destination, the tunnel's encapsulation and ports; and the inner
 * addresses when they are quoted) is believed; a tunnel MTU is never raised, never below 68, and must be smaller than the
 * packet it complains about. Relayed errors share the rate limit of all our errors.
 */
#ifndef FASTMIP_TUNNEL_ERRORS_H
#define FASTMIP_TUNNEL_ERRORS_H

#include "encapsulate.h"

#define MTU_MIN 68u

/* RFC 1191 7.1: the largest plateau below a packet that was too big. */
FM_FN uint32_t mtu_plateau_below(uint32_t total)
{
    static const uint16_t plateaus[] = {65535, 32000, 17914, 8166, 4352, 2002,
                                        1492,  1006,  508,   296,  68};
    for (unsigned i = 0; i < sizeof plateaus / sizeof plateaus[0]; i++)
        if (plateaus[i] < total)
            return plateaus[i];
    return MTU_MIN;
}

/* What a router quoted of an outer packet of ours. */
struct fm_quote {
    const uint8_t *outer;
    const uint8_t *inner;  /* header of what was inside, as far as it can be told */
    uint32_t inner_len;    /* octets of it; 0 when too little was quoted */
    uint32_t total;        /* of the outer packet */
    uint32_t ports;        /* udp_ports_to_us, 0 without UDP */
    uint32_t moved;        /* octets between a place in the payload outside and inside */
    uint8_t method;        /* enum fm_method */
    uint8_t is_method_cut; /* UDP, but what is inside was not quoted */
    uint8_t restored[ICMP_ERROR_MAX];
};

/* Minimal encapsulation: put the inner header together again. m lies in the quote. */
FM_FN void quote_restore(struct fm_quote *q, const uint8_t *m, uint32_t m_len)
{
    uint32_t header = ipv4_header_len(q->outer), shim = (uint32_t)(m - q->outer) - header;
    if (m_len < MINIMAL_SHORT_LEN || m_len < minimal_len(m))
        return;
    uint32_t size = minimal_len(m), payload = m_len - size;
    if (payload > ICMP_ERROR_MAX - header)
        payload = ICMP_ERROR_MAX - header;
    memcpy(q->restored + header, m + size, payload);
    struct minimal_fields f = {
        q->total - shim - size,
        minimal_has_source(m) ? minimal_source_be(m) : ipv4_source_be(q->outer),
        minimal_destination_be(m), minimal_protocol(m), 0};
    minimal_header(q->restored, q->outer, header, &f);
    q->inner = q->restored;
    q->inner_len = header + payload;
    q->moved = shim + size;
}

/* Read `len` octets quoted of an outer packet whose IPv4 header is whole; false when it is none
 * that we send. */
FM_FN int quote_open(struct fm_quote *q, const uint8_t *quote, uint32_t len)
{
    uint32_t at = ipv4_header_len(quote);
    uint8_t protocol = ipv4_protocol(quote);
    q->outer = q->inner = quote;
    q->total = ipv4_total(quote);
    q->inner_len = q->ports = q->moved = 0;
    q->method = FM_IPIP;
    q->is_method_cut = 0;
    if (protocol == PROTO_UDP) {
        q->method = FM_UDP;
        q->ports = udp_ports_swapped(load32(quote + at));
        if (at + UDP_SHIM_LEN > len) { /* its tunnel is known by the ports */
            q->is_method_cut = 1;
            return 1;
        }
        if (quote[at + UDP_HEADER_LEN] != MIP_TUNNEL_DATA)
            return 0;
        protocol = quote[at + UDP_HEADER_LEN + 1];
        at += UDP_SHIM_LEN;
    }
    if (protocol == PROTO_GRE) {
        q->method |= FM_GRE;
        if (at + GRE_HEADER_LEN > len)
            return 1;
        at += load32(quote + at) == GRE_KEY_WORD ? 8 : 4;
    } else if (protocol == PROTO_MINIMAL) {
        q->method |= FM_MINIMAL;
        if (at < len && !(get16(quote + OFF_FRAGMENT) & IPV4_OFFSET_MASK))
            quote_restore(q, quote + at, len - at);
        return 1;
    } else if (protocol != PROTO_IPIP) {
        return 0;
    }
    if (at < len) {
        q->inner = quote + at;
        q->inner_len = len - at;
    }
    q->moved = at;
    return 1;
}

FM_INLINE int line_sent(const struct fm_line *line, const struct fm_quote *q)
{
    return line->remote == ipv4_destination_be(q->outer) &&
           line->local == ipv4_source_be(q->outer) && line->ports == q->ports &&
           (q->is_method_cut ? line->method & FM_UDP : line_uses(line, q->method));
}

/* Line of the tunnel a quoted outer packet went through, or FM_NO_LINE. */
FM_FN uint32_t find_quoted(const struct fm_engine *e, const struct fm_quote *q)
{
    uint32_t number;
    if (q->inner_len >= IPV4_MIN_HEADER_LEN) {
        uint32_t key = e->role == FM_HOME_AGENT ? ipv4_destination_be(q->inner)
                                                : ipv4_source_be(q->inner);
        number = find_binding(e, key);
        while (number && !line_sent(&e->lines[number], q))
            number = e->lines[number].next;
        return number;
    }
    /* Only eight octets of the payload came back (RFC 792). */
    number = index_find(&e->by_remote, ipv4_destination_be(q->outer));
    return number && line_sent(&e->lines[number], q) ? number : FM_NO_LINE;
}

/* Behind the header to a router's home address stands the sender's (RFC 5177 7): look there.
 * Octets passed over. */
FM_FN uint32_t quote_unnest(const struct fm_engine *e, const struct fm_line *line,
                            struct fm_quote *q)
{
    if (e->role != FM_HOME_AGENT || !(line->flags & FM_LINE_NESTED) ||
        q->inner_len < 2 * IPV4_MIN_HEADER_LEN || q->inner[0] != 0x45 ||
        ipv4_protocol(q->inner) != PROTO_IPIP || ipv4_source_be(q->inner) != line->local ||
        ipv4_destination_be(q->inner) != line->home)
        return 0;
    q->inner += IPIP_OVERHEAD;
    q->inner_len -= IPIP_OVERHEAD;
    q->moved += IPIP_OVERHEAD;
    return IPIP_OVERHEAD;
}

/* RFC 2003 4.1-4.4: code of the destination unreachable an inner source hears; -1 none. */
FM_FN int relayed_code(int role, uint8_t type, uint8_t code)
{
    if (type == ICMP_TIME_EXCEEDED)
        return ICMP_CODE_HOST; /* 4.4: MUST be host unreachable */
    if (type != ICMP_UNREACHABLE || code == ICMP_CODE_PORT || code == ICMP_CODE_SOURCE_ROUTE)
        return -1;
    if (code == ICMP_CODE_NET) /* 4.1: the node's home network is the home agent's own */
        return role == FM_HOME_AGENT ? ICMP_CODE_HOST : ICMP_CODE_NET;
    return ICMP_CODE_HOST;
}

FM_FN int learn_mtu(struct fm_worker *w, struct fm_line *line, uint32_t mtu, uint32_t quoted)
{
    if (mtu == 0)
        mtu = mtu_plateau_below(quoted);
    if (mtu >= quoted)
        return 0;
    if (mtu < MTU_MIN)
        mtu = MTU_MIN;
    struct fm_soft was, soft;
    uint32_t budget = line_fit(w->engine, line, mtu);
    do {
        was = soft = line_soft(line);
        if (budget > line_budget(line, soft, w->now_ns))
            return 1; /* an old packet's error: we know better already */
        soft.budget = (uint16_t)budget;
        soft.learnt_s = (uint32_t)(w->now_ns / 1000000000u);
    } while (!line_replace_soft(line, was, soft));
    offload_learn(w->engine, line);
    fm_event(w, FM_EVENT_MTU_LEARNT, 1);
    return 1;
}

/* `code` as reported; pending_code is what the next inner source hears, plus 1, or 0. */
FM_FN void learn_unreachable(struct fm_worker *w, struct fm_line *line, uint8_t code,
                             uint8_t pending_code)
{
    struct fm_soft was, soft;
    do {
        was = soft = line_soft(line);
        soft.unreachable = (uint8_t)(code + 1);
        soft.learnt_s = (uint32_t)(w->now_ns / 1000000000u);
        soft.pending_code = pending_code;
    } while (!line_replace_soft(line, was, soft));
    offload_learn(w->engine, line);
    fm_event(w, FM_EVENT_UNREACHABLE_LEARNT, 1);
}

/* Our own kernel refused to send outer packet d: as if a router had told us with a quote too
 * short to relay (RFC 2003 5), the next inner source is answered. `mtu` is the path's, 0 when
 * not known. A mobile node's own programs hear of size only: links come and go there. */
FM_COLD void tunnel_refused(struct fm_worker *w, const struct fm_desc *d, int is_too_big,
                            uint32_t mtu)
{
    struct fm_line *line = &w->engine->lines[d->line];
    if (is_too_big)
        (void)learn_mtu(w, line, mtu < d->len ? mtu : 0, d->len);
    else if (w->engine->role == FM_HOME_AGENT)
        learn_unreachable(w, line, ICMP_CODE_HOST, ICMP_CODE_HOST + 1);
}

/* RFC 2003 4.5: where in the inner packet a pointer into the outer one points, when it points to
 * something copied from there; -1 otherwise. */
FM_FN int32_t inner_pointer(const struct fm_quote *q, uint32_t pointer)
{
    uint32_t header = ipv4_header_len(q->outer);
    if (!(q->method & FM_MINIMAL)) {
        if (pointer >= q->moved)
            return (int32_t)(pointer - q->moved);
        return pointer == OFF_TOS ? OFF_TOS : -1;
    }
    /* One header: all of it but length, protocol, checksum and addresses is the sender's. */
    if (pointer >= header + q->moved)
        return (int32_t)(pointer - q->moved);
    int is_ours = pointer == OFF_TOTAL || pointer == OFF_TOTAL + 1 ||
                  (pointer >= OFF_PROTOCOL && pointer < IPV4_MIN_HEADER_LEN);
    return is_ours || pointer >= header ? -1 : (int32_t)pointer;
}

/* d is an ICMP packet to one of our addresses; its IPv4 header has passed ipv4_check. */
FM_COLD int tunnel_error(struct fm_worker *w, struct fm_desc *d, struct fm_out *out)
{
    const struct fm_engine *e = w->engine;
    const uint8_t *icmp = d->data + ipv4_header_len(d->data);
    uint32_t len = ipv4_total(d->data) - ipv4_header_len(d->data);
    if (len < ICMP_HEADER_LEN)
        return FM_ICMP_MALFORMED;
    if (!icmp_is_error(icmp[0]))
        return FM_ICMP_IGNORED;
    const uint8_t *quote = icmp + ICMP_HEADER_LEN;
    uint32_t quote_len = len - ICMP_HEADER_LEN;
    if (sum_octets(icmp, len) != 0xffff || quote_len < IPV4_MIN_HEADER_LEN ||
        quote[0] >> 4 != 4 || ipv4_header_len(quote) < IPV4_MIN_HEADER_LEN ||
        ipv4_header_len(quote) + 8 > quote_len)
        return FM_ICMP_MALFORMED;
    struct fm_quote q;
    if (!quote_open(&q, quote, quote_len))
        return FM_ICMP_IGNORED;
    uint32_t number = find_quoted(e, &q);
    if (!number) /* about UDP: perhaps one of the control plane's datagrams */
        return q.method & FM_UDP ? FM_ICMP_IGNORED : FM_ICMP_UNRELATED;
    struct fm_line *line = &w->engine->lines[number];
    uint32_t nested = quote_unnest(e, line, &q);
    const uint8_t *inner = q.inner;
    uint32_t inner_len = q.inner_len;
    d->line = number;
    if (inner_len >= IPV4_MIN_HEADER_LEN && inner_len > ipv4_total(inner))
        inner_len = ipv4_total(inner); /* behind it: padding and extensions (RFC 4884) */
    int can_relay = inner_len >= IPV4_MIN_HEADER_LEN + 8 && inner[0] >> 4 == 4 &&
                    ipv4_header_len(inner) >= IPV4_MIN_HEADER_LEN &&
                    ipv4_header_len(inner) + 8 <= inner_len;
    if (icmp[0] == ICMP_UNREACHABLE && icmp[1] == ICMP_CODE_TOO_BIG) {
        if (!learn_mtu(w, line, get16(icmp + 6), q.total))
            return FM_ICMP_UNRELATED;
        if (can_relay && ipv4_is_df(inner))
            answer(w, line->local, ICMP_UNREACHABLE, ICMP_CODE_TOO_BIG,
                   line_budget(line, line_soft(line), w->now_ns) - nested, inner, inner_len, out);
        return FM_ICMP_SOFT_STATE;
    }
    if (icmp[0] == ICMP_PARAMETER) { /* 4.5: only about fields copied from the inner header */
        int32_t pointer = inner_pointer(&q, icmp[4]);
        if (pointer < 0)
            return FM_ICMP_NOT_RELAYED;
        if (can_relay)
            answer(w, line->local, ICMP_PARAMETER, 0, (uint32_t)pointer << 24, inner, inner_len,
                   out);
        return FM_ICMP_SOFT_STATE;
    }
    if (icmp[0] == ICMP_TIME_EXCEEDED && (q.method & FM_MINIMAL)) {
        /* The TTL is the sender's own, and hops inside are to be seen (RFC 2004 3). */
        if (!can_relay)
            return FM_ICMP_NOT_RELAYED;
        answer(w, line->local, ICMP_TIME_EXCEEDED, icmp[1], 0, inner, inner_len, out);
        return FM_ICMP_RELAYED;
    }
    if ((q.method & FM_UDP) && icmp[0] == ICMP_UNREACHABLE && icmp[1] == ICMP_CODE_PORT) {
        learn_unreachable(w, line, icmp[1], 0); /* the port is the tunnel's, not the sender's */
        return FM_ICMP_SOFT_STATE;
    }
    int code = relayed_code(e->role, icmp[0], icmp[1]);
    if (code < 0)
        return FM_ICMP_NOT_RELAYED;
    learn_unreachable(w, line, icmp[1], can_relay ? 0 : (uint8_t)(code + 1));
    if (can_relay)
        answer(w, line->local, ICMP_UNREACHABLE, (uint8_t)code, 0, inner, inner_len, out);
    return FM_ICMP_SOFT_STATE;
}

#endif
