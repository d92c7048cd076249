/* The two fast loops. Included once per instruction set (pipeline.h) with
 *   FM_ISA(name)  the name for this set,   FM_TARGET  its function attribute,
 *   FM_FIND(index, key, bucket)  its index search,
 *   FM_OWN_SET, FM_OWN_LOAD(engine), FM_IS_OWN(engine, set, address)  its own-address test.
 *
 * A batch goes through three loops, so that each loop's cache misses overlap:
 *   1 check   headers, key, prefetch of the index bucket
 *   2 lookup  bucket -> line number, prefetch of the line and its tally
 *   3 encapsulate / decapsulate
 * A loop decides "plain or not" with one branch; what is not plain goes to slow.h, which
 * repeats every check in the order of the texts.
 */

/* Batches while there are mobile networks are looked up differently: what may only lie in a prefix is
 * not asked of the index first. `networks` is a constant, so that other batches know nothing of it;
 * FM_BY_PREFIX stands for a bucket of such packets. */

FM_TARGET FM_ALWAYS uint32_t FM_ISA(bucket_of)(const struct fm_engine *e, uint32_t key,
                                               const int networks)
{
    if (networks && prefixes_are_alone(&e->prefixes, swap32(key))) {
        __builtin_prefetch(&e->prefixes.entry[swap32(key) >> 8]);
        return FM_BY_PREFIX;
    }
    uint32_t bucket = index_bucket(&e->by_home, key);
    __builtin_prefetch(&e->by_home.buckets[bucket]);
    return bucket;
}

/* Lines of keys, in place of the index alone. Keys that lie in a prefix become their router's home
 * address; `bucket` is used up. */
FM_TARGET FM_NOINLINE void FM_ISA(find_with_networks)(const struct fm_engine *e, uint32_t *key,
                                                      uint32_t *bucket, uint32_t *number,
                                                      uint32_t n)
{
    const struct fm_prefixes *t = &e->prefixes;
    for (uint32_t i = 0; i < n; i++) {
        number[i] = FM_NO_LINE;
        if (FM_UNLIKELY(key[i] == FM_NO_KEY)) {
            bucket[i] = 0;
            continue;
        }
        uint32_t router = 0;
        if (bucket[i] == FM_BY_PREFIX) {
            router = prefixes_find(t, swap32(key[i]));
        } else {
            number[i] = FM_FIND(&e->by_home, key[i], bucket[i]);
            if (number[i] == FM_NO_LINE && prefixes_may_hold(t, swap32(key[i])))
                router = prefixes_find(t, swap32(key[i]));
        }
        bucket[i] = router;
        __builtin_prefetch(&t->routers[router]);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t home;
        if (!bucket[i])
            continue;
        number[i] = router_line(t, bucket[i], &home);
        if (number[i])
            key[i] = home;
    }
}

FM_TARGET FM_ALWAYS void FM_ISA(home_loops)(struct fm_worker *w, struct fm_desc *batch, uint32_t n,
                                            uint64_t now_ns, struct fm_out *out,
                                            const int networks)
{
    struct fm_engine *e = w->engine;
    const struct fm_line *lines = e->lines;
    struct fm_tally *sent = w->sent;
    uint32_t key[FM_BATCH], bucket[FM_BATCH], number[FM_BATCH];
    const uint32_t off_key = e->role == FM_HOME_AGENT ? OFF_DESTINATION : OFF_SOURCE;
    uint64_t clock = fm_stage_start(w);

    for (uint32_t i = 0; i < n; i++) {
        const struct fm_desc *d = &batch[i];
        const uint8_t *p = d->data;
        key[i] = FM_NO_KEY;
        if (FM_UNLIKELY(d->len < IPV4_MIN_HEADER_LEN))
            continue;
        uint32_t k = load32(p + off_key);
        /* Carriers of other packets need the loop rules; the shift takes protocols modulo 64,
         * which sends three more to the slow path. */
        int is_plain = (p[0] == 0x45) & (ipv4_total(p) - 20 <= d->len - 20) &
                       !(FM_TUNNEL_PROTOCOLS >> (p[OFF_PROTOCOL] & 63) & 1) &
                       ipv4_sum20_is_right(p);
        bucket[i] = FM_ISA(bucket_of)(e, k, networks);
        key[i] = is_plain ? k : FM_NO_KEY;
    }
    clock = fm_stage_end(w, FM_STAGE_CHECK, n, clock);

    if (networks)
        FM_ISA(find_with_networks)(e, key, bucket, number, n);
    for (uint32_t i = 0; i < n; i++) {
        if (networks) {
            if (number[i] & FM_ROUTER_NESTED) { /* a header more: slow.h's */
                number[i] = FM_NO_LINE;
                key[i] = FM_NO_KEY;
            }
        } else {
            number[i] = FM_NO_LINE;
            if (FM_UNLIKELY(key[i] == FM_NO_KEY))
                continue;
            number[i] = FM_FIND(&e->by_home, key[i], bucket[i]);
        }
        __builtin_prefetch(&lines[number[i]]);
        __builtin_prefetch(&sent[number[i]], 1);
    }
    clock = fm_stage_end(w, FM_STAGE_LOOKUP, n, clock);

    const FM_OWN_SET own = FM_OWN_LOAD(e);
    struct fm_desc **left = out->packets[FM_TUNNEL];
    uint32_t count = out->count[FM_TUNNEL], slow = 0;
    uint64_t done_bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct fm_desc *d = &batch[i];
        const struct fm_line *line = &lines[number[i]];
        uint8_t *p = d->data;
        /* What is not plain has key 0, perhaps no header at all, and no line has that home. */
        if (FM_UNLIKELY(line->home != key[i]))
            goto not_plain;
        uint32_t total = ipv4_total(p), source = ipv4_source_be(p), budget = line->plain_budget;
        uint32_t undone = ~(uint32_t)d->done, is_forwarded = undone & FM_DONE_TTL;
        if (FM_UNLIKELY(__atomic_load_n(&line->soft, __ATOMIC_RELAXED) != 0))
            budget = plain_budget(line, now_ns);
        uint32_t is_strange =
            (FM_IS_OWN(e, own, source) | is_martian_octet[source & 0xff]) & undone / FM_DONE_MARTIAN;
        uint32_t is_refused = is_strange | !line_is_alive(line, now_ns) |
                              (p[OFF_TTL] <= is_forwarded) | (source == line->remote);
        if (FM_UNLIKELY(is_refused | (total > budget))) {
            if (FM_LIKELY(!is_refused && total <= other_budget(e, line, p, now_ns))) {
                uint32_t added =
                    networks ? outer_write_apart(line, p, total, (uint8_t)is_forwarded)
                             : outer_write_plain(line, p, total, (uint8_t)is_forwarded);
                tally_add(&sent[number[i]], total);
                desc_became(d, p - added, total + added, number[i], FM_ENCAPSULATED);
                left[count++] = d;
                done_bytes += total;
                continue;
            }
        not_plain:
            out->count[FM_TUNNEL] = count;
            home_slow(w, d, out);
            count = out->count[FM_TUNNEL];
            slow++;
            continue;
        }
        if (is_forwarded)
            ipv4_decrement_ttl(p);
        ipip_write_outer(p, total, p[OFF_TOS] & line->tos_mask, line->constant_sum, line->outer,
                         line->remote);
        tally_add(&sent[number[i]], total);
        desc_became(d, p - IPIP_OVERHEAD, total + IPIP_OVERHEAD, number[i], FM_ENCAPSULATED);
        left[count++] = d;
        done_bytes += total;
    }
    out->count[FM_TUNNEL] = count;
    w->verdicts[FM_ENCAPSULATED].packets += n - slow;
    w->verdicts[FM_ENCAPSULATED].bytes += done_bytes;
    fm_stage_end(w, FM_STAGE_ENCAPSULATE, n, clock);
}

FM_TARGET FM_NOINLINE void FM_ISA(home_batch_networks)(struct fm_worker *w, struct fm_desc *batch,
                                                       uint32_t n, uint64_t now_ns,
                                                       struct fm_out *out)
{
    FM_ISA(home_loops)(w, batch, n, now_ns, out, 1);
}

FM_TARGET void FM_ISA(home_batch)(struct fm_worker *w, struct fm_desc *batch, uint32_t n,
                                         uint64_t now_ns, struct fm_out *out)
{
    if (FM_UNLIKELY(__atomic_load_n(&w->engine->prefixes.count, __ATOMIC_RELAXED) != 0))
        FM_ISA(home_batch_networks)(w, batch, n, now_ns, out);
    else
        FM_ISA(home_loops)(w, batch, n, now_ns, out, 0);
}

/* The same for tunnel packets. What goes on into a mobile network, perhaps through another tunnel, is
 * left to slow.h. */
FM_TARGET FM_NOINLINE void FM_ISA(find_of_networks)(const struct fm_engine *e,
                                                    const struct fm_desc *batch,
                                                    const struct fm_shape *shape, uint32_t *key,
                                                    uint32_t *other_key, uint32_t *bucket,
                                                    uint32_t *number, uint32_t n)
{
    const struct fm_prefixes *t = &e->prefixes;
    uint32_t both[FM_BATCH], into[FM_BATCH], address[FM_BATCH], count = 0;
    for (uint32_t i = 0; i < n; i++) {
        both[i] = key[i] != FM_NO_KEY ? key[i] : other_key[i];
        if (both[i] == FM_NO_KEY || e->role != FM_HOME_AGENT)
            continue;
        uint32_t to = swap32(key[i] != FM_NO_KEY
                                 ? ipv4_destination_be(batch[i].data + IPIP_OVERHEAD)
                                 : shape_destination_be(&batch[i], &shape[i]));
        if (prefixes_may_hold(t, to)) {
            __builtin_prefetch(&t->entry[to >> 8]);
            into[count] = i;
            address[count++] = to;
        }
    }
    FM_ISA(find_with_networks)(e, both, bucket, number, n);
    for (uint32_t i = 0; i < n; i++) {
        number[i] &= ~FM_ROUTER_NESTED;
        if (key[i] != FM_NO_KEY)
            key[i] = both[i];
        else
            other_key[i] = both[i];
    }
    for (uint32_t j = 0; j < count; j++)
        if (prefixes_find(t, address[j]))
            key[into[j]] = other_key[into[j]] = FM_NO_KEY;
}

FM_TARGET FM_ALWAYS void FM_ISA(tunnel_loops)(struct fm_worker *w, struct fm_desc *batch,
                                              uint32_t n, uint64_t now_ns, struct fm_out *out,
                                              const int networks)
{
    struct fm_engine *e = w->engine;
    const struct fm_line *lines = e->lines;
    struct fm_tally *received = w->received;
    uint32_t key[FM_BATCH], bucket[FM_BATCH], number[FM_BATCH];
    uint32_t other_key[FM_BATCH]; /* where key is FM_NO_KEY: of other encapsulations */
    struct fm_shape shape[FM_BATCH];
    const uint32_t is_home_agent = e->role == FM_HOME_AGENT; /* 1, FM_DONE_TTL, for masks */
    const uint32_t is_router = e->role != FM_MOBILE_NODE;    /* the same */
    const uint32_t off_key = 20 + (is_home_agent ? OFF_SOURCE : OFF_DESTINATION);
    const uint32_t lowest = e->lowest_home, span = e->highest_home - lowest;
    const uint8_t flags_needed = FM_LINE_IPIP | (is_home_agent ? FM_LINE_REVERSE : 0);
    uint64_t clock = fm_stage_start(w);

    for (uint32_t i = 0; i < n; i++) {
        const struct fm_desc *d = &batch[i];
        const uint8_t *p = d->data, *q = p + 20;
        if (FM_UNLIKELY(d->len < 2 * IPV4_MIN_HEADER_LEN)) {
            key[i] = other_key[i] = FM_NO_KEY;
            continue;
        }
        uint32_t total = ipv4_total(p), k = load32(p + off_key);
        /* Outer: version and IHL, no fragment, IPIP; then lengths, checksums. */
        int is_outer_right = ipv4_sum20_is_right(p);
        int is_plain = ((load64(p) & 0xff3f0000000000ffu) == 0x45) & (p[OFF_PROTOCOL] == PROTO_IPIP) &
                       (q[0] == 0x45) & (q[OFF_PROTOCOL] != PROTO_IPIP) &
                       (total - 40 <= d->len - 40) & (ipv4_total(q) - 20 <= total - 40) &
                       is_outer_right & ipv4_sum20_is_right(q);
        if (FM_UNLIKELY(!is_plain)) {
            k = other_key[i] = shape_read(d, &shape[i], is_home_agent, is_outer_right);
            key[i] = FM_NO_KEY;
        } else {
            key[i] = k;
        }
        bucket[i] = FM_ISA(bucket_of)(e, k, networks);
    }
    clock = fm_stage_end(w, FM_STAGE_CHECK, n, clock);

    if (networks)
        FM_ISA(find_of_networks)(e, batch, shape, key, other_key, bucket, number, n);
    for (uint32_t i = 0; i < n; i++) {
        if (!networks) {
            uint32_t k = key[i];
            number[i] = FM_NO_LINE;
            if (FM_UNLIKELY(k == FM_NO_KEY) && (k = other_key[i]) == FM_NO_KEY)
                continue;
            number[i] = FM_FIND(&e->by_home, k, bucket[i]);
        }
        __builtin_prefetch(&lines[number[i]]);
        __builtin_prefetch(&received[number[i]], 1);
    }
    clock = fm_stage_end(w, FM_STAGE_LOOKUP, n, clock);

    struct fm_desc **left = out->packets[FM_HOME];
    uint32_t count = out->count[FM_HOME], slow = 0;
    uint64_t done_bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct fm_desc *d = &batch[i];
        const struct fm_line *line = &lines[number[i]];
        uint8_t *p = d->data, *q = p + 20;
        if (FM_UNLIKELY(line->home != key[i]))
            goto not_plain;
        uint32_t total = ipv4_total(q), source = ipv4_source_be(q);
        uint32_t outer_ecn = p[OFF_TOS] & ECN_MASK;
        uint32_t is_forwarded = is_router & ~(uint32_t)d->done;
        /* Destination among the home addresses: perhaps another node away from home. */
        uint32_t is_hairpin = is_home_agent & (swap32(ipv4_destination_be(q)) - lowest <= span);
        uint32_t is_ecn_merged = (outer_ecn != 0) & (((p[OFF_TOS] ^ q[OFF_TOS]) & ECN_MASK) != 0);
        if (FM_UNLIKELY(is_hairpin | is_ecn_merged | !line_is_alive(line, now_ns) |
                        (load64(&line->remote) != load64(p + OFF_SOURCE)) |
                        ((line->flags & flags_needed) != flags_needed) |
                        (q[OFF_TTL] <= is_forwarded) | is_martian_octet[source & 0xff])) {
        not_plain:
            if (key[i] == FM_NO_KEY && line->home == other_key[i]) {
                uint32_t total = shape_open(e, d, line, &shape[i], now_ns);
                if (FM_LIKELY(total)) {
                    tally_add(&received[number[i]], total);
                    desc_became(d, d->data, total, number[i], FM_DECAPSULATED);
                    left[count++] = d;
                    done_bytes += total;
                    continue;
                }
            }
            out->count[FM_HOME] = count;
            tunnel_slow(w, d, out);
            count = out->count[FM_HOME];
            slow++;
            continue;
        }
        if (is_forwarded)
            ipv4_decrement_ttl(q);
        tally_add(&received[number[i]], total);
        desc_became(d, q, total, number[i], FM_DECAPSULATED);
        left[count++] = d;
        done_bytes += total;
    }
    out->count[FM_HOME] = count;
    w->verdicts[FM_DECAPSULATED].packets += n - slow;
    w->verdicts[FM_DECAPSULATED].bytes += done_bytes;
    fm_stage_end(w, FM_STAGE_DECAPSULATE, n, clock);
}

FM_TARGET FM_NOINLINE void FM_ISA(tunnel_batch_networks)(struct fm_worker *w,
                                                         struct fm_desc *batch, uint32_t n,
                                                         uint64_t now_ns, struct fm_out *out)
{
    FM_ISA(tunnel_loops)(w, batch, n, now_ns, out, 1);
}

FM_TARGET void FM_ISA(tunnel_batch)(struct fm_worker *w, struct fm_desc *batch, uint32_t n,
                                           uint64_t now_ns, struct fm_out *out)
{
    if (FM_UNLIKELY(__atomic_load_n(&w->engine->prefixes.count, __ATOMIC_RELAXED) != 0))
        FM_ISA(tunnel_batch_networks)(w, batch, n, now_ns, out);
    else
        FM_ISA(tunnel_loops)(w, batch, n, now_ns, out, 0);
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
