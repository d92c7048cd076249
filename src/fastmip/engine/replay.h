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

/* One draw, as what changes in the headers: octets 8 to 15 (TTL, protocol, checksum, source) of
 * the outer header and of the inner one, or of the inner one and its destination. */
struct fm_draw {
    uint64_t first, second;
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
    uint64_t bytes = (uint64_t)r->frame_count * FM_FRAME_STRIDE;
    return (bytes + (2u << 20) - 1) & ~(uint64_t)((2u << 20) - 1); /* whole huge pages */
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
        ipip_write_outer(inner, r->size, 0, ipip_constant_sum(0, local_be, 64),
                         ipip_constant_middle(0, 64), local_be);
}

/* What the headers must read for one draw, made from the packet in the frames. */
FM_FN void replay_prepare_draw(const struct fm_replay *r, struct fm_draw *draw, uint32_t home_be,
                               uint32_t remote_be, const uint8_t *packet)
{
    uint8_t copy[2 * IPV4_MIN_HEADER_LEN];
    memcpy(copy, packet, sizeof copy);
    copy[OFF_TTL] = 64;
    store32(copy + (r->side == FM_HOME ? OFF_DESTINATION : OFF_SOURCE),
            r->side == FM_HOME ? home_be : remote_be);
    ipv4_set_checksum(copy);
    draw->first = load64(copy + OFF_TTL);
    draw->second = home_be;
    if (r->side == FM_HOME)
        return;
    copy[IPIP_OVERHEAD + OFF_TTL] = 64;
    store32(copy + IPIP_OVERHEAD + OFF_SOURCE, home_be);
    ipv4_set_checksum(copy + IPIP_OVERHEAD);
    draw->second = load64(copy + IPIP_OVERHEAD + OFF_TTL);
}

/* Refill the batch from the next frames and draws; prefetch the frames of the batch after, as a
 * driver would while this one is in the pipeline. */
FM_INLINE void replay_refill(struct fm_replay *r, uint32_t n)
{
    uint32_t frame = r->next_frame, at = r->next_draw, ahead = (frame + n) % r->frame_count;
    uint32_t len = r->size + (r->side == FM_HOME ? 0 : IPIP_OVERHEAD);
    for (uint32_t i = 0; i < n; i++) {
        const struct fm_draw *draw = &r->draws[at];
        uint8_t *p = replay_frame(r, frame);
        struct fm_desc *d = &r->batch[i];
        at = at + 1 == r->draw_count ? 0 : at + 1;
        d->data = p;
        d->len = len;
        d->done = r->done;
        d->side = (uint8_t)r->side;
        store64(p + OFF_TTL, draw->first);
        if (r->side == FM_HOME)
            store32(p + OFF_DESTINATION, (uint32_t)draw->second);
        else
            store64(p + IPIP_OVERHEAD + OFF_TTL, draw->second);
        __builtin_prefetch((const uint8_t *)((uintptr_t)replay_frame(r, ahead) & ~63ul), 1);
        frame = frame + 1 == r->frame_count ? 0 : frame + 1;
        ahead = ahead + 1 == r->frame_count ? 0 : ahead + 1;
    }
    r->next_frame = frame;
    r->next_draw = at;
}

/* Nanoseconds for `batches` batches of n; *left counts what came out on the other side. */
FM_FN uint64_t replay_run(struct fm_replay *r, struct fm_worker *w, uint64_t batches, uint32_t n,
                          uint64_t now_ns, uint64_t *left)
{
    uint64_t start = replay_clock();
    int other = r->side == FM_HOME ? FM_TUNNEL : FM_HOME;
    *left = 0;
    while (batches--) {
        replay_refill(r, n);
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
        replay_refill(r, n);
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
