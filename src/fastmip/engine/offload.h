/* Home addresses for the offload programs (bpf/offload.h): one entry for each address of the home
 * networks, in memory shared with the kernel, written by whoever writes the binding cache.
 *
 * A change makes the entry's version odd, then the engine's own line is published, then the entry
 * is filled and its version even again: in between packets go through the engine. What workers
 * learn about a tunnel is one store of `soft`, a refreshed expiry one of `expires`.
 */
#ifndef FASTMIP_OFFLOAD_H
#define FASTMIP_OFFLOAD_H

#include <sys/syscall.h>
#include <unistd.h>

#include "../bpf/home.h"
#include "worker.h"

#define FM_OFFLOAD_NETWORKS 16
#define FM_MEMBARRIER_GLOBAL 1

struct fm_offload_network {
    uint32_t first, last; /* host order */
    uint32_t home;        /* number of the first address */
};

struct fm_offload {
    uint32_t network_count, home_count;
    struct fm_offload_network network[FM_OFFLOAD_NETWORKS];
    struct fm_home *homes;
    struct fm_home_tally *cleared; /* what their counters were when the binding came */
};

/* Number of a home address's entry, or -1. */
FM_INLINE int64_t offload_number(const struct fm_offload *o, uint32_t home_be)
{
    uint32_t home = swap32(home_be);
    for (uint32_t i = 0; i < o->network_count; i++)
        if (home - o->network[i].first <= o->network[i].last - o->network[i].first)
            return (int64_t)o->network[i].home + (home - o->network[i].first);
    return -1;
}

FM_INLINE struct fm_home *offload_home(const struct fm_engine *e, uint32_t home_be)
{
    int64_t number = e->offload ? offload_number(e->offload, home_be) : -1;
    return number < 0 ? (struct fm_home *)0 : &e->offload->homes[number];
}

/* The entry is about to change: packets go through the engine until offload_end. */
FM_FN void offload_begin(const struct fm_engine *e, uint32_t home_be)
{
    struct fm_home *home = offload_home(e, home_be);
    if (!home)
        return;
    __atomic_store_n(&home->version, home->version | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#if !defined(__x86_64__)
    /* BPF cannot order its loads where the CPU does not: wait until no program is inside. */
    if (home->flags & FM_HOME_PLAIN)
        (void)syscall(SYS_membarrier, FM_MEMBARRIER_GLOBAL, 0, 0);
#endif
}

FM_FN struct fm_home_tally offload_sum(const struct fm_offload *o, int64_t number)
{
    struct fm_home_tally sum = {0, 0, 0, 0};
    for (uint32_t i = 0; i < FM_TALLIES; i++) {
        const volatile struct fm_home_tally *t = &o->homes[number].tally[i];
        sum.sent_packets += t->sent_packets;
        sum.sent_bytes += t->sent_bytes;
        sum.received_packets += t->received_packets;
        sum.received_bytes += t->received_bytes;
    }
    return sum;
}

/* What the programs carried for the binding a home address has now. */
FM_FN struct fm_home_tally offload_traffic(const struct fm_engine *e, uint32_t home_be)
{
    struct fm_home_tally sum = {0, 0, 0, 0};
    int64_t number = e->offload ? offload_number(e->offload, home_be) : -1;
    if (number < 0)
        return sum;
    const struct fm_home_tally *cleared = &e->offload->cleared[number];
    sum = offload_sum(e->offload, number);
    sum.sent_packets -= cleared->sent_packets;
    sum.sent_bytes -= cleared->sent_bytes;
    sum.received_packets -= cleared->received_packets;
    sum.received_bytes -= cleared->received_bytes;
    return sum;
}

/* Is all of a chain what the programs can do? */
FM_INLINE int offload_is_plain(const struct fm_line *head)
{
    return head->chain_length == 1 && head->method == FM_IPIP && head->plain_budget;
}

/* A line's soft state changed: whoever learnt it tells the programs what is true of the line that is
 * published now, however many learn and publish at once. */
FM_FN void offload_learn(const struct fm_engine *e, const struct fm_line *line)
{
    struct fm_home *home = offload_home(e, line->home);
    uint32_t number;
    uint64_t soft;
    if (!home)
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* published before it is told of */
    do {
        number = index_find(&e->by_home, line->home);
        soft = __atomic_load_n(&e->lines[number].soft, __ATOMIC_RELAXED);
        __atomic_store_n(&home->soft, soft, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* told before it is looked at again */
    } while (number != index_find(&e->by_home, line->home) ||
             soft != __atomic_load_n(&e->lines[number].soft, __ATOMIC_RELAXED));
}

/* `head` is the published chain of the home address, FM_NO_LINE when it has none any more. */
FM_FN void offload_end(const struct fm_engine *e, uint32_t home_be, uint32_t head)
{
    struct fm_home *home = offload_home(e, home_be);
    if (!home)
        return;
    const struct fm_line *line = &e->lines[head];
    int64_t number = home - e->offload->homes;
    e->offload->cleared[number] = offload_sum(e->offload, number);
    home->flags = head ? FM_HOME_BOUND : 0;
    if (head && offload_is_plain(line)) {
        uint32_t sum = line->constant_sum;
        home->flags |= FM_HOME_PLAIN | (line->flags & FM_LINE_REVERSE ? FM_HOME_TAKE : 0);
        home->remote = line->remote;
        home->local = line->local;
        home->budget = line->budget;
        home->tos_mask = line->tos_mask;
        home->ttl = (uint8_t)line->outer;
        sum = (sum & 0xffff) + (sum >> 16);
        home->constant_sum = (uint16_t)((sum & 0xffff) + (sum >> 16));
        __atomic_store_n(&home->expires, __atomic_load_n(&line->expires, __ATOMIC_RELAXED),
                         __ATOMIC_RELAXED);
        offload_learn(e, line);
    }
    __atomic_store_n(&home->hop_stamp, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&home->version, (home->version | 1) + 1, __ATOMIC_RELEASE);
}

FM_INLINE void offload_extend(const struct fm_engine *e, const struct fm_line *line)
{
    struct fm_home *home = offload_home(e, line->home);
    if (home && home->flags & FM_HOME_PLAIN)
        __atomic_store_n(&home->expires, __atomic_load_n(&line->expires, __ATOMIC_RELAXED),
                         __ATOMIC_RELAXED);
}

#endif
