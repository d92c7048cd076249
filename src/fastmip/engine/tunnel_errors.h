/* ICMP about outer packets (RFC 2003 4 and 5): validate the quote, keep soft state, relay.
 *
 * Such errors are unauthenticated. Only a quote of a packet we could have sent (our outer
 * source, the peer's outer destination, IPIP; and the inner addresses when they are quoted)
 * is believed; a tunnel MTU is never raised, never below 68, and must be smaller than the
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

/* Line of the tunnel a quoted outer packet went through, or FM_NO_LINE. */
FM_FN uint32_t find_quoted(const struct fm_engine *e, const uint8_t *quote, const uint8_t *inner,
                           uint32_t inner_len)
{
    uint32_t local = ipv4_source_be(quote), remote = ipv4_destination_be(quote), number;
    if (inner_len >= IPV4_MIN_HEADER_LEN) {
        uint32_t key = e->role == FM_HOME_AGENT ? ipv4_destination_be(inner)
                                                : ipv4_source_be(inner);
        number = find_binding(e, key);
        while (number && (e->lines[number].remote != remote || e->lines[number].local != local))
            number = e->lines[number].next;
        return number;
    }
    /* Only eight octets of the payload came back (RFC 792). */
    number = index_find(&e->by_remote, remote);
    if (number && e->lines[number].remote == remote && e->lines[number].local == local)
        return number;
    return FM_NO_LINE;
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
    uint32_t budget = mtu - IPIP_OVERHEAD;
    do {
        was = soft = line_soft(line);
        if (budget > line_budget(line, soft, w->now_ns))
            return 1; /* an old packet's error: we know better already */
        soft.budget = (uint16_t)budget;
        soft.learnt_s = (uint32_t)(w->now_ns / 1000000000u);
    } while (!line_replace_soft(line, was, soft));
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
    if (ipv4_protocol(quote) != PROTO_IPIP)
        return FM_ICMP_IGNORED;
    const uint8_t *inner = quote + ipv4_header_len(quote);
    uint32_t inner_len = quote_len - ipv4_header_len(quote);
    uint32_t number = find_quoted(e, quote, inner, inner_len);
    if (!number)
        return FM_ICMP_UNRELATED;
    struct fm_line *line = &w->engine->lines[number];
    d->line = number;
    if (inner_len >= IPV4_MIN_HEADER_LEN && inner_len > ipv4_total(inner))
        inner_len = ipv4_total(inner); /* behind it: padding and extensions (RFC 4884) */
    int can_relay = inner_len >= IPV4_MIN_HEADER_LEN + 8 && inner[0] >> 4 == 4 &&
                    ipv4_header_len(inner) >= IPV4_MIN_HEADER_LEN &&
                    ipv4_header_len(inner) + 8 <= inner_len;
    if (icmp[0] == ICMP_UNREACHABLE && icmp[1] == ICMP_CODE_TOO_BIG) {
        if (!learn_mtu(w, line, get16(icmp + 6), ipv4_total(quote)))
            return FM_ICMP_UNRELATED;
        if (can_relay && ipv4_is_df(inner))
            answer(w, line->local, ICMP_UNREACHABLE, ICMP_CODE_TOO_BIG,
                   line_budget(line, line_soft(line), w->now_ns), inner, inner_len, out);
        return FM_ICMP_SOFT_STATE;
    }
    if (icmp[0] == ICMP_PARAMETER) { /* 4.5: only about fields copied from the inner header */
        uint32_t pointer = icmp[4];
        if (pointer >= ipv4_header_len(quote))
            pointer -= ipv4_header_len(quote);
        else if (pointer != OFF_TOS)
            return FM_ICMP_NOT_RELAYED;
        if (can_relay)
            answer(w, line->local, ICMP_PARAMETER, 0, pointer << 24, inner, inner_len, out);
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
