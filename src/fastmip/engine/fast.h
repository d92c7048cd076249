/* The two fast loops. Included once per instruction set (pipeline.h) with
 *   FM_ISA(name)  the name for this set,   FM_TARGET  its function attribute,
 *   FM_FIND(index, key, bucket)  its index search,   FM_IS_OWN(engine, address)  its own-address test.
 *
 * A batch goes through three loops, so that each loop's cache misses overlap:
 *   1 check   headers, key, prefetch of the index bucket
 *   2 lookup  bucket -> line number, prefetch of the line and its tally
 *   3 encapsulate / decapsulate
 * A loop decides "plain or not" with one branch; what is not plain goes to slow.h, which
 * repeats every check in the order of the texts.
 */

FM_TARGET void FM_ISA(home_batch)(struct fm_worker *w, struct fm_desc *batch, uint32_t n,
                                         uint64_t now_ns, struct fm_out *out)
{
    struct fm_engine *e = w->engine;
    const struct fm_line *lines = e->lines;
    struct fm_tally *sent = w->sent;
    uint32_t key[FM_BATCH], bucket[FM_BATCH], number[FM_BATCH];
    const uint32_t off_key = e->role == FM_MOBILE_NODE ? OFF_SOURCE : OFF_DESTINATION;
    uint64_t clock = fm_stage_start(w);

    for (uint32_t i = 0; i < n; i++) {
        const struct fm_desc *d = &batch[i];
        const uint8_t *p = d->data;
        key[i] = FM_NO_KEY;
        if (FM_UNLIKELY(d->len < IPV4_MIN_HEADER_LEN))
            continue;
        uint32_t total = ipv4_total(p), k = load32(p + off_key);
        uint8_t protocol = p[OFF_PROTOCOL];
        int is_plain = (p[0] == 0x45) & (total >= IPV4_MIN_HEADER_LEN) & (total <= d->len) &
                       (ipv4_sum20(p) == 0xffff) & (protocol != PROTO_IPIP) &
                       (protocol != PROTO_GRE) & (protocol != PROTO_MINIMAL);
        bucket[i] = index_bucket(&e->by_home, k);
        __builtin_prefetch(&e->by_home.buckets[bucket[i]]);
        key[i] = is_plain ? k : FM_NO_KEY;
    }
    clock = fm_stage_end(w, FM_STAGE_CHECK, n, clock);

    for (uint32_t i = 0; i < n; i++) {
        number[i] = FM_NO_LINE;
        if (FM_UNLIKELY(key[i] == FM_NO_KEY))
            continue;
        number[i] = FM_FIND(&e->by_home, key[i], bucket[i]);
        __builtin_prefetch(&lines[number[i]]);
        __builtin_prefetch(&sent[number[i]], 1);
    }
    clock = fm_stage_end(w, FM_STAGE_LOOKUP, n, clock);

    uint64_t done_packets = 0, done_bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct fm_desc *d = &batch[i];
        const struct fm_line *line = &lines[number[i]];
        uint8_t *p = d->data;
        if (FM_UNLIKELY(line->home != key[i])) { /* also everything not plain: key 0 */
            home_slow(w, d, out);
            continue;
        }
        uint32_t total = ipv4_total(p), source = ipv4_source_be(p);
        uint32_t budget = line->budget;
        struct fm_soft soft = line_soft(line);
        if (FM_UNLIKELY(soft.budget))
            budget = line_budget(line, soft, now_ns);
        int is_forwarded = !(d->done & FM_DONE_TTL);
        int is_strange = (!(d->done & FM_DONE_MARTIAN)) &
                         (FM_IS_OWN(e, source) | ipv4_is_martian_source(source));
        if (FM_UNLIKELY(is_strange | !line_is_alive(line, now_ns) | (total > budget) |
                        (p[OFF_TTL] <= is_forwarded) | (source == line->remote) |
                        (line->flags & FM_LINE_COPIES) | soft.pending_code)) {
            home_slow(w, d, out);
            continue;
        }
        if (is_forwarded)
            ipv4_decrement_ttl(p);
        ipip_write_outer(p, total, p[OFF_TOS] & line->tos_mask, line->constant_sum, line->ttl,
                         line->local, line->remote);
        sent[number[i]].packets++;
        sent[number[i]].bytes += total;
        d->data = p - IPIP_OVERHEAD;
        d->len = total + IPIP_OVERHEAD;
        d->line = number[i];
        d->verdict = FM_ENCAPSULATED;
        fm_emit(out, FM_TUNNEL, d);
        done_packets++;
        done_bytes += total;
    }
    w->verdicts[FM_ENCAPSULATED].packets += done_packets;
    w->verdicts[FM_ENCAPSULATED].bytes += done_bytes;
    fm_stage_end(w, FM_STAGE_ENCAPSULATE, n, clock);
}

FM_TARGET void FM_ISA(tunnel_batch)(struct fm_worker *w, struct fm_desc *batch, uint32_t n,
                                           uint64_t now_ns, struct fm_out *out)
{
    struct fm_engine *e = w->engine;
    const struct fm_line *lines = e->lines;
    struct fm_tally *received = w->received;
    uint32_t key[FM_BATCH], bucket[FM_BATCH], number[FM_BATCH];
    const int is_home_agent = e->role == FM_HOME_AGENT;
    const uint32_t off_key = 20 + (is_home_agent ? OFF_SOURCE : OFF_DESTINATION);
    const uint32_t lowest = e->lowest_home, span = e->highest_home - lowest;
    const uint8_t flags_needed = is_home_agent ? FM_LINE_REVERSE : 0;
    uint64_t clock = fm_stage_start(w);

    for (uint32_t i = 0; i < n; i++) {
        const struct fm_desc *d = &batch[i];
        const uint8_t *p = d->data, *q = p + 20;
        key[i] = FM_NO_KEY;
        if (FM_UNLIKELY(d->len < 2 * IPV4_MIN_HEADER_LEN))
            continue;
        uint32_t total = ipv4_total(p), inner_total = ipv4_total(q), k = load32(p + off_key);
        int is_plain = (p[0] == 0x45) & (q[0] == 0x45) & (total <= d->len) &
                       (inner_total >= IPV4_MIN_HEADER_LEN) & (inner_total + 20 <= total) &
                       (p[OFF_PROTOCOL] == PROTO_IPIP) & (q[OFF_PROTOCOL] != PROTO_IPIP) &
                       ((load16(p + OFF_FRAGMENT) & 0xff3f) == 0) & (ipv4_sum20(p) == 0xffff) &
                       (ipv4_sum20(q) == 0xffff);
        bucket[i] = index_bucket(&e->by_home, k);
        __builtin_prefetch(&e->by_home.buckets[bucket[i]]);
        key[i] = is_plain ? k : FM_NO_KEY;
    }
    clock = fm_stage_end(w, FM_STAGE_CHECK, n, clock);

    for (uint32_t i = 0; i < n; i++) {
        number[i] = FM_NO_LINE;
        if (FM_UNLIKELY(key[i] == FM_NO_KEY))
            continue;
        number[i] = FM_FIND(&e->by_home, key[i], bucket[i]);
        __builtin_prefetch(&lines[number[i]]);
        __builtin_prefetch(&received[number[i]], 1);
    }
    clock = fm_stage_end(w, FM_STAGE_LOOKUP, n, clock);

    uint64_t done_packets = 0, done_bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct fm_desc *d = &batch[i];
        const struct fm_line *line = &lines[number[i]];
        uint8_t *p = d->data, *q = p + 20;
        if (FM_UNLIKELY(line->home != key[i])) {
            tunnel_slow(w, d, out);
            continue;
        }
        uint32_t total = ipv4_total(q), source = ipv4_source_be(q);
        uint8_t outer_ecn = p[OFF_TOS] & ECN_MASK;
        int is_forwarded = is_home_agent & !(d->done & FM_DONE_TTL);
        /* Destination among the home addresses: perhaps another node away from home. */
        int is_hairpin =
            is_home_agent & (swap32(ipv4_destination_be(q)) - lowest <= span);
        int is_ecn_plain = (outer_ecn == 0) | (outer_ecn == (q[OFF_TOS] & ECN_MASK));
        if (FM_UNLIKELY(is_hairpin | !is_ecn_plain | !line_is_alive(line, now_ns) |
                        (line->remote != ipv4_source_be(p)) |
                        (line->local != ipv4_destination_be(p)) |
                        ((line->flags & flags_needed) != flags_needed) |
                        (line->encapsulation != PROTO_IPIP) | (q[OFF_TTL] <= is_forwarded) |
                        ipv4_is_martian_source(source))) {
            tunnel_slow(w, d, out);
            continue;
        }
        if (is_forwarded)
            ipv4_decrement_ttl(q);
        received[number[i]].packets++;
        received[number[i]].bytes += total;
        d->data = q;
        d->len = total;
        d->line = number[i];
        d->verdict = FM_DECAPSULATED;
        fm_emit(out, FM_HOME, d);
        done_packets++;
        done_bytes += total;
    }
    w->verdicts[FM_DECAPSULATED].packets += done_packets;
    w->verdicts[FM_DECAPSULATED].bytes += done_bytes;
    fm_stage_end(w, FM_STAGE_DECAPSULATE, n, clock);
}

/* Lookup alone, for its benchmark and tests: the loops above without the packets. */
FM_TARGET void FM_ISA(find_batch)(const struct fm_index *x, const uint32_t *key,
                                         uint32_t *number, uint32_t n)
{
    uint32_t bucket[FM_BATCH];
    for (uint32_t i = 0; i < n; i++) {
        bucket[i] = index_bucket(x, key[i]);
        __builtin_prefetch(&x->buckets[bucket[i]]);
    }
    for (uint32_t i = 0; i < n; i++)
        number[i] = FM_FIND(x, key[i], bucket[i]);
}
