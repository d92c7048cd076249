/* Taps: what an operator sees of packets while they pass, and what it costs while nobody looks.
 *
 * A tap is a capture (the packets at some points: rx, decap, encap, tx) or a trace (one packet's
 * walk). While no tap is open `run` of the engine are the plain loops: a batch pays nothing at all.
 * The first tap puts tap_batch in their place, which
 *   1 copies the beginnings of the packets that match, since the loops change them in place;
 *   2 runs the loops; a batch with a traced packet goes through them one packet at a time, so
 *     that whatever leaves belongs to the packet before;
 *   3 puts what was seen into the tap's ring of this worker, verdicts known.
 * Nothing here waits: a full ring counts what it could not take.
 *
 * Ownership. The control thread makes a tap, publishes it (release) and withdraws it; it is freed
 * when every worker has passed, as lines are (epochs). A ring has one writer, its worker, and one
 * reader, the control thread; its slots have one size. What belongs to all workers is only `left`.
 */
#ifndef FASTMIP_TAP_H
#define FASTMIP_TAP_H

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "match.h"
#include "pipeline.h"

enum tap_point { TAP_RX, TAP_DECAP, TAP_ENCAP, TAP_TX, TAP_POINTS };

#define TAP_WALK_BYTES 128 /* of a traced packet, in and out */
#define TAP_WALK_OUTS 4
#define TAP_BATCH_WAITS 20000 /* times 50 us to wait for a worker that holds a tap */

/* One packet of a capture; its first `kept` octets follow. */
struct tap_seen {
    uint64_t wall_ns;
    uint32_t length, kept;
    uint16_t verdict;
    uint8_t point, side;
    uint32_t lost; /* before this one, because the ring was full */
};

/* One end of a walk. */
struct tap_packet {
    uint32_t length, kept;
    uint8_t side;
    uint8_t bytes[TAP_WALK_BYTES];
};

/* One traced packet. Addresses in network order. */
struct tap_walk {
    uint64_t wall_ns, ns_ticks;
    const char *came_by; /* name of its port, NULL: from memory */
    uint32_t key;    /* the address that was looked up; 0: none to be found */
    uint32_t home;   /* of the line found; 0: none */
    uint32_t remote, local, number;
    uint64_t expires_ns, now_ns;
    uint16_t budget, verdict;
    uint8_t method, flags, chain, side;
    uint32_t out_count;
    struct tap_packet came, out[TAP_WALK_OUTS];
};

struct tap_ring {
    uint64_t put __attribute__((aligned(64)));
    uint64_t lost;
    uint32_t lost_untold;
    uint64_t taken __attribute__((aligned(64)));
    uint8_t *slots;
    uint8_t *staged; /* of the batch in hand, FM_BATCH slots */
};

/* Settings do not change while it is published. */
struct fm_tap {
    uint32_t points; /* bits of tap_point; 0: a trace */
    uint32_t snap;   /* octets kept of a packet */
    uint32_t stride; /* of a slot */
    uint32_t slot_count; /* of a ring, a power of two */
    uint32_t ring_count;
    uint32_t interfaces[TAP_POINTS]; /* numbers in the file */
    struct match match;
    uint8_t wanted[FM_VERDICT_COUNT];
    int64_t left; /* packets still to take, all workers together */
    struct tap_ring *rings[FM_WORKERS_MAX];
};

FM_INLINE uint64_t tap_wall_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The slot to fill next, or NULL (counted) when there is none. */
FM_INLINE uint8_t *tap_slot(const struct fm_tap *tap, struct tap_ring *ring)
{
    if (ring->put - __atomic_load_n(&ring->taken, __ATOMIC_ACQUIRE) == tap->slot_count) {
        __atomic_store_n(&ring->lost, ring->lost + 1, __ATOMIC_RELAXED);
        ring->lost_untold++;
        return (uint8_t *)0;
    }
    return ring->slots + (ring->put & (tap->slot_count - 1)) * tap->stride;
}

FM_INLINE int tap_is_done(const struct fm_tap *tap)
{
    return __atomic_load_n(&tap->left, __ATOMIC_RELAXED) <= 0;
}

/* Is this packet one of those that were asked for? Then it is counted. */
FM_INLINE int tap_claims(struct fm_tap *tap)
{
    return __atomic_fetch_sub(&tap->left, 1, __ATOMIC_RELAXED) > 0;
}

FM_INLINE void tap_publish(struct tap_ring *ring)
{
    __atomic_store_n(&ring->put, ring->put + 1, __ATOMIC_RELEASE);
}

FM_INLINE void tap_keep(struct tap_packet *to, const struct fm_desc *d)
{
    to->length = d->len;
    to->kept = d->len < TAP_WALK_BYTES ? d->len : TAP_WALK_BYTES;
    to->side = d->side;
    memcpy(to->bytes, d->data, to->kept);
}

/* The address by which the loops look a packet up (slow.h), 0 without one. */
FM_INLINE uint32_t tap_key(const struct fm_engine *e, int side, const struct match_path *path)
{
    uint32_t layer = side == FM_TUNNEL;
    if (path->count <= layer)
        return 0;
    int by_source = (e->role == FM_HOME_AGENT) == (side == FM_TUNNEL);
    return by_source ? path->source[layer] : path->destination[layer];
}

/* A walk's beginning: the packet as it came, and what the lookup finds. */
FM_FN void tap_walk_start(struct fm_worker *w, struct tap_walk *walk, const struct fm_desc *d,
                          int side, const struct match_path *path, uint64_t now_ns)
{
    const struct fm_engine *e = w->engine;
    memset(walk, 0, sizeof *walk);
    tap_keep(&walk->came, d);
    walk->side = (uint8_t)side;
    walk->came_by = w->came_by;
    walk->now_ns = now_ns;
    walk->key = tap_key(e, side, path);
    uint32_t number = walk->key ? find_binding(e, walk->key) : FM_NO_LINE;
    if (!number)
        return;
    const struct fm_line *line = &e->lines[number];
    walk->number = number;
    walk->home = line->home;
    walk->remote = line->remote;
    walk->local = line->local;
    walk->expires_ns = __atomic_load_n(&line->expires, __ATOMIC_RELAXED);
    walk->budget = (uint16_t)line_budget(line, line_soft(line), now_ns);
    walk->method = line->method;
    walk->flags = line->flags;
    walk->chain = line->chain_length;
}

/* Copy what matches of a batch, before the loops change it; bits of the packets. */
FM_FN uint64_t tap_stage(struct fm_worker *w, const struct fm_tap *tap, struct tap_ring *ring,
                         const struct fm_desc *batch, uint32_t n, int side, uint64_t now_ns)
{
    uint64_t matched = 0;
    struct match_path path;
    for (uint32_t i = 0; i < n; i++) {
        const struct fm_desc *d = &batch[i];
        if (!match_packet(&tap->match, d->data, d->len, &path))
            continue;
        uint8_t *staged = ring->staged + (size_t)i * tap->stride;
        matched |= (uint64_t)1 << i;
        if (!tap->points) {
            tap_walk_start(w, (struct tap_walk *)(void *)staged, d, side, &path, now_ns);
            continue;
        }
        struct tap_seen *seen = (struct tap_seen *)(void *)staged;
        seen->length = d->len;
        seen->kept = d->len < tap->snap ? d->len : tap->snap;
        memcpy(seen + 1, d->data, seen->kept);
    }
    return matched;
}

FM_FN void tap_put_seen(struct fm_tap *tap, struct tap_ring *ring, const struct tap_seen *from,
                        const uint8_t *data)
{
    uint8_t *slot = tap_slot(tap, ring);
    if (!slot || !tap_claims(tap))
        return;
    struct tap_seen *seen = (struct tap_seen *)(void *)slot;
    *seen = *from;
    seen->lost = ring->lost_untold;
    ring->lost_untold = 0;
    memcpy(seen + 1, data, seen->kept);
    tap_publish(ring);
}

/* What leaves, at the points that are open. */
FM_FN void tap_see_out(struct fm_tap *tap, struct tap_ring *ring, const struct fm_desc *d, int side,
                       uint64_t wall_ns)
{
    struct match_path path;
    uint32_t points = tap->points & 1u << TAP_TX;
    if (side == FM_HOME && d->verdict == FM_DECAPSULATED)
        points |= tap->points & 1u << TAP_DECAP;
    if (side == FM_TUNNEL)
        points |= tap->points & 1u << TAP_ENCAP;
    if (!points || !tap->wanted[d->verdict] ||
        !match_packet(&tap->match, d->data, d->len, &path))
        return;
    struct tap_seen seen = {.wall_ns = wall_ns,
                            .length = d->len,
                            .kept = d->len < tap->snap ? d->len : tap->snap,
                            .verdict = d->verdict,
                            .side = (uint8_t)side};
    for (uint32_t point = 0; point < TAP_POINTS; point++) {
        if (!(points & 1u << point))
            continue;
        seen.point = (uint8_t)point;
        tap_put_seen(tap, ring, &seen, d->data);
    }
}

/* One batch's end for a capture. `before`: what had left when it began. */
FM_FN void tap_see(struct fm_tap *tap, struct tap_ring *ring, const struct fm_desc *batch,
                   uint64_t matched, int side, const uint32_t before[FM_SIDES],
                   const struct fm_out *out, uint64_t started_ns)
{
    for (; matched && tap->points & 1u << TAP_RX; matched &= matched - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(matched);
        struct tap_seen *seen = (struct tap_seen *)(void *)(ring->staged + (size_t)i * tap->stride);
        if (!tap->wanted[batch[i].verdict])
            continue;
        seen->wall_ns = started_ns;
        seen->verdict = batch[i].verdict;
        seen->point = TAP_RX;
        seen->side = (uint8_t)side;
        tap_put_seen(tap, ring, seen, (const uint8_t *)(seen + 1));
    }
    uint64_t ended_ns = tap_wall_ns();
    for (int to = 0; to < FM_SIDES; to++)
        for (uint32_t i = before[to]; i < out->count[to]; i++)
            tap_see_out(tap, ring, out->packets[to][i], to, ended_ns);
}

/* One packet's end for a trace. */
FM_FN void tap_walk_end(struct fm_tap *tap, struct tap_ring *ring, struct tap_walk *walk,
                        const struct fm_desc *d, const uint32_t before[FM_SIDES],
                        const struct fm_out *out, uint64_t wall_ns, uint64_t ticks)
{
    if (!tap->wanted[d->verdict])
        return;
    uint8_t *slot = tap_slot(tap, ring);
    if (!slot || !tap_claims(tap))
        return;
    walk->wall_ns = wall_ns;
    walk->ns_ticks = ticks;
    walk->verdict = d->verdict;
    for (int to = 0; to < FM_SIDES; to++)
        for (uint32_t i = before[to]; i < out->count[to]; i++) {
            if (walk->out_count < TAP_WALK_OUTS) {
                tap_keep(&walk->out[walk->out_count], out->packets[to][i]);
                walk->out[walk->out_count].side = (uint8_t)to;
            }
            walk->out_count++;
        }
    memcpy(slot, walk, sizeof *walk);
    tap_publish(ring);
}

/* A batch of which some packets are traced: one at a time. */
FM_FN void tap_run_singly(struct fm_worker *w, struct fm_tap **taps, const uint64_t *matched,
                          struct fm_desc *batch, uint32_t n, int side, uint64_t now_ns,
                          struct fm_out *out)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t before[FM_SIDES] = {out->count[FM_HOME], out->count[FM_TUNNEL]};
        uint64_t wall_ns = tap_wall_ns(), started = fm_ticks();
        w->engine->loops[side](w, batch + i, 1, now_ns, out);
        uint64_t ticks = fm_ticks() - started;
        for (uint32_t k = 0; k < FM_TAPS; k++) {
            if (!taps[k] || taps[k]->points || !(matched[k] >> i & 1))
                continue;
            struct tap_ring *ring = taps[k]->rings[w->number];
            uint8_t *staged = ring->staged + (size_t)i * taps[k]->stride;
            tap_walk_end(taps[k], ring, (struct tap_walk *)(void *)staged, &batch[i], before, out,
                         wall_ns, ticks);
        }
    }
}

FM_COLD void tap_batch(struct fm_worker *w, struct fm_desc *batch, uint32_t n, int side,
                       uint64_t now_ns, struct fm_out *out)
{
    struct fm_engine *e = w->engine;
    struct fm_tap *taps[FM_TAPS];
    uint64_t matched[FM_TAPS];
    uint64_t is_traced = 0, started_ns = tap_wall_ns();
    uint32_t before[FM_SIDES] = {out->count[FM_HOME], out->count[FM_TUNNEL]};
    for (uint32_t k = 0; k < FM_TAPS; k++) {
        taps[k] = __atomic_load_n(&e->taps[k], __ATOMIC_ACQUIRE);
        if (!taps[k] || tap_is_done(taps[k])) {
            taps[k] = (struct fm_tap *)0;
            continue;
        }
        matched[k] =
            tap_stage(w, taps[k], taps[k]->rings[w->number], batch, n, side, now_ns);
        if (!taps[k]->points)
            is_traced |= matched[k];
    }
    if (is_traced)
        tap_run_singly(w, taps, matched, batch, n, side, now_ns, out);
    else
        e->loops[side](w, batch, n, now_ns, out);
    for (uint32_t k = 0; k < FM_TAPS; k++)
        if (taps[k] && taps[k]->points)
            tap_see(taps[k], taps[k]->rings[w->number], batch, matched[k], side, before, out,
                    started_ns);
}

FM_COLD void tap_home_batch(struct fm_worker *w, struct fm_desc *batch, uint32_t n,
                            uint64_t now_ns, struct fm_out *out)
{
    tap_batch(w, batch, n, FM_HOME, now_ns, out);
}

FM_COLD void tap_tunnel_batch(struct fm_worker *w, struct fm_desc *batch, uint32_t n,
                              uint64_t now_ns, struct fm_out *out)
{
    tap_batch(w, batch, n, FM_TUNNEL, now_ns, out);
}

/* Control thread: `run` becomes the plain loops, or with taps around them. */
FM_FN void tap_engage(struct fm_engine *e)
{
    int is_tapped = 0;
    for (uint32_t k = 0; k < FM_TAPS; k++)
        is_tapped |= e->taps[k] != (struct fm_tap *)0;
    fm_batch_fn home = is_tapped ? tap_home_batch : e->loops[FM_HOME];
    fm_batch_fn tunnel = is_tapped ? tap_tunnel_batch : e->loops[FM_TUNNEL];
    __atomic_store_n(&e->run[FM_HOME], home, __ATOMIC_RELEASE);
    __atomic_store_n(&e->run[FM_TUNNEL], tunnel, __ATOMIC_RELEASE);
}

FM_FN void tap_free(struct fm_tap *tap)
{
    if (!tap)
        return;
    for (uint32_t i = 0; i < tap->ring_count; i++) {
        if (!tap->rings[i])
            continue;
        free(tap->rings[i]->slots);
        free(tap->rings[i]->staged);
        free(tap->rings[i]);
    }
    free(tap);
}

/* Control thread: a tap that is not published yet, NULL without memory. `points` 0 is a trace. */
FM_FN struct fm_tap *tap_new(uint32_t workers, uint32_t points, uint32_t snap, uint32_t slots)
{
    struct fm_tap *tap = (struct fm_tap *)calloc(1, sizeof *tap);
    if (!tap)
        return tap;
    size_t size = points ? sizeof(struct tap_seen) + snap : sizeof(struct tap_walk);
    tap->points = points;
    tap->snap = snap;
    tap->stride = (uint32_t)((size + 63) & ~(size_t)63);
    tap->slot_count = slots;
    tap->left = INT64_MAX;
    tap->ring_count = workers;
    for (uint32_t i = 0; i < workers; i++) {
        struct tap_ring *ring = (struct tap_ring *)aligned_alloc(64, sizeof *ring);
        tap->rings[i] = ring;
        if (!ring)
            break;
        memset(ring, 0, sizeof *ring);
        ring->slots = (uint8_t *)aligned_alloc(64, (size_t)slots * tap->stride);
        ring->staged = (uint8_t *)aligned_alloc(64, (size_t)FM_BATCH * tap->stride);
        if (!ring->slots || !ring->staged)
            break;
        if (i + 1 == workers)
            return tap;
    }
    tap_free(tap);
    return (struct fm_tap *)0;
}

/* Control thread: 0 when published, -1 when all places are taken. */
FM_FN int tap_open(struct fm_engine *e, struct fm_tap *tap)
{
    for (uint32_t k = 0; k < FM_TAPS; k++) {
        if (e->taps[k])
            continue;
        __atomic_store_n(&e->taps[k], tap, __ATOMIC_RELEASE);
        tap_engage(e);
        return 0;
    }
    return -1;
}

/* Control thread: withdrawn, and no worker sees it any more; what the rings hold stays until
 * tap_free. -1 when a worker does not pass for a second: then it is never to be freed. */
FM_FN int tap_withdraw(struct fm_engine *e, struct fm_tap *tap)
{
    for (uint32_t k = 0; k < FM_TAPS; k++)
        if (e->taps[k] == tap)
            __atomic_store_n(&e->taps[k], (struct fm_tap *)0, __ATOMIC_RELEASE);
    tap_engage(e);
    uint64_t epoch = __atomic_add_fetch(&e->epoch, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* withdrawn before worker epochs are read */
    for (int i = 0; i < TAP_BATCH_WAITS; i++) {
        if (fm_epoch_is_over(e, epoch))
            return 0;
        usleep(50);
    }
    return -1;
}

/* Control thread: the oldest packet of a ring, NULL when it is empty. */
FM_INLINE const uint8_t *tap_oldest(const struct fm_tap *tap, const struct tap_ring *ring)
{
    if (ring->taken == __atomic_load_n(&ring->put, __ATOMIC_ACQUIRE))
        return (const uint8_t *)0;
    return ring->slots + (ring->taken & (tap->slot_count - 1)) * tap->stride;
}

FM_INLINE void tap_took(struct tap_ring *ring)
{
    __atomic_store_n(&ring->taken, ring->taken + 1, __ATOMIC_RELEASE);
}

/* Control thread: the ring whose oldest packet is the oldest of all, NULL when all are empty. Both
 * kinds of slots begin with the time. */
FM_FN struct tap_ring *tap_earliest(const struct fm_tap *tap)
{
    struct tap_ring *earliest = (struct tap_ring *)0;
    uint64_t when = 0;
    for (uint32_t i = 0; i < tap->ring_count; i++) {
        const uint8_t *oldest = tap_oldest(tap, tap->rings[i]);
        if (!oldest)
            continue;
        uint64_t wall_ns = load64(oldest);
        if (!earliest || wall_ns < when) {
            earliest = tap->rings[i];
            when = wall_ns;
        }
    }
    return earliest;
}

FM_FN uint64_t tap_lost(const struct fm_tap *tap)
{
    uint64_t lost = 0;
    for (uint32_t i = 0; i < tap->ring_count; i++)
        lost += __atomic_load_n(&tap->rings[i]->lost, __ATOMIC_RELAXED);
    return lost;
}

#endif
