/* ESP (RFC 4303) around a line's tunnel packets, and out of it again.
 *
 * Out: the loops write headers, padding and trailer where they stand (esp_wrap); what is to be
 * encrypted is collected, and goes through the provider in one burst (esp_seal) before the batch is
 * handed to its port. In: esp_tunnel_batch runs before the loops. It opens what is ESP in one burst
 * and leaves each packet as if it had never been ESP, marked with its bundle; the loops look at
 * lines, and slow.h at whether a line wanted ESP.
 *
 * Receive order (RFC 4303 3.4): SA, length, window, tag, window again (duplicates in one burst),
 * padding, next header, addresses inside (RFC 4301 5.2). Nothing that failed leaves its frame.
 */
#ifndef FASTMIP_ESP_H
#define FASTMIP_ESP_H

#include "esp_sa.h"
#include "udp_tunnel.h"

#define ESP_UDP_PORT 4500
#define ESP_OVERHEAD_MAX 65u /* before a key tells: CBC in UDP, 15 octets of padding */

static const uint8_t esp_padding[16] __attribute__((aligned(16), unused)) = {
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

/* Octets ESP adds to `payload` octets behind an IPv4 header. */
FM_INLINE uint32_t esp_overhead(const struct esp_sa *sa, uint32_t payload)
{
    uint32_t pad = -(payload + 2) & (sa->block - 1u);
    return (sa->ports ? ESP_UDP_HEADER : 0) + ESP_HEADER + sa->iv_size + pad + 2 + CRYPTO_TAG;
}

/* The largest payload that fits `room` octets behind an IPv4 header with ESP around it; 0: none. */
FM_INLINE uint32_t esp_fit(const struct esp_sa *sa, uint32_t room)
{
    uint32_t fixed = (sa->ports ? ESP_UDP_HEADER : 0) + ESP_HEADER + sa->iv_size + CRYPTO_TAG;
    if (room < fixed + sa->block)
        return 0;
    return ((room - fixed) & ~(sa->block - 1u)) - 2;
}

/* The authenticated octets of both directions, and the nonce of GCM. */
FM_INLINE void esp_job(struct crypto_job *job, const struct esp_sa *sa, uint8_t *esp,
                       uint64_t sequence, uint32_t text_len)
{
    job->key = sa->key;
    job->suite = sa->suite;
    job->text = esp + ESP_HEADER + sa->iv_size;
    job->text_len = text_len;
    job->aad = esp;
    if (sa->flags & ESP_GCM) {
        job->aad_len = ESP_HEADER;
        store32(job->iv, sa->salt);
        store64(job->iv + 4, load64(esp + ESP_HEADER));
        if (sa->flags & ESP_ESN) { /* RFC 4106 5: the whole number is authenticated */
            store32(job->aad_esn, sa->spi_be);
            store64(job->aad_esn + 4, __builtin_bswap64(sequence));
            job->aad = job->aad_esn;
            job->aad_len = 12;
        }
        return;
    }
    job->signed_len = ESP_HEADER + sa->iv_size + text_len;
    if (sa->flags & ESP_ESN) { /* RFC 4303 2.2.1: the upper half stands where the tag goes */
        put32(job->text + text_len, (uint32_t)(sequence >> 32));
        job->signed_len += 4;
    }
}

/* The collected packets through the provider. */
FM_FN void esp_seal(struct fm_worker *w)
{
    struct fm_esp *esp = w->engine->esp;
    struct esp_worker *mine = esp->workers[w->number];
    if (!mine->count)
        return;
    esp->provider->seal(mine->state, mine->number, mine->order, mine->count);
    mine->count = 0;
}

/* Put ESP between the IPv4 header of d and what it carries. FM_NONE, or why it may not be sent. The
 * packet is as long as it will be, but readable until esp_seal. */
FM_INLINE int esp_wrap(struct fm_worker *w, struct fm_desc *d, struct esp_sa *sa)
{
    struct esp_worker *mine = w->engine->esp->workers[w->number];
    uint8_t *p = d->data;
    uint32_t header = ipv4_header_len(p), total = ipv4_total(p), payload = total - header;
    if (FM_UNLIKELY(!esp_is_within_limits(w, sa)))
        return FM_DROP_ESP_LIFETIME;
    uint64_t sequence = esp_next_sequence(w, sa);
    if (FM_UNLIKELY(!sequence))
        return FM_DROP_ESP_SEQUENCE;
    uint32_t shim = sa->ports ? ESP_UDP_HEADER : 0, front = shim + ESP_HEADER + sa->iv_size;
    uint32_t pad = -(payload + 2) & (sa->block - 1u), text_len = payload + pad + 2;
    uint8_t *end = p + total, *q = p - front, *esp = q + header + shim;
    memcpy(end, esp_padding, sizeof esp_padding);
    end[pad] = (uint8_t)pad;
    end[pad + 1] = p[OFF_PROTOCOL];
    uint32_t became = total + front + pad + 2 + CRYPTO_TAG;
    if (FM_LIKELY(header == IPV4_MIN_HEADER_LEN)) {
        uint64_t a = load64(p), b = load64(p + 8);
        uint32_t c = load32(p + 16);
        store64(q, a);
        store64(q + 8, b);
        store32(q + 16, c);
    } else {
        memmove(q, p, header);
    }
    /* RFC 1624: two words of the header are others now. */
    uint16_t was_total = load16(q + OFF_TOTAL), was_ttl = load16(q + OFF_TTL);
    put16(q + OFF_TOTAL, (uint16_t)became);
    q[OFF_PROTOCOL] = sa->ports ? PROTO_UDP : PROTO_ESP;
    uint16_t sum = sum_update(load16(q + OFF_CHECKSUM), was_total, load16(q + OFF_TOTAL));
    store16(q + OFF_CHECKSUM, sum_update(sum, was_ttl, load16(q + OFF_TTL)));
    if (shim)
        store64(q + header, udp_ports_swapped(sa->ports) |
                                (uint64_t)swap16((uint16_t)(became - header)) << 32);
    store32(esp, sa->spi_be);
    put32(esp + 4, (uint32_t)sequence);
    store64(esp + ESP_HEADER, __builtin_bswap64(sequence));
    if (!(sa->flags & ESP_GCM))
        store64(esp + ESP_HEADER + 8, 0);
    uint32_t number = mine->count++;
    struct crypto_job *job = &mine->jobs[number];
    esp_job(job, sa, esp, sequence, text_len);
    job->tag = job->text + text_len;
    __atomic_fetch_add(&sa->packets, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&sa->bytes, payload, __ATOMIC_RELAXED);
    d->data = q;
    d->len = became;
    if (FM_UNLIKELY(mine->count == FM_BATCH))
        esp_seal(w);
    return FM_NONE;
}

/* The same by the SA that a line's bundle sends by now. */
FM_FN int esp_wrap_line(struct fm_worker *w, struct fm_desc *d, uint32_t number)
{
    const struct fm_esp *esp = w->engine->esp;
    uint32_t bundle = esp->line_bundle[number];
    uint32_t sa = __atomic_load_n(&esp->bundles[bundle].out, __ATOMIC_ACQUIRE);
    return sa ? esp_wrap(w, d, &esp->sas[sa]) : FM_DROP_ESP_NO_KEY;
}

/* Where ESP begins in a packet with a whole IPv4 header, and its octets; 0 when it is none. */
FM_INLINE uint32_t esp_find(const uint8_t *p, uint32_t len, uint32_t *octets)
{
    if (len < IPV4_MIN_HEADER_LEN || p[0] >> 4 != 4)
        return 0;
    uint32_t header = ipv4_header_len(p), total = ipv4_total(p);
    if (header < IPV4_MIN_HEADER_LEN || total < header || total > len)
        return 0;
    if (p[OFF_PROTOCOL] == PROTO_ESP) {
        *octets = total - header;
        return header;
    }
    if (p[OFF_PROTOCOL] != PROTO_UDP || total < header + ESP_UDP_HEADER ||
        load16(p + header + 2) != swap16(ESP_UDP_PORT))
        return 0;
    uint32_t size = get16(p + header + 4);
    if (size < ESP_UDP_HEADER || size > total - header)
        return 0;
    *octets = size - ESP_UDP_HEADER;
    return header + ESP_UDP_HEADER;
}

FM_INLINE struct esp_sa *esp_find_sa(const struct fm_esp *esp, uint32_t spi_be)
{
    struct esp_sa *sa = &esp->sas[index_find(&esp->by_spi, spi_be)];
    return sa->spi_be == spi_be ? sa : (struct esp_sa *)0;
}

/* Everything that can be said before the tag is known. */
FM_INLINE int esp_check(struct fm_worker *w, const uint8_t *p, uint8_t *esp, uint32_t octets,
                        struct esp_way *way)
{
    if (octets < ESP_HEADER)
        return FM_DROP_ESP_TRUNCATED;
    uint32_t spi_be = load32(esp);
    struct esp_sa *sa = esp_find_sa(w->engine->esp, spi_be);
    if (FM_UNLIKELY(!sa || !spi_be))
        return swap32(spi_be) < ESP_SPI_MIN ? FM_DROP_ESP_SPI : FM_DROP_ESP_NO_SA;
    uint32_t ports = p[OFF_PROTOCOL] == PROTO_UDP ? load32(esp - ESP_UDP_HEADER) : 0;
    if ((ipv4_destination_be(p) != sa->local_be) | (ipv4_source_be(p) != sa->remote_be) |
        (ports != sa->ports))
        return FM_DROP_ESP_ADDRESS;
    uint32_t fixed = ESP_HEADER + sa->iv_size + CRYPTO_TAG;
    if (octets < fixed + sa->block)
        return FM_DROP_ESP_TRUNCATED;
    if ((octets - fixed) & (sa->block - 1u))
        return FM_DROP_ESP_LENGTH;
    if (!esp_is_within_limits(w, sa))
        return FM_DROP_ESP_LIFETIME;
    uint32_t low = get32(esp + 4);
    uint64_t sequence = sa->flags & ESP_ESN ? window_extend(&sa->window, low) : low;
    if (!sequence)
        return low ? FM_DROP_ESP_REPLAY : FM_DROP_ESP_SEQUENCE_ZERO;
    if (!window_admits(&sa->window, sequence))
        return FM_DROP_ESP_REPLAY;
    way->sa = sa;
    way->esp = esp;
    way->sequence = sequence;
    return FM_NONE;
}

/* Selectors of an SA against an IPv4 packet that came out of it (RFC 4301 5.2 step 4). */
FM_INLINE int esp_selects(const struct esp_sa *sa, const uint8_t *inner)
{
    uint32_t source = get32(inner + OFF_SOURCE), destination = get32(inner + OFF_DESTINATION);
    return (source - sa->remote_first <= sa->remote_last - sa->remote_first) &
           (destination - sa->local_first <= sa->local_last - sa->local_first);
}

/* Everything behind the tag. The packet becomes what it was before ESP. */
FM_INLINE int esp_finish(struct fm_worker *w, struct esp_way *way, const struct crypto_job *job)
{
    struct esp_sa *sa = way->sa;
    struct fm_desc *d = way->d;
    if (FM_UNLIKELY(!job->is_right))
        return FM_DROP_ESP_ICV;
    esp_lock(sa);
    int is_taken = window_take(&sa->window, way->sequence);
    esp_unlock(sa);
    if (FM_UNLIKELY(!is_taken))
        return FM_DROP_ESP_REPLAY;
    const uint8_t *text = job->text, *trailer = text + job->text_len - 2;
    uint32_t pad = trailer[0], next = trailer[1];
    if (FM_UNLIKELY(!esp_has_told(sa, ESP_CONFIRMED)))
        esp_tell(w, sa, ESP_CONFIRMED);
    if (sa->flags & ESP_SHARED) {
        __atomic_fetch_add(&sa->packets, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&sa->bytes, job->text_len, __ATOMIC_RELAXED);
    } else {
        __atomic_store_n(&sa->packets, sa->packets + 1, __ATOMIC_RELAXED);
        __atomic_store_n(&sa->bytes, sa->bytes + job->text_len, __ATOMIC_RELAXED);
    }
    if (next == ESP_DUMMY)
        return FM_ESP_DUMMY;
    if (FM_UNLIKELY(pad > job->text_len - 2))
        return FM_DROP_ESP_PADDING;
    uint32_t is_wrong = 0;
    for (uint32_t i = 0; i < pad; i++)
        is_wrong |= trailer[-(int32_t)pad + (int32_t)i] ^ ((i + 1) & 0xff);
    if (FM_UNLIKELY(is_wrong))
        return FM_DROP_ESP_PADDING;
    uint32_t payload = job->text_len - 2 - pad;
    if (FM_UNLIKELY(next == PROTO_ESP))
        return FM_DROP_ESP_NESTED;
    if (FM_UNLIKELY(next != PROTO_IPIP && next != PROTO_GRE && next != PROTO_MINIMAL &&
                    next != PROTO_UDP))
        return FM_DROP_ESP_NEXT_HEADER;
    if ((sa->flags & ESP_SELECTORS) && next == PROTO_IPIP &&
        (payload < IPV4_MIN_HEADER_LEN || !esp_selects(sa, text)))
        return FM_DROP_ESP_SELECTOR;
    uint8_t *p = d->data, *q;
    uint32_t header = ipv4_header_len(p), total = header + payload;
    q = job->text - header;
    memmove(q, p, header);
    put16(q + OFF_TOTAL, (uint16_t)total);
    q[OFF_PROTOCOL] = (uint8_t)next;
    ipv4_set_checksum(q);
    d->data = q;
    d->len = total;
    d->line = sa->bundle;
    d->done |= FM_DONE_ESP;
    return FM_NONE;
}

/* Open the ESP packets among n; a bit for each that is finished, and goes no further. */
FM_FN uint64_t esp_open(struct fm_worker *w, struct fm_desc *batch, uint32_t n)
{
    struct fm_esp *esp = w->engine->esp;
    struct esp_worker *mine = esp->workers[w->number];
    uint64_t finished = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct fm_desc *d = &batch[i];
        struct esp_way *way = &mine->ways[count];
        uint32_t octets, at = esp_find(d->data, d->len, &octets);
        d->done &= (uint8_t)~FM_DONE_ESP;
        if (!at || ipv4_is_fragment(d->data) ||
            (!(d->done & FM_DONE_CHECKSUM) &&
             sum_octets(d->data, ipv4_header_len(d->data)) != 0xffff))
            continue; /* the loops say what is wrong with it */
        uint8_t *start = d->data + at;
        int verdict = esp_check(w, d->data, start, octets, way);
        if (verdict != FM_NONE) {
            fm_finish(w, d, verdict, d->len);
            finished |= 1ull << i;
            continue;
        }
        struct crypto_job *job = &mine->jobs[count];
        uint32_t text_len = octets - ESP_HEADER - way->sa->iv_size - CRYPTO_TAG;
        memcpy(job->expected, start + octets - CRYPTO_TAG, CRYPTO_TAG);
        esp_job(job, way->sa, start, way->sequence, text_len);
        if (!(way->sa->flags & ESP_GCM))
            memcpy(job->iv, start + ESP_HEADER, 16);
        job->tag = job->expected;
        way->d = d;
        way->place = i;
        count++;
    }
    if (!count)
        return finished;
    esp->provider->open(mine->state, mine->number, mine->order, count);
    for (uint32_t i = 0; i < count; i++) {
        struct esp_way *way = &mine->ways[i];
        uint32_t len = way->d->len;
        int verdict = esp_finish(w, way, &mine->jobs[i]);
        if (verdict != FM_NONE) {
            fm_finish(w, way->d, verdict, len);
            finished |= 1ull << way->place;
        }
    }
    return finished;
}

FM_FN void esp_home_batch(struct fm_worker *w, struct fm_desc *batch, uint32_t n, uint64_t now_ns,
                          struct fm_out *out)
{
    w->engine->esp->plain[FM_HOME](w, batch, n, now_ns, out);
    esp_seal(w);
}

FM_FN void esp_tunnel_batch(struct fm_worker *w, struct fm_desc *batch, uint32_t n,
                            uint64_t now_ns, struct fm_out *out)
{
    uint64_t finished = esp_open(w, batch, n);
    for (uint32_t i = 0; i < n;) {
        uint64_t rest = finished >> i;
        if (rest & 1) {
            i++;
            continue;
        }
        uint32_t run = rest ? (uint32_t)__builtin_ctzll(rest) : n - i;
        w->engine->esp->plain[FM_TUNNEL](w, batch + i, run, now_ns, out);
        i += run;
    }
    esp_seal(w);
}

#endif
