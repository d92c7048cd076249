/* The engine's address space: reserved once for max_bindings, touched as bindings come,
 * measured, given back. Nothing is allocated afterwards.
 */
#ifndef FASTMIP_SPACE_H
#define FASTMIP_SPACE_H

#include <sys/mman.h>
#include <unistd.h>

#include "tap.h"

#define FM_SLACK_MIN 4096u /* lines beyond max_bindings: prepared or waiting for workers */

/* What workers counted: the fields of struct fm_worker. */
struct fm_counts {
    uint64_t inputs, generated, copies;
    struct fm_tally verdicts[FM_VERDICT_COUNT];
    uint64_t events[FM_EVENT_COUNT];
    struct fm_cost costs[FM_STAGES];
};

struct fm_control {
    struct fm_engine e;
    struct fm_counts cleared;
    struct fm_cost cleared_costs[FM_WORKERS_MAX][FM_STAGES];
    struct fm_line_note *notes;
    uint32_t max_bindings, line_count;
    uint32_t fresh;            /* first line never used */
    uint32_t free_head;        /* list by note.link */
    uint32_t old_head, old_tail; /* retired lines, oldest first, by note.link */
    uint32_t published, prepared;
    fm_find_fn find;
    const char *loops;
    uint64_t started_ticks, started_ns;
};

#define FM_HUGE_PAGE (2ull << 20)

/* Large mappings are whole huge pages, so that none of their octets lies on a small one. */
FM_INLINE uint64_t control_whole(uint64_t bytes)
{
    return bytes < FM_HUGE_PAGE ? bytes : (bytes + FM_HUGE_PAGE - 1) & ~(FM_HUGE_PAGE - 1);
}

FM_INLINE void control_unmap(void *p, uint64_t bytes)
{
    if (p)
        munmap(p, control_whole(bytes));
}

/* Lazily touched, huge pages when the kernel has them. NULL when refused. */
FM_FN void *control_map(uint64_t bytes)
{
    uint64_t whole = control_whole(bytes), slack = whole < FM_HUGE_PAGE ? 0 : FM_HUGE_PAGE;
    uint8_t *p = (uint8_t *)mmap((void *)0, whole + slack, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return (void *)0;
    if (slack) {
        uint64_t before = -(uint64_t)(uintptr_t)p & (FM_HUGE_PAGE - 1);
        if (before)
            munmap(p, before);
        p += before;
        if (slack - before)
            munmap(p + whole, slack - before);
        (void)madvise(p, whole, MADV_HUGEPAGE);
    }
    return p;
}

/* Bytes of a mapping that are in memory. */
FM_FN uint64_t control_resident(void *p, uint64_t bytes)
{
    static unsigned char seen[4096];
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), resident = 0;
    if (!p)
        return 0;
    for (uint64_t at = 0; at < bytes; at += sizeof seen * page) {
        uint64_t part = bytes - at < sizeof seen * page ? bytes - at : sizeof seen * page;
        if (mincore((uint8_t *)p + at, part, seen) != 0)
            return bytes;
        for (uint64_t i = 0; i < (part + page - 1) / page; i++)
            resident += (seen[i] & 1) * page;
    }
    return resident;
}

FM_INLINE uint64_t index_bytes(const struct fm_index *x)
{
    return (uint64_t)x->bucket_count * sizeof(struct fm_bucket);
}
FM_INLINE uint64_t notes_bytes(const struct fm_index *x)
{
    return (uint64_t)x->bucket_count * sizeof(struct fm_bucket_note);
}
FM_INLINE uint64_t lines_bytes(const struct fm_control *c)
{
    return (uint64_t)c->line_count * sizeof(struct fm_line);
}
FM_INLINE uint64_t line_notes_bytes(const struct fm_control *c)
{
    return (uint64_t)c->line_count * sizeof(struct fm_line_note);
}
FM_INLINE uint64_t tallies_bytes(const struct fm_control *c)
{
    return (uint64_t)c->line_count * sizeof(struct fm_tally);
}

FM_FN int control_index_create(struct fm_index *x, uint32_t capacity, const uint64_t seed[3])
{
    x->bucket_count = capacity / 4 + 2; /* half full at most */
    x->key0 = (uint32_t)seed[0];
    x->key1 = seed[1] | 1;
    x->key2 = seed[2] | 1;
    x->buckets = (struct fm_bucket *)control_map(index_bytes(x));
    x->notes = (struct fm_bucket_note *)control_map(notes_bytes(x));
    return x->buckets && x->notes ? 0 : -1;
}

FM_FN void control_free_worker(struct fm_control *c, struct fm_worker *w)
{
    if (!w)
        return;
    control_unmap(w->sent, tallies_bytes(c));
    control_unmap(w->received, tallies_bytes(c));
    control_unmap(w->scratch, FM_SCRATCH_SIZE);
    control_unmap(w, sizeof *w);
}

FM_FN struct fm_worker *control_new_worker(struct fm_control *c, uint64_t icmp_per_s,
                                           uint64_t icmp_burst)
{
    struct fm_worker *w = (struct fm_worker *)control_map(sizeof *w);
    if (!w)
        return w;
    w->engine = &c->e;
    w->sent = (struct fm_tally *)control_map(tallies_bytes(c));
    w->received = (struct fm_tally *)control_map(tallies_bytes(c));
    w->scratch = (uint8_t *)control_map(FM_SCRATCH_SIZE);
    w->icmp_interval_ns = icmp_per_s ? 1000000000u / icmp_per_s : ~(uint64_t)0 >> 8;
    w->icmp_burst_ns = w->icmp_interval_ns * (icmp_burst ? icmp_burst - 1 : 0);
    if (!w->sent || !w->received || !w->scratch) {
        control_free_worker(c, w);
        return (struct fm_worker *)0;
    }
    return w;
}

FM_FN void control_destroy(struct fm_control *c)
{
    struct fm_engine *e = &c->e;
    for (uint32_t i = 0; i < e->worker_count; i++)
        control_free_worker(c, e->workers[i]);
    e->worker_count = 0;
    control_unmap(e->lines, lines_bytes(c));
    control_unmap(c->notes, line_notes_bytes(c));
    control_unmap(e->by_home.buckets, index_bytes(&e->by_home));
    control_unmap(e->by_home.notes, notes_bytes(&e->by_home));
    control_unmap(e->by_remote.buckets, index_bytes(&e->by_remote));
    control_unmap(e->by_remote.notes, notes_bytes(&e->by_remote));
    control_unmap(e->prefixes.entry, (uint64_t)4 << 24);
    control_unmap(e->prefixes.length, (uint64_t)1 << 24);
    control_unmap(e->prefixes.group_entry, (uint64_t)FM_GROUP_MAX << 10);
    control_unmap(e->prefixes.group_length, (uint64_t)FM_GROUP_MAX << 8);
    control_unmap(e->prefixes.sixteen, 8 << 10);
    control_unmap(e->prefixes.sixteen_count, 4 << 16);
    control_unmap(e->prefixes.alone, 8 << 10);
    control_unmap(e->prefixes.home_count, 4 << 16);
    control_unmap(e->prefixes.routers, (uint64_t)e->prefixes.router_max * sizeof(struct fm_router));
    c->notes = (struct fm_line_note *)0;
    memset(e, 0, sizeof *e);
}

/* All memory is reserved here; 0 or -1. c is zeroed by the caller. */
FM_FN int control_create(struct fm_control *c, uint32_t max_bindings, int role, uint32_t workers,
                         const uint64_t seed[6], uint64_t icmp_per_s, uint64_t icmp_burst)
{
    struct fm_engine *e = &c->e;
    uint32_t slack = max_bindings / 16 < FM_SLACK_MIN ? FM_SLACK_MIN : max_bindings / 16;
    c->max_bindings = max_bindings;
    c->line_count = max_bindings + slack + 1;
    c->fresh = 1;
    e->role = role;
    e->epoch = 1;
    e->half_bound_fd = -1;
    e->lowest_home = 0xffffffffu; /* nothing bound: an empty range */
    e->highest_home = 0xffffffffu;
    e->lines = (struct fm_line *)control_map(lines_bytes(c));
    c->notes = (struct fm_line_note *)control_map(line_notes_bytes(c));
    e->prefixes.entry = (uint32_t *)control_map((uint64_t)4 << 24);
    e->prefixes.length = (uint8_t *)control_map((uint64_t)1 << 24);
    e->prefixes.group_entry = (uint32_t *)control_map((uint64_t)FM_GROUP_MAX << 10);
    e->prefixes.group_length = (uint8_t *)control_map((uint64_t)FM_GROUP_MAX << 8);
    e->prefixes.sixteen = (uint64_t *)control_map(8 << 10);
    e->prefixes.sixteen_count = (uint32_t *)control_map(4 << 16);
    e->prefixes.alone = (uint64_t *)control_map(8 << 10);
    e->prefixes.home_count = (uint32_t *)control_map(4 << 16);
    e->prefixes.router_max = max_bindings + slack + 1;
    e->prefixes.routers = (struct fm_router *)control_map((uint64_t)e->prefixes.router_max *
                                                          sizeof(struct fm_router));
    if (control_index_create(&e->by_home, max_bindings, seed) ||
        control_index_create(&e->by_remote, max_bindings, seed + 3) || !e->lines || !c->notes ||
        !e->prefixes.entry || !e->prefixes.length || !e->prefixes.group_entry ||
        !e->prefixes.group_length || !e->prefixes.sixteen || !e->prefixes.sixteen_count ||
        !e->prefixes.alone || !e->prefixes.home_count || !e->prefixes.routers)
        return -1;
    e->lines[FM_NO_LINE].home = FM_NO_HOME;
    for (uint32_t i = 0; i < workers; i++) {
        if (!(e->workers[i] = control_new_worker(c, icmp_per_s, icmp_burst)))
            return -1;
        e->workers[i]->number = i;
        e->workers[i]->icmp_id = i;
        e->workers[i]->icmp_id_step = workers;
        e->worker_count++;
    }
    c->loops = fm_choose_loops(e, &c->find, 0);
    return 0;
}

/* Bytes in memory for bindings and everything beside them. */
FM_FN uint64_t control_memory(const struct fm_control *c)
{
    const struct fm_engine *e = &c->e;
    uint64_t sum = control_resident(e->lines, lines_bytes(c)) +
                   control_resident(c->notes, line_notes_bytes(c)) +
                   control_resident(e->by_home.buckets, index_bytes(&e->by_home)) +
                   control_resident(e->by_home.notes, notes_bytes(&e->by_home)) +
                   control_resident(e->by_remote.buckets, index_bytes(&e->by_remote)) +
                   control_resident(e->by_remote.notes, notes_bytes(&e->by_remote)) +
                   control_resident(e->prefixes.entry, (uint64_t)4 << 24) +
                   control_resident(e->prefixes.length, (uint64_t)1 << 24) +
                   control_resident(e->prefixes.group_entry, (uint64_t)FM_GROUP_MAX << 10) +
                   control_resident(e->prefixes.group_length, (uint64_t)FM_GROUP_MAX << 8) +
                   control_resident(e->prefixes.sixteen, 8 << 10) +
                   control_resident(e->prefixes.sixteen_count, 4 << 16) +
                   control_resident(e->prefixes.alone, 8 << 10) +
                   control_resident(e->prefixes.home_count, 4 << 16) +
                   control_resident(e->prefixes.routers, (uint64_t)e->prefixes.router_max *
                                                             sizeof(struct fm_router));
    for (uint32_t i = 0; i < e->worker_count; i++) {
        const struct fm_worker *w = e->workers[i];
        sum += control_resident(w->sent, tallies_bytes(c)) +
               control_resident(w->received, tallies_bytes(c)) +
               control_resident(w->scratch, FM_SCRATCH_SIZE) + sizeof *w;
    }
    return sum;
}

#endif
