/* A source and sink in memory for benchmarks: a pool of equal packets whose addresses are
 * redrawn for every batch from a long list of precomputed draws, so that neither the cache
 * nor the branch predictor can learn the sequence.
 *
 * The pool stands for a receive ring: while a batch is in the pipeline, the next batch's
 * headers are prefetched, as a driver would.
 */
#ifndef FASTMIP_REPLAY_H
#define FASTMIP_REPLAY_H

#include <time.h>

#include "control.h"

struct fm_draw {
    uint32_t home_be, remote_be;
    uint16_t inner_checksum, outer_checksum;
    uint32_t unused;
};

struct fm_replay {
    struct fm_engine *e;
    int side;
    uint32_t frame_count, size, draw_count;
    uint8_t done;
    uint8_t *frames;
    struct fm_draw *draws;
    uint32_t next_frame, next_draw;
    struct fm_desc batch[FM_BATCH];
    struct fm_out out;
};

/* CPU time of this thread: what other processes of a shared machine take is not ours. */
FM_INLINE uint64_t replay_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

FM_INLINE uint8_t *replay_frame(const struct fm_replay *r, uint32_t number)
{
    return r->frames + (uint64_t)number * FM_FRAME_STRIDE +
           (r->side == FM_HOME ? FM_HEADROOM_HOME : FM_HEADROOM_TUNNEL);
}

FM_INLINE uint64_t replay_bytes(const struct fm_replay *r)
{
    return (uint64_t)r->frame_count * FM_FRAME_STRIDE;
}

/* The packet every frame holds: UDP of `size` bytes, correspondent <-> home, in a tunnel from
 * remote to local on the tunnel side. */
FM_FN void replay_write(const struct fm_replay *r, uint8_t *p, uint32_t correspondent_be,
                        uint32_t local_be)
{
    uint8_t *inner = r->side == FM_HOME ? p : p + IPIP_OVERHEAD;
    memset(inner, 0x5a, r->size);
    memset(inner, 0, IPV4_MIN_HEADER_LEN);
    inner[0] = 0x45;
    put16(inner + OFF_TOTAL, (uint16_t)r->size);
    inner[OFF_TTL] = 64;
    inner[OFF_PROTOCOL] = 17;
    store32(inner + (r->side == FM_HOME ? OFF_SOURCE : OFF_DESTINATION), correspondent_be);
    if (r->side == FM_TUNNEL)
        ipip_write_outer(inner, r->size, 0, ipip_constant_sum(0, local_be, 64), 64, 0, local_be);
}

/* Headers as they must read for one draw: checksums are precomputed from the template. */
FM_FN void replay_prepare_draw(const struct fm_replay *r, struct fm_draw *draw,
                               const uint8_t *template)
{
    uint8_t copy[2 * IPV4_MIN_HEADER_LEN];
    uint8_t *inner = copy;
    memcpy(copy, template, sizeof copy);
    if (r->side == FM_TUNNEL) {
        store32(copy + OFF_SOURCE, draw->remote_be);
        ipv4_set_checksum(copy);
        draw->outer_checksum = load16(copy + OFF_CHECKSUM);
        inner = copy + IPIP_OVERHEAD;
    }
    inner[OFF_TTL] = 64;
    store32(inner + (r->side == FM_HOME ? OFF_DESTINATION : OFF_SOURCE), draw->home_be);
    ipv4_set_checksum(inner);
    draw->inner_checksum = load16(inner + OFF_CHECKSUM);
}

FM_INLINE void replay_redraw(struct fm_replay *r, struct fm_desc *d, uint32_t frame)
{
    const struct fm_draw *draw = &r->draws[r->next_draw];
    uint8_t *p = replay_frame(r, frame);
    r->next_draw = r->next_draw + 1 == r->draw_count ? 0 : r->next_draw + 1;
    d->data = p;
    d->done = r->done;
    d->side = (uint8_t)r->side;
    if (r->side == FM_HOME) {
        d->len = r->size;
        p[OFF_TTL] = 64;
        store16(p + OFF_CHECKSUM, draw->inner_checksum);
        store32(p + OFF_DESTINATION, draw->home_be);
        return;
    }
    d->len = r->size + IPIP_OVERHEAD;
    store16(p + OFF_CHECKSUM, draw->outer_checksum);
    store32(p + OFF_SOURCE, draw->remote_be);
    p += IPIP_OVERHEAD;
    p[OFF_TTL] = 64;
    store16(p + OFF_CHECKSUM, draw->inner_checksum);
    store32(p + OFF_SOURCE, draw->home_be);
}

/* Nanoseconds for `batches` batches of n; *left counts what came out on the other side. */
FM_FN uint64_t replay_run(struct fm_replay *r, struct fm_worker *w, uint64_t batches, uint32_t n,
                          uint64_t now_ns, uint64_t *left)
{
    uint64_t start = replay_clock();
    int other = r->side == FM_HOME ? FM_TUNNEL : FM_HOME;
    *left = 0;
    while (batches--) {
        uint32_t frame = r->next_frame;
        for (uint32_t i = 0; i < n; i++, frame = frame + 1 == r->frame_count ? 0 : frame + 1)
            replay_redraw(r, &r->batch[i], frame);
        r->next_frame = frame;
        for (uint32_t i = 0; i < n; i++, frame = frame + 1 == r->frame_count ? 0 : frame + 1)
            __builtin_prefetch((const uint8_t *)((uintptr_t)replay_frame(r, frame) & ~63ul), 1);
        fm_run_batch(w, r->batch, n, r->side, now_ns, &r->out);
        *left += r->out.count[other];
        r->out.count[FM_HOME] = r->out.count[FM_TUNNEL] = 0;
    }
    fm_worker_offline(w);
    return replay_clock() - start;
}

/* Source and sink alone: what of replay_run is not the engine's. */
FM_FN uint64_t replay_run_empty(struct fm_replay *r, uint64_t batches, uint32_t n)
{
    uint64_t start = replay_clock();
    while (batches--) {
        uint32_t frame = r->next_frame;
        for (uint32_t i = 0; i < n; i++, frame = frame + 1 == r->frame_count ? 0 : frame + 1)
            replay_redraw(r, &r->batch[i], frame);
        r->next_frame = frame;
        for (uint32_t i = 0; i < n; i++, frame = frame + 1 == r->frame_count ? 0 : frame + 1)
            __builtin_prefetch((const uint8_t *)((uintptr_t)replay_frame(r, frame) & ~63ul), 1);
        __asm__ volatile("" ::: "memory");
    }
    return replay_clock() - start;
}

/* The reference: memcpy of `bytes` (64) from one frame to the next, length unknown to the
 * compiler, so that it is the C library's. */
FM_FN uint64_t replay_memcpy(struct fm_replay *r, uint64_t rounds, const volatile uint32_t *bytes)
{
    uint64_t start = replay_clock();
    uint32_t frame = 0;
    while (rounds--) {
        uint32_t next = frame + 1 == r->frame_count ? 0 : frame + 1;
        memcpy(replay_frame(r, next), replay_frame(r, frame), *bytes);
        frame = next;
    }
    return replay_clock() - start;
}

/* Lookups alone: keys in batches of n from the draws; *found counts the hits. */
FM_FN uint64_t replay_lookup(struct fm_replay *r, fm_find_fn find, uint64_t batches, uint32_t n,
                             const uint32_t *keys, uint32_t key_count, uint64_t *found)
{
    uint64_t start = replay_clock();
    uint32_t at = 0, number[FM_BATCH];
    *found = 0;
    while (batches--) {
        if (at + n > key_count)
            at = 0;
        find(&r->e->by_home, keys + at, number, n);
        at += n;
        for (uint32_t i = 0; i < n; i++)
            *found += number[i] != FM_NO_LINE;
    }
    return replay_clock() - start;
}

#endif
