/* The pipeline's entry for ports; see README.md for a packet's walk.
 *
 * A worker thread's life, written by a port:
 *
 *     fm_worker_online(w);
 *     while (running) {
 *         fill batch[] from a side;          (done bits: what the kernel did already)
 *         fm_run_batch(w, batch, n, side, now_ns, &out);
 *         send out.packets[FM_HOME], out.packets[FM_TUNNEL]; set both counts to 0;
 *         if nothing arrived: fm_worker_offline(w); poll(); fm_worker_online(w);
 *     }
 *     fm_worker_offline(w);
 *
 * fm_run_batch announces the worker's epoch itself. Frames of out may lie in the worker's
 * scratch arena, which the next fm_run_batch of the same worker empties. ICMP packets of the
 * tunnel side's ICMP socket (whole, with their IPv4 header) are handed in as side FM_TUNNEL.
 * now_ns is CLOCK_BOOTTIME. n <= FM_BATCH.
 */
#ifndef FASTMIP_PIPELINE_H
#define FASTMIP_PIPELINE_H

#include "slow.h"

typedef void (*fm_find_fn)(const struct fm_index *, const uint32_t *, uint32_t *, uint32_t);

/* First octets of sources that are no unicast host: 0, 127, 224 and above. */
static const uint8_t is_martian_octet[256] __attribute__((unused)) = {
    [0] = 1, [127] = 1, [224 ... 255] = 1};

/* Counted in memory, not gathered into a vector first, as compilers like to. */
FM_INLINE void tally_add(struct fm_tally *tally, uint32_t bytes)
{
    tally->packets++;
    __asm__("" : "+m"(tally->packets));
    tally->bytes += bytes;
}

/* A plain packet's descriptor on leaving. */
FM_INLINE void desc_became(struct fm_desc *d, uint8_t *data, uint32_t len, uint32_t line,
                           int verdict)
{
    d->data = data;
    store64(&d->len, len | (uint64_t)line << 32); /* len and line */
    d->verdict = (uint16_t)verdict;
}

/* Budget of a line about which ICMP taught something; 0 leaves the packet to slow.h. */
FM_COLD uint32_t plain_budget(const struct fm_line *line, uint64_t now_ns)
{
    struct fm_soft soft = line_soft(line);
    if (soft.pending_code || !line->plain_budget)
        return 0;
    return line_budget(line, soft, now_ns);
}

/* Budget of a packet through a line that the fast loop looks at twice, because its encapsulation
 * is another or for the sake of the role; 0 leaves the packet to slow.h. */
FM_INLINE uint32_t other_budget(const struct fm_engine *e, const struct fm_line *line,
                                const uint8_t *p, uint64_t now_ns)
{
    if (line->flags & (FM_LINE_COPIES | FM_LINE_HALF_BOUND))
        return 0;
    if (e->role == FM_FOREIGN_AGENT && !is_for_reverse_tunnel(line, p))
        return 0;
    if (is_not_granted(e, line))
        return 0;
    if (line_falls_back(line, p))
        return 0;
    struct fm_soft soft = line_soft(line);
    return soft.pending_code ? 0 : line_budget(line, soft, now_ns);
}

/* outer_write_plain for batches while there are mobile networks: other batches keep it inlined. */
FM_FN FM_NOINLINE uint32_t outer_write_apart(const struct fm_line *line, uint8_t *p, uint32_t total,
                                             uint8_t hops)
{
    if (hops)
        ipv4_decrement_ttl(p);
    return outer_write(line, p, total);
}

#include "shapes.h"

#define FM_BY_PREFIX 0xffffffffu /* fast.h: in place of a bucket */

#define FM_ISA(name) name##_scalar
#define FM_TARGET FM_FN
#define FM_FIND index_find_from
#define FM_OWN_SET int
#define FM_OWN_LOAD(e) 0
#define FM_IS_OWN(e, own, address) ((void)(own), is_own_address(e, address))
#include "fast.h"
#undef FM_ISA
#undef FM_TARGET
#undef FM_FIND
#undef FM_OWN_SET
#undef FM_OWN_LOAD
#undef FM_IS_OWN

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2,bmi,bmi2"))) static inline uint32_t
index_find_avx2(const struct fm_index *x, uint32_t key, uint32_t bucket)
{
    const struct fm_bucket *b = &x->buckets[bucket];
    __m256i held = _mm256_load_si256((const __m256i *)(const void *)b->key);
    __m256i same = _mm256_cmpeq_epi32(held, _mm256_set1_epi32((int)key));
    uint32_t mask = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(same));
    if (FM_LIKELY(mask))
        return __atomic_load_n(&b->line[__builtin_ctz(mask)], __ATOMIC_ACQUIRE);
    return index_find_from(x, key, bucket);
}

/* The first eight own addresses stay in a register; few machines have more. */
__attribute__((target("avx2,bmi,bmi2"))) static inline uint32_t
is_own_address_avx2(const struct fm_engine *e, __m256i own, uint32_t address_be)
{
    __m256i same = _mm256_cmpeq_epi32(own, _mm256_set1_epi32((int)address_be));
    uint32_t is_own = !_mm256_testz_si256(same, same);
    if (FM_UNLIKELY(e->local_count > 8))
        is_own |= (uint32_t)is_own_address(e, address_be);
    return is_own;
}

#define FM_ISA(name) name##_avx2
#define FM_TARGET __attribute__((target("avx2,bmi,bmi2"), unused)) static
#define FM_FIND index_find_avx2
#define FM_OWN_SET __m256i
#define FM_OWN_LOAD(e) _mm256_loadu_si256((const __m256i *)(const void *)(e)->local_be)
#define FM_IS_OWN is_own_address_avx2
#include "fast.h"
#undef FM_ISA
#undef FM_TARGET
#undef FM_FIND
#undef FM_OWN_SET
#undef FM_OWN_LOAD
#undef FM_IS_OWN
#endif

FM_FN void fm_use_loops(struct fm_engine *e, fm_batch_fn home, fm_batch_fn tunnel)
{
    if (e->esp) {
        e->esp->plain[FM_HOME] = home;
        e->esp->plain[FM_TUNNEL] = tunnel;
        home = esp_home_batch;
        tunnel = esp_tunnel_batch;
    }
    e->loops[FM_HOME] = e->run[FM_HOME] = home;
    e->loops[FM_TUNNEL] = e->run[FM_TUNNEL] = tunnel;
}

/* Fast loops for this CPU; `is_scalar` asks for the twin. Returns its name. Open taps are
 * engaged anew by the caller (tap.h). */
FM_FN const char *fm_choose_loops(struct fm_engine *e, fm_find_fn *find, int is_scalar)
{
#if defined(__x86_64__)
    if (!is_scalar && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) {
        fm_use_loops(e, home_batch_avx2, tunnel_batch_avx2);
        *find = find_batch_avx2;
        return "avx2";
    }
#endif
    (void)is_scalar;
    fm_use_loops(e, home_batch_scalar, tunnel_batch_scalar);
    *find = find_batch_scalar;
    return "scalar";
}

FM_FN void fm_run_batch(struct fm_worker *w, struct fm_desc *batch, uint32_t n, int side,
                        uint64_t now_ns, struct fm_out *out)
{
    fm_worker_online(w);
    w->now_ns = now_ns;
    w->inputs += n;
    w->scratch_used = 0;
    w->scratch_descs = 0;
    w->is_sampled = ++w->batches % FM_SAMPLE_EVERY == 0;
    fm_batch_fn run = __atomic_load_n(&w->engine->run[side], __ATOMIC_RELAXED);
    run(w, batch, n, now_ns, out);
}

#endif
