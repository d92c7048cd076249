/* What workers share (struct fm_engine, written by the control thread) and what each owns
 * (struct fm_worker: epoch, counters, scratch arena, ICMP budget). Nothing that a worker
 * writes per packet is shared; the control thread sums counters when they are read.
 */
#ifndef FASTMIP_WORKER_H
#define FASTMIP_WORKER_H

#include "bindings.h"
#include "frames.h"
#include "prefixes.h"

#define FM_LOCAL_MAX 64
#define FM_WORKERS_MAX 64
#define FM_TAPS 8 /* open at once */
#define FM_SCRATCH_SIZE (8u << 20) /* bytes for copies, fragments and ICMP of one batch */
/* Batches per cost sample: 0.1 % at 64 packets, 1 % at one. Prime, so that traffic that goes to
   and fro is not always met in the same direction. */
#define FM_SAMPLE_EVERY 61

enum fm_role { FM_HOME_AGENT = 0, FM_MOBILE_NODE = 1, FM_FOREIGN_AGENT = 2 };
enum fm_stage {
    FM_STAGE_RX,
    FM_STAGE_CHECK,
    FM_STAGE_LOOKUP,
    FM_STAGE_ENCAPSULATE,
    FM_STAGE_DECAPSULATE,
    FM_STAGE_TX,
    FM_STAGES
};

struct fm_tally {
    uint64_t packets, bytes;
};

struct fm_cost {
    uint64_t calls, packets;                 /* every batch */
    uint64_t sampled_packets, sampled_ticks; /* one batch in FM_SAMPLE_EVERY */
};

/* A keepalive through a half bound UDP tunnel (half_bound.h), host order. */
struct fm_half_bound {
    uint32_t home, source;
    uint16_t port;
};

#define FM_HALF_BOUND_MAX 64u

/* From a worker to the control thread. */
struct fm_half_bound_ring {
    struct fm_half_bound told[FM_HALF_BOUND_MAX];
    uint32_t put, taken;
};

struct fm_offload; /* offload.h */
struct fm_worker;
struct fm_tap; /* tap.h */
struct fm_egress;
struct fm_esp; /* esp_sa.h */
typedef void (*fm_batch_fn)(struct fm_worker *, struct fm_desc *, uint32_t, uint64_t,
                            struct fm_out *);

struct fm_engine {
    struct fm_index by_home;   /* home address -> head of chain */
    struct fm_index by_remote; /* far tunnel end -> a line, for short ICMP quotes */
    struct fm_line *lines;
    struct fm_prefixes prefixes;
    int role;
    uint32_t lowest_home, highest_home; /* host order; all home addresses bound lie between */
    uint32_t local_count;
    uint32_t local_be[FM_LOCAL_MAX] __attribute__((aligned(64))); /* zero-padded */
    fm_batch_fn loops[FM_SIDES]; /* chosen for this CPU */
    fm_batch_fn run[FM_SIDES];   /* the same, or with taps around them (tap.h) */
    struct fm_tap *taps[FM_TAPS];
    int half_bound_fd;         /* eventfd, -1 without */
    struct fm_egress *egress[FM_SIDES]; /* egress.h; NULL until an L2 port wants it */
    struct fm_offload *offload; /* NULL without */
    struct fm_esp *esp;         /* NULL without */
    uint32_t worker_count;
    struct fm_worker *workers[FM_WORKERS_MAX];
    uint64_t epoch __attribute__((aligned(64)));
};

struct fm_worker {
    /* read by the control thread */
    uint64_t epoch __attribute__((aligned(64))); /* 0 = offline, holds no line */
    uint64_t heartbeat;
    /* private */
    struct fm_engine *engine __attribute__((aligned(64)));
    uint64_t now_ns;
    struct fm_tally *sent;     /* per line, towards the home address's far end */
    struct fm_tally *received; /* per line */
    uint32_t is_sampled, batches;
    uint64_t inputs, generated, copies;
    struct fm_tally verdicts[FM_VERDICT_COUNT];
    uint64_t events[FM_EVENT_COUNT];
    struct fm_cost costs[FM_STAGES];
    struct fm_half_bound_ring half_bound;
    /* ICMP token bucket (RFC 1812 4.3.2.8) */
    uint64_t icmp_interval_ns, icmp_burst_ns, icmp_next_ns;
    uint32_t icmp_id, icmp_id_step; /* no two workers use the same Identification */
    uint32_t number;
    const char *came_by; /* name of the port the batch in hand came from */
    /* scratch: emptied at the start of each batch */
    uint8_t *scratch;
    uint32_t scratch_used, scratch_descs;
    struct fm_desc scratch_desc[FM_OUT_MAX];
};

/* A worker holds no line while offline (polling, stopped): it delays nobody's reclaim. */
FM_INLINE void fm_worker_online(struct fm_worker *w)
{
    uint64_t epoch = __atomic_load_n(&w->engine->epoch, __ATOMIC_ACQUIRE);
    /* Release: what the last batch read of lines is done when the control thread sees this. */
    __atomic_store_n(&w->epoch, epoch, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* epoch is visible before any line is looked up */
    __atomic_store_n(&w->heartbeat, w->heartbeat + 1, __ATOMIC_RELAXED);
}

FM_INLINE void fm_worker_offline(struct fm_worker *w)
{
    __atomic_store_n(&w->epoch, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&w->heartbeat, w->heartbeat + 1, __ATOMIC_RELAXED);
}

/* True when no worker can still hold a line retired at `epoch`. */
FM_INLINE int fm_epoch_is_over(const struct fm_engine *e, uint64_t epoch)
{
    for (uint32_t i = 0; i < e->worker_count; i++) {
        uint64_t seen = __atomic_load_n(&e->workers[i]->epoch, __ATOMIC_ACQUIRE);
        if (seen != 0 && seen < epoch)
            return 0;
    }
    return 1;
}

FM_INLINE uint64_t fm_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return 0;
#endif
}

/* Cost of a stage: ticks are read only in sampled batches, so that unsampled ones cost two
 * additions. Ports use the same pair for FM_STAGE_RX and FM_STAGE_TX. */
FM_INLINE uint64_t fm_stage_start(const struct fm_worker *w)
{
    return w->is_sampled ? fm_ticks() : 0;
}

FM_INLINE uint64_t fm_stage_end(struct fm_worker *w, int stage, uint32_t packets, uint64_t start)
{
    struct fm_cost *cost = &w->costs[stage];
    cost->calls++;
    cost->packets += packets;
    if (FM_LIKELY(!w->is_sampled))
        return 0;
    uint64_t now = fm_ticks();
    cost->sampled_packets += packets;
    cost->sampled_ticks += now - start;
    return now;
}

FM_INLINE void fm_event(struct fm_worker *w, int event, uint64_t n) { w->events[event] += n; }

/* The only place where a packet gets its verdict outside the fast loops. */
FM_INLINE void fm_finish(struct fm_worker *w, struct fm_desc *d, int verdict, uint32_t bytes)
{
    d->verdict = (uint16_t)verdict;
    w->verdicts[verdict].packets++;
    w->verdicts[verdict].bytes += bytes;
}

FM_INLINE void fm_emit(struct fm_out *out, int side, struct fm_desc *d)
{
    out->packets[side][out->count[side]++] = d;
}

/* Slow paths leave room so that every packet of the batch can still leave. */
FM_INLINE uint32_t fm_out_room(const struct fm_out *out, int side)
{
    uint32_t used = out->count[side] + FM_BATCH;
    return used < FM_OUT_MAX ? FM_OUT_MAX - used : 0;
}

/* A scratch packet of len octets with headroom, or NULL; data is aligned like a home frame. */
FM_INLINE struct fm_desc *fm_scratch(struct fm_worker *w, uint32_t len)
{
    uint32_t size = (FM_HEADROOM_MIN + 20 + len + FM_SCRATCH_TAIL + 63) & ~63u;
    if (w->scratch_descs == FM_OUT_MAX || size > FM_SCRATCH_SIZE - w->scratch_used)
        return (struct fm_desc *)0;
    struct fm_desc *d = &w->scratch_desc[w->scratch_descs++];
    memset(d, 0, sizeof *d);
    d->data = w->scratch + w->scratch_used + FM_HEADROOM_MIN + 20;
    d->len = len;
    w->scratch_used += size;
    return d;
}

/* Is this address (host order) held here, or may it be: by a home address, or a mobile network? */
FM_INLINE int may_be_held(const struct fm_engine *e, uint32_t address)
{
    uint32_t lowest = __atomic_load_n(&e->lowest_home, __ATOMIC_RELAXED);
    uint32_t highest = __atomic_load_n(&e->highest_home, __ATOMIC_RELAXED);
    return address - lowest <= highest - lowest ||
           (prefixes_may_hold(&e->prefixes, address) && prefixes_find(&e->prefixes, address));
}

#endif
