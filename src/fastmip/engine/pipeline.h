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

#define FM_ISA(name) name##_scalar
#define FM_TARGET FM_FN
#define FM_FIND index_find_from
#define FM_IS_OWN is_own_address
#include "fast.h"
#undef FM_ISA
#undef FM_TARGET
#undef FM_FIND
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

__attribute__((target("avx2,bmi,bmi2"))) static inline int
is_own_address_avx2(const struct fm_engine *e, uint32_t address_be)
{
    __m256i wanted = _mm256_set1_epi32((int)address_be);
    int mask = 0;
    for (uint32_t i = 0; i < e->local_count; i += 8) {
        __m256i held = _mm256_load_si256((const __m256i *)(const void *)&e->local_be[i]);
        mask |= _mm256_movemask_epi8(_mm256_cmpeq_epi32(held, wanted));
    }
    return mask != 0;
}

#define FM_ISA(name) name##_avx2
#define FM_TARGET __attribute__((target("avx2,bmi,bmi2"), unused)) static
#define FM_FIND index_find_avx2
#define FM_IS_OWN is_own_address_avx2
#include "fast.h"
#undef FM_ISA
#undef FM_TARGET
#undef FM_FIND
#undef FM_IS_OWN
#endif

/* Fast loops for this CPU; `is_scalar` asks for the twin. Returns its name. */
FM_FN const char *fm_choose_loops(struct fm_engine *e, fm_find_fn *find, int is_scalar)
{
#if defined(__x86_64__)
    if (!is_scalar && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) {
        e->run[FM_HOME] = home_batch_avx2;
        e->run[FM_TUNNEL] = tunnel_batch_avx2;
        *find = find_batch_avx2;
        return "avx2";
    }
#endif
    (void)is_scalar;
    e->run[FM_HOME] = home_batch_scalar;
    e->run[FM_TUNNEL] = tunnel_batch_scalar;
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
    w->engine->run[side](w, batch, n, now_ns, out);
}

#endif
