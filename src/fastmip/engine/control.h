/* The control thread's side: memory, records to lines, publication, reclaim.
 *
 * prepare may fail and changes nothing a worker can see; publish cannot fail: it copies what
 * was learnt about unchanged tunnels, release-stores one 4-byte line number and retires the
 * old chain. Retired lines wait in a queue until every worker has announced a later epoch.
 */
#ifndef FASTMIP_CONTROL_H
#define FASTMIP_CONTROL_H

#include <sys/mman.h>
#include <unistd.h>

#include "index_writer.h"
#include "pipeline.h"

#define FM_RECORD_REVERSE 1
#define FM_RECORD_FIRST_ONLY 2
#define FM_TOS_NORMAL 0
#define FM_TOS_COMPATIBILITY 1
#define FM_DEFAULT_MTU 1500
#define FM_MTU_MIN 68
#define FM_DEFAULT_TTL 64
#define FM_FULL (-1) /* max_bindings reached, or no slot in the index */
#define FM_BUSY (-2) /* lines exist, but a worker may still hold them */
#define FM_BUSY_WAIT_US 100
#define FM_BUSY_WAITS 500 /* 50 ms: a worker that was descheduled in a batch */
#define FM_SLACK_MIN 4096u /* lines beyond max_bindings: prepared or waiting for workers */

/* TUNNEL_RECORD_SIZE bytes, host order. */
struct fm_record {
    uint32_t home, remote, local;
    uint16_t mtu; /* of the outer path; 0 = 1500 */
    uint8_t encapsulation, flags;
    uint64_t expires;
    uint8_t ttl, tos; /* 0 = 64; FM_TOS_* */
    uint8_t pad[6];
};
_Static_assert(sizeof(struct fm_record) == 32, "TUNNEL_RECORD_SIZE");

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
    uint32_t max_bindings, line_count;
    uint32_t fresh;            /* first line never used */
    uint32_t free_head;        /* list by line.link */
    uint32_t old_head, old_tail; /* retired lines, oldest first, by line.link */
    uint32_t published, prepared;
    fm_find_fn find;
    const char *loops;
    uint64_t started_ticks, started_ns;
};

/* Lazily touched, huge pages when the kernel has them. NULL when refused. */
FM_FN void *control_map(uint64_t bytes)
{
    void *p = mmap((void *)0, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return (void *)0;
    if (bytes >= 2u << 20)
        (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

FM_INLINE void control_unmap(void *p, uint64_t bytes)
{
    if (p)
        munmap(p, bytes);
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
    control_unmap(e->by_home.buckets, index_bytes(&e->by_home));
    control_unmap(e->by_home.notes, notes_bytes(&e->by_home));
    control_unmap(e->by_remote.buckets, index_bytes(&e->by_remote));
    control_unmap(e->by_remote.notes, notes_bytes(&e->by_remote));
    control_unmap(e->prefixes.entry, (uint64_t)4 << 24);
    control_unmap(e->prefixes.length, (uint64_t)1 << 24);
    control_unmap(e->prefixes.group_entry, (uint64_t)FM_GROUP_MAX << 10);
    control_unmap(e->prefixes.group_length, (uint64_t)FM_GROUP_MAX << 8);
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
    e->lowest_home = 0xffffffffu; /* nothing bound: an empty range */
    e->highest_home = 0xffffffffu;
    e->lines = (struct fm_line *)control_map(lines_bytes(c));
    e->prefixes.entry = (uint32_t *)control_map((uint64_t)4 << 24);
    e->prefixes.length = (uint8_t *)control_map((uint64_t)1 << 24);
    e->prefixes.group_entry = (uint32_t *)control_map((uint64_t)FM_GROUP_MAX << 10);
    e->prefixes.group_length = (uint8_t *)control_map((uint64_t)FM_GROUP_MAX << 8);
    if (control_index_create(&e->by_home, max_bindings, seed) ||
        control_index_create(&e->by_remote, max_bindings, seed + 3) || !e->lines ||
        !e->prefixes.entry || !e->prefixes.length || !e->prefixes.group_entry ||
        !e->prefixes.group_length)
        return -1;
    e->lines[FM_NO_LINE].home = FM_NO_HOME;
    for (uint32_t i = 0; i < workers; i++) {
        if (!(e->workers[i] = control_new_worker(c, icmp_per_s, icmp_burst)))
            return -1;
        e->workers[i]->icmp_id = i;
        e->workers[i]->icmp_id_step = workers;
        e->worker_count++;
    }
    c->loops = fm_choose_loops(e, &c->find, 0);
    return 0;
}

/* Why a record cannot be a tunnel, or NULL. */
FM_FN const char *control_reject(const struct fm_record *r)
{
    if (ipv4_is_martian_source(swap32(r->home)))
        return "home address is no unicast host address";
    if (ipv4_is_martian_source(swap32(r->remote)) || ipv4_is_martian_source(swap32(r->local)))
        return "tunnel end is no unicast host address";
    if (r->remote == r->home)
        return "remote tunnel end is the home address";
    if (r->remote == r->local)
        return "both tunnel ends are the same";
    if (r->encapsulation != PROTO_IPIP)
        return "encapsulation is not IP in IP (4)";
    if (r->mtu != 0 && r->mtu < FM_MTU_MIN)
        return "path MTU is below 68";
    if (r->flags & ~(FM_RECORD_REVERSE | FM_RECORD_FIRST_ONLY))
        return "unknown flags";
    if (r->tos > FM_TOS_COMPATIBILITY)
        return "unknown TOS mode";
    return (const char *)0;
}

FM_FN void control_fill(struct fm_line *line, const struct fm_record *r, uint32_t next)
{
    memset(line, 0, sizeof *line);
    line->home = swap32(r->home);
    line->remote = swap32(r->remote);
    line->local = swap32(r->local);
    line->next = next;
    line->expires = r->expires;
    uint8_t ttl = r->ttl ? r->ttl : FM_DEFAULT_TTL;
    line->constant_sum = ipip_constant_sum(line->local, line->remote, ttl);
    line->outer = ipip_constant_middle(line->local, ttl);
    line->budget = (uint16_t)((r->mtu ? r->mtu : FM_DEFAULT_MTU) - IPIP_OVERHEAD);
    line->tos_mask = r->tos == FM_TOS_COMPATIBILITY ? (uint8_t)~ECN_MASK : 0xff;
    line->flags = (uint8_t)(((r->flags & FM_RECORD_REVERSE) ? FM_LINE_REVERSE : 0) |
                            ((r->flags & FM_RECORD_FIRST_ONLY) ? FM_LINE_FIRST_ONLY : 0) |
                            (r->encapsulation == PROTO_IPIP ? FM_LINE_IPIP : 0));
    line->plain_budget = line->budget;
}

/* Lines whose workers have all moved on become free; at most `limit`. */
FM_FN void control_reclaim(struct fm_control *c, uint32_t limit)
{
    struct fm_engine *e = &c->e;
    while (c->old_head && limit--) {
        uint32_t number = c->old_head;
        struct fm_line *line = &e->lines[number];
        if (!fm_epoch_is_over(e, line->retired))
            return;
        c->old_head = line->link;
        if (!c->old_head)
            c->old_tail = FM_NO_LINE;
        for (uint32_t i = 0; i < e->worker_count; i++) {
            struct fm_worker *w = e->workers[i];
            if (w->sent[number].packets)
                memset(&w->sent[number], 0, sizeof(struct fm_tally));
            if (w->received[number].packets)
                memset(&w->received[number], 0, sizeof(struct fm_tally));
        }
        line->link = c->free_head;
        c->free_head = number;
    }
}

FM_FN uint32_t control_take_line(struct fm_control *c)
{
    uint32_t number = c->free_head;
    if (number) {
        c->free_head = c->e.lines[number].link;
        return number;
    }
    return c->fresh < c->line_count ? c->fresh++ : FM_NO_LINE;
}

FM_INLINE void control_give_line(struct fm_control *c, uint32_t number)
{
    c->e.lines[number].link = c->free_head;
    c->free_head = number;
}

FM_FN void control_retire(struct fm_control *c, uint32_t head)
{
    struct fm_engine *e = &c->e;
    for (uint32_t number = head; number; number = e->lines[number].next) {
        int64_t slot = index_slot(&e->by_remote, e->lines[number].remote);
        if (slot >= 0 && index_line_at(&e->by_remote, slot) == number)
            index_release(&e->by_remote, slot, e->lines[number].remote);
    }
    uint64_t epoch = __atomic_add_fetch(&e->epoch, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* withdrawn before worker epochs are read */
    for (uint32_t number = head; number; number = e->lines[number].next) {
        struct fm_line *line = &e->lines[number];
        line->retired = epoch;
        line->link = FM_NO_LINE;
        if (c->old_tail)
            e->lines[c->old_tail].link = number;
        else
            c->old_head = number;
        c->old_tail = number;
        c->published--;
    }
}

FM_FN uint32_t control_head(const struct fm_control *c, uint32_t home_be)
{
    int64_t slot = index_slot(&c->e.by_home, home_be);
    return slot < 0 ? FM_NO_LINE : index_line_at(&c->e.by_home, slot);
}

/* Chain for n (1..8) accepted records of one home address; its first line, or
 * FM_FULL, or FM_BUSY.
 * keep_slot: another prepared chain of the same home address needs its slot. */
FM_FN int64_t control_prepare(struct fm_control *c, const struct fm_record *r, uint32_t n,
                              int keep_slot)
{
    struct fm_engine *e = &c->e;
    uint32_t home_be = swap32(r->home), head = control_head(c, home_be), next = FM_NO_LINE;
    uint32_t replaced = head ? e->lines[head].chain_length : 0;
    control_reclaim(c, c->free_head ? 16 : c->line_count);
    if ((uint64_t)c->published + c->prepared + n > (uint64_t)c->max_bindings + replaced)
        return FM_FULL;
    int64_t slot = index_reserve(&e->by_home, home_be);
    if (slot < 0)
        return FM_FULL;
    for (uint32_t i = n; i-- > 0;) {
        uint32_t number = control_take_line(c);
        if (!number) {
            while (next) {
                uint32_t after = e->lines[next].next;
                control_give_line(c, next);
                next = after;
            }
            if (!head && !keep_slot)
                index_release(&e->by_home, slot, home_be);
            return c->old_head ? FM_BUSY : FM_FULL;
        }
        control_fill(&e->lines[number], &r[i], next);
        next = number;
    }
    e->lines[next].chain_length = (uint8_t)n;
    if (n > 1 && !(e->lines[next].flags & FM_LINE_FIRST_ONLY) && e->role == FM_HOME_AGENT)
        e->lines[next].plain_budget = 0;
    c->prepared += n;
    return next;
}

/* control_prepare, waiting a bounded time for workers when changes come faster than they
 * finish batches. */
FM_FN int64_t control_prepare_patiently(struct fm_control *c, const struct fm_record *r,
                                        uint32_t n, int keep_slot)
{
    int64_t head = control_prepare(c, r, n, keep_slot);
    for (int waited = 0; head == FM_BUSY && waited < FM_BUSY_WAITS; waited++) {
        usleep(FM_BUSY_WAIT_US);
        head = control_prepare(c, r, n, keep_slot);
    }
    return head;
}

FM_FN void control_widen(struct fm_engine *e, uint32_t lowest, uint32_t highest)
{
    int is_empty = e->lowest_home > e->highest_home || e->lowest_home == 0xffffffffu;
    if (is_empty || highest > e->highest_home)
        __atomic_store_n(&e->highest_home, highest, __ATOMIC_RELAXED);
    if (is_empty || lowest < e->lowest_home)
        __atomic_store_n(&e->lowest_home, lowest, __ATOMIC_RELAXED);
}

FM_FN void control_inherit(struct fm_engine *e, struct fm_line *line, uint32_t head)
{
    for (uint32_t number = head; number; number = e->lines[number].next)
        if (e->lines[number].remote == line->remote && e->lines[number].local == line->local)
            line->soft = __atomic_load_n(&e->lines[number].soft, __ATOMIC_RELAXED);
}

FM_FN void control_publish(struct fm_control *c, uint32_t head)
{
    struct fm_engine *e = &c->e;
    uint32_t home_be = e->lines[head].home, n = e->lines[head].chain_length;
    int64_t slot = index_slot(&e->by_home, home_be);
    uint32_t old = index_line_at(&e->by_home, slot);
    for (uint32_t number = head; number; number = e->lines[number].next)
        control_inherit(e, &e->lines[number], old);
    control_widen(e, swap32(home_be), swap32(home_be));
    index_set(&e->by_home, slot, head);
    c->prepared -= n;
    c->published += n;
    if (old)
        control_retire(c, old);
    for (uint32_t number = head; number; number = e->lines[number].next) {
        slot = index_reserve(&e->by_remote, e->lines[number].remote);
        if (slot >= 0) /* without it only eight-octet quotes stay unresolved */
            index_set(&e->by_remote, slot, number);
    }
}

/* keep_slot: as in control_prepare. */
FM_FN void control_abandon(struct fm_control *c, uint32_t head, int keep_slot)
{
    struct fm_engine *e = &c->e;
    uint32_t home_be = e->lines[head].home;
    c->prepared -= e->lines[head].chain_length;
    while (head) {
        uint32_t next = e->lines[head].next;
        control_give_line(c, head);
        head = next;
    }
    int64_t slot = index_slot(&e->by_home, home_be);
    if (!keep_slot && slot >= 0 && !index_line_at(&e->by_home, slot))
        index_release(&e->by_home, slot, home_be);
}

FM_FN int control_remove(struct fm_control *c, uint32_t home_be, int keep_slot)
{
    int64_t slot = index_slot(&c->e.by_home, home_be);
    uint32_t head = slot < 0 ? FM_NO_LINE : index_line_at(&c->e.by_home, slot);
    if (!head)
        return 0;
    index_set(&c->e.by_home, slot, FM_NO_LINE);
    if (!keep_slot)
        index_release(&c->e.by_home, slot, home_be);
    control_retire(c, head);
    return 1;
}

FM_FN int control_extend(struct fm_control *c, uint32_t home_be, uint32_t remote_be,
                         uint64_t expires)
{
    struct fm_engine *e = &c->e;
    for (uint32_t number = control_head(c, home_be); number; number = e->lines[number].next)
        if (e->lines[number].remote == remote_be) {
            __atomic_store_n(&e->lines[number].expires, expires, __ATOMIC_RELAXED);
            return 1;
        }
    return 0;
}

/* Bulk load: consecutive records of one home address form a chain. Returns records installed;
 * stops at the first that cannot be, with *reason (NULL means no room) and *at its number. */
FM_FN int64_t control_restore(struct fm_control *c, const struct fm_record *r, uint64_t n,
                              uint64_t *at, const char **reason)
{
    uint64_t i = 0;
    *reason = (const char *)0;
    while (i < n) {
        uint32_t length = 0;
        *at = i;
        do {
            *at = i + length;
            if ((*reason = control_reject(&r[i + length])))
                return (int64_t)i;
            length++;
        } while (i + length < n && length < FM_MAX_COPIES && r[i + length].home == r[i].home);
        int64_t head = control_prepare_patiently(c, &r[i], length, 0);
        if (head < 0)
            return (int64_t)i;
        control_publish(c, (uint32_t)head);
        i += length;
    }
    *at = n;
    return (int64_t)n;
}

/* Bytes in memory for bindings and everything beside them. */
FM_FN uint64_t control_memory(const struct fm_control *c)
{
    const struct fm_engine *e = &c->e;
    uint64_t sum = control_resident(e->lines, lines_bytes(c)) +
                   control_resident(e->by_home.buckets, index_bytes(&e->by_home)) +
                   control_resident(e->by_home.notes, notes_bytes(&e->by_home)) +
                   control_resident(e->by_remote.buckets, index_bytes(&e->by_remote)) +
                   control_resident(e->by_remote.notes, notes_bytes(&e->by_remote)) +
                   control_resident(e->prefixes.entry, (uint64_t)4 << 24) +
                   control_resident(e->prefixes.length, (uint64_t)1 << 24) +
                   control_resident(e->prefixes.group_entry, (uint64_t)FM_GROUP_MAX << 10) +
                   control_resident(e->prefixes.group_length, (uint64_t)FM_GROUP_MAX << 8);
    for (uint32_t i = 0; i < e->worker_count; i++) {
        const struct fm_worker *w = e->workers[i];
        sum += control_resident(w->sent, tallies_bytes(c)) +
               control_resident(w->received, tallies_bytes(c)) +
               control_resident(w->scratch, FM_SCRATCH_SIZE) + sizeof *w;
    }
    return sum;
}

/* Counts of all workers since they were made. */
FM_FN struct fm_counts control_sum(const struct fm_control *c)
{
    struct fm_counts sum;
    memset(&sum, 0, sizeof sum);
    for (uint32_t i = 0; i < c->e.worker_count; i++) {
        const struct fm_worker *w = c->e.workers[i];
        for (int k = 0; k < FM_VERDICT_COUNT; k++) {
            sum.verdicts[k].packets += w->verdicts[k].packets;
            sum.verdicts[k].bytes += w->verdicts[k].bytes;
        }
        for (int k = 0; k < FM_EVENT_COUNT; k++)
            sum.events[k] += w->events[k];
        for (int k = 0; k < FM_STAGES; k++) {
            sum.costs[k].calls += w->costs[k].calls;
            sum.costs[k].packets += w->costs[k].packets;
            sum.costs[k].sampled_packets += w->costs[k].sampled_packets;
            sum.costs[k].sampled_ticks += w->costs[k].sampled_ticks;
        }
        sum.copies += w->copies;
        sum.generated += w->generated;
        sum.inputs += w->inputs;
    }
    return sum;
}

/* The same since they were cleared. */
FM_FN struct fm_counts control_counts(const struct fm_control *c)
{
    struct fm_counts now = control_sum(c);
    const struct fm_counts *was = &c->cleared;
    for (int k = 0; k < FM_VERDICT_COUNT; k++) {
        now.verdicts[k].packets -= was->verdicts[k].packets;
        now.verdicts[k].bytes -= was->verdicts[k].bytes;
    }
    for (int k = 0; k < FM_EVENT_COUNT; k++)
        now.events[k] -= was->events[k];
    for (int k = 0; k < FM_STAGES; k++) {
        now.costs[k].calls -= was->costs[k].calls;
        now.costs[k].packets -= was->costs[k].packets;
        now.costs[k].sampled_packets -= was->costs[k].sampled_packets;
        now.costs[k].sampled_ticks -= was->costs[k].sampled_ticks;
    }
    now.copies -= was->copies;
    now.generated -= was->generated;
    now.inputs -= was->inputs;
    return now;
}

/* Verdicts, events and costs count from zero again. Workers own their counters, so the control
 * thread only remembers where they stood. A batch in hand has counted its inputs, but not all
 * verdicts yet: inputs are taken from the verdicts, or the balance would be off for ever. */
FM_FN void control_clear_counters(struct fm_control *c)
{
    c->cleared = control_sum(c);
    uint64_t verdicts = 0;
    for (int k = 0; k < FM_VERDICT_COUNT; k++)
        verdicts += c->cleared.verdicts[k].packets;
    c->cleared.inputs = verdicts - c->cleared.generated - c->cleared.copies;
}

#endif
