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

/* One draw, as what changes in the headers. Home side: octets 8 to 15 (TTL, protocol, checksum,
 * source) and the destination. Tunnel side: those octets of the outer header and of the inner one;
 * or of the forwarding header of minimal encapsulation its first word and its source. */
struct fm_draw {
    uint64_t first, second;
};

#define REPLAY_HEADERS 96 /* octets of all headers, at most */
#define REPLAY_SPOILT 48  /* octets that minimal encapsulation overwrites, at most */

struct fm_replay {
    struct fm_engine *e;
    int side;
    uint32_t frame_count, size, draw_count;
    uint8_t done;
    struct fm_record tunnel; /* what the packets' headers are made of, from our end */
    uint32_t correspondent_be;
    uint32_t overhead, second_at;
    uint8_t spoilt[REPLAY_SPOILT];
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

/* The headers of a packet between correspondent and home; on the tunnel side as the node's line
 * would send it. Returns their beginning in `room`; the inner header's is in the middle. */
FM_FN uint8_t *replay_headers(const struct fm_replay *r, uint8_t room[REPLAY_HEADERS],
                              uint32_t home_be, uint32_t remote_be)
{
    uint8_t *p = room + REPLAY_HEADERS / 2;
    memset(room, 0x5a, REPLAY_HEADERS);
    memset(p, 0, IPV4_MIN_HEADER_LEN);
    p[0] = 0x45;
    put16(p + OFF_TOTAL, (uint16_t)r->size);
    p[OFF_TTL] = 64;
    p[OFF_PROTOCOL] = PROTO_UDP;
    store32(p + OFF_SOURCE, r->side == FM_HOME ? r->correspondent_be : home_be);
    store32(p + OFF_DESTINATION, r->side == FM_HOME ? home_be : r->correspondent_be);
    ipv4_set_checksum(p);
    if (r->side == FM_HOME)
        return p;
    struct fm_record far = r->tunnel; /* the other end's view */
    struct fm_line line;
    far.remote = r->tunnel.local;
    far.local = swap32(remote_be);
    far.remote_port = r->tunnel.local_port;
    far.local_port = r->tunnel.remote_port;
    control_fill(&line, &far, FM_NO_LINE);
    return p - outer_write(&line, p, r->size);
}

/* The packet every frame holds: UDP of `size` bytes. */
FM_FN void replay_write(struct fm_replay *r, uint8_t *p)
{
    uint8_t room[REPLAY_HEADERS];
    const uint8_t *headers = replay_headers(r, room, swap32(1), swap32(2));
    uint32_t len = (uint32_t)(room + REPLAY_HEADERS / 2 + IPV4_MIN_HEADER_LEN - headers);
    memset(p, 0x5a, r->size + r->overhead);
    memcpy(p, headers, len);
    memcpy(r->spoilt, headers, REPLAY_SPOILT);
}

/* What the headers must read for one draw. */
FM_FN void replay_prepare_draw(const struct fm_replay *r, struct fm_draw *draw, uint32_t home_be,
                               uint32_t remote_be)
{
    uint8_t room[REPLAY_HEADERS];
    const uint8_t *p = replay_headers(r, room, home_be, remote_be);
    draw->first = load64(p + OFF_TTL);
    draw->second = home_be;
    if (r->side == FM_HOME)
        return;
    draw->second = r->tunnel.encapsulation == PROTO_MINIMAL
                       ? load32(p + r->second_at) | (uint64_t)home_be << 32
                       : load64(p + r->second_at);
}

/* Our end of the tunnels. */
FM_FN void replay_use(struct fm_replay *r, const struct fm_record *tunnel)
{
    struct fm_line line;
    r->tunnel = *tunnel;
    control_fill(&line, tunnel, FM_NO_LINE);
    r->overhead = r->side == FM_HOME ? 0 : line_overhead(&line);
    r->second_at = r->overhead + OFF_TTL;
    if (line_is_minimal(&line))
        r->second_at = IPV4_MIN_HEADER_LEN + (line.method & FM_UDP ? UDP_SHIM_LEN : 0);
}

/* Refill the batch from the next frames and draws; prefetch the frames of the batch after, as a
 * driver would while this one is in the pipeline. */
FM_INLINE void replay_refill_as(struct fm_replay *r, uint32_t n, int side, int is_minimal)
{
    uint32_t frame = r->next_frame, at = r->next_draw, ahead = (frame + n) % r->frame_count;
    uint32_t len = r->size + r->overhead;
    const uint32_t second_at = r->second_at, count = r->frame_count;
    uint8_t *const frames = replay_frame(r, 0);
    for (uint32_t i = 0; i < n; i++) {
        const struct fm_draw *draw = &r->draws[at];
        uint8_t *p = frames + (uint64_t)frame * FM_FRAME_STRIDE;
        struct fm_desc *d = &r->batch[i];
        at = at + 1 == r->draw_count ? 0 : at + 1;
        d->data = p;
        d->len = len;
        d->done = r->done;
        d->side = (uint8_t)side;
        if (is_minimal && side == FM_HOME)
            memcpy(p, r->spoilt, OFF_TTL);
        else if (is_minimal)
            memcpy(p + OFF_DESTINATION, r->spoilt + OFF_DESTINATION, 32);
        store64(p + OFF_TTL, draw->first);
        if (side == FM_HOME) {
            store32(p + OFF_DESTINATION, (uint32_t)draw->second);
        } else if (is_minimal) {
            store32(p + second_at, (uint32_t)draw->second);
            store32(p + second_at + 8, (uint32_t)(draw->second >> 32));
        } else {
            store64(p + second_at, draw->second);
        }
        const uint8_t *next = frames + (uint64_t)ahead * FM_FRAME_STRIDE;
        __builtin_prefetch((const uint8_t *)((uintptr_t)next & ~63ul), 1);
        frame = frame + 1 == count ? 0 : frame + 1;
        ahead = ahead + 1 == count ? 0 : ahead + 1;
    }
    r->next_frame = frame;
    r->next_draw = at;
}

FM_INLINE void replay_refill(struct fm_replay *r, uint32_t n)
{
    int is_minimal = r->tunnel.encapsulation == PROTO_MINIMAL;
    if (r->side == FM_HOME && !is_minimal)
        replay_refill_as(r, n, FM_HOME, 0);
    else if (r->side == FM_HOME)
        replay_refill_as(r, n, FM_HOME, 1);
    else if (!is_minimal)
        replay_refill_as(r, n, FM_TUNNEL, 0);
    else
        replay_refill_as(r, n, FM_TUNNEL, 1);
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
