/* The control thread's side: records to lines, publication, reclaim.
 *
 * prepare may fail and changes nothing a worker can see; publish cannot fail: it copies what
 * was learnt about unchanged tunnels, release-stores one 4-byte line number and retires the
 * old chain. Retired lines wait in a queue until every worker has announced a later epoch.
 */
#ifndef FASTMIP_CONTROL_H
#define FASTMIP_CONTROL_H

#include "counts.h"
#include "index_writer.h"
#include "space.h"

#define FM_RECORD_REVERSE 1
#define FM_RECORD_FIRST_ONLY 2
#define FM_RECORD_BROADCAST 4
#define FM_RECORD_NESTED 8
#define FM_RECORD_GRE_KEY 16
#define FM_RECORD_FLAGS 31
#define FM_TOS_NORMAL 0
#define FM_TOS_COMPATIBILITY 1
#define FM_DEFAULT_MTU 1500
#define FM_MTU_MIN 68
#define FM_DEFAULT_TTL 64
#define FM_FULL (-1) /* max_bindings reached, or no slot in the index */
#define FM_BUSY (-2) /* lines exist, but a worker may still hold them */
#define FM_BUSY_WAIT_US 100
#define FM_BUSY_WAITS 500 /* 50 ms: a worker that was descheduled in a batch */

/* TUNNEL_RECORD_SIZE bytes, host order. */
struct fm_record {
    uint32_t home, remote, local;
    uint16_t mtu; /* of the outer path; 0 = 1500 */
    uint8_t encapsulation, flags;
    uint64_t expires;
    uint32_t gre_key;
    uint16_t remote_port, local_port; /* UDP tunnel when remote_port is not 0 */
    uint8_t ttl, tos; /* 0 = 64; FM_TOS_* */
    uint8_t pad[2];
    uint32_t bundle; /* of ESP that all of it goes through; 0 without */
};
_Static_assert(sizeof(struct fm_record) == 40, "TUNNEL_RECORD_SIZE");

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
    if (r->encapsulation != PROTO_IPIP && r->encapsulation != PROTO_GRE &&
        r->encapsulation != PROTO_MINIMAL)
        return "encapsulation is none of IP in IP (4), GRE (47), minimal (55)";
    if ((r->flags & FM_RECORD_GRE_KEY) && r->encapsulation != PROTO_GRE)
        return "a key, but no GRE";
    if (!r->remote_port != !r->local_port)
        return "a UDP tunnel needs both ports";
    if (r->mtu != 0 && r->mtu < FM_MTU_MIN)
        return "path MTU is below 68";
    if (r->flags & ~FM_RECORD_FLAGS)
        return "unknown flags";
    if (r->tos > FM_TOS_COMPATIBILITY)
        return "unknown TOS mode";
    return (const char *)0;
}

FM_INLINE uint8_t control_line_flags(const struct fm_record *r)
{
    return (uint8_t)((r->flags & FM_RECORD_REVERSE ? FM_LINE_REVERSE : 0) |
                     (r->flags & FM_RECORD_FIRST_ONLY ? FM_LINE_FIRST_ONLY : 0) |
                     (r->flags & FM_RECORD_BROADCAST ? FM_LINE_BROADCAST : 0) |
                     (r->flags & FM_RECORD_NESTED ? FM_LINE_NESTED : 0) |
                     (r->flags & FM_RECORD_GRE_KEY ? FM_LINE_KEY : 0) |
                     (r->remote_port == UDP_PORT_UNKNOWN ? FM_LINE_HALF_BOUND : 0) |
                     (r->encapsulation != PROTO_GRE && !r->remote_port && !r->bundle
                          ? FM_LINE_IPIP
                          : 0));
}

FM_INLINE uint8_t control_method(const struct fm_record *r)
{
    return (uint8_t)((r->encapsulation == PROTO_GRE       ? FM_GRE
                      : r->encapsulation == PROTO_MINIMAL ? FM_MINIMAL
                                                          : FM_IPIP) |
                     (r->remote_port ? FM_UDP : 0) | (r->bundle ? FM_ESP : 0));
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
    line->flags = control_line_flags(r);
    line->method = control_method(r);
    /* Minimal encapsulation has no header of its own: this one is for fragments (IP in IP). */
    uint8_t protocol = line->method & FM_UDP   ? PROTO_UDP
                       : line->method & FM_GRE ? PROTO_GRE
                                               : PROTO_IPIP;
    line->constant_sum = ipip_constant_sum(line->local, line->remote, ttl, protocol);
    line->outer = ipip_constant_middle(line->local, ttl, protocol);
    if (r->flags & FM_RECORD_GRE_KEY)
        line->gre_key = swap32(r->gre_key);
    line->gre_last = ~(uint32_t)0; /* RFC 2890 2.2 */
    if (r->remote_port)
        line->ports = udp_ports_to_us(r->remote_port, r->local_port);
    line->budget = (uint16_t)((r->mtu ? r->mtu : FM_DEFAULT_MTU) - line_overhead(line));
    line->tos_mask = r->tos == FM_TOS_COMPATIBILITY ? (uint8_t)~ECN_MASK : 0xff;
}

/* A line whose packets go through ESP: its bundle, and the room ESP leaves. */
FM_FN void control_protect(struct fm_engine *e, uint32_t number, uint32_t bundle)
{
    struct fm_line *line = &e->lines[number];
    e->esp->line_bundle[number] = bundle;
    line->flags |= FM_LINE_COPIES; /* not for the fast loop */
    line->budget = (uint16_t)line_fit(e, line, line->budget + line_overhead(line));
}

/* Lines whose workers have all moved on become free; at most `limit`. */
FM_FN void control_reclaim(struct fm_control *c, uint32_t limit)
{
    struct fm_engine *e = &c->e;
    while (c->old_head && limit--) {
        uint32_t number = c->old_head;
        struct fm_line_note *note = &c->notes[number];
        if (!fm_epoch_is_over(e, note->retired))
            return;
        c->old_head = note->link;
        if (!c->old_head)
            c->old_tail = FM_NO_LINE;
        for (uint32_t i = 0; i < e->worker_count; i++) {
            struct fm_worker *w = e->workers[i];
            if (w->sent[number].packets)
                memset(&w->sent[number], 0, sizeof(struct fm_tally));
            if (w->received[number].packets)
                memset(&w->received[number], 0, sizeof(struct fm_tally));
        }
        note->link = c->free_head;
        c->free_head = number;
    }
}

FM_FN uint32_t control_take_line(struct fm_control *c)
{
    uint32_t number = c->free_head;
    if (number) {
        c->free_head = c->notes[number].link;
        return number;
    }
    return c->fresh < c->line_count ? c->fresh++ : FM_NO_LINE;
}

FM_INLINE void control_give_line(struct fm_control *c, uint32_t number)
{
    c->notes[number].link = c->free_head;
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
        c->notes[number].retired = epoch;
        c->notes[number].link = FM_NO_LINE;
        if (c->old_tail)
            c->notes[c->old_tail].link = number;
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
        if (r[i].bundle)
            control_protect(e, number, r[i].bundle);
        next = number;
    }
    struct fm_line *first = &e->lines[next];
    first->chain_length = (uint8_t)n;
    if (n > 1 && !(first->flags & FM_LINE_FIRST_ONLY) && e->role == FM_HOME_AGENT)
        first->flags |= FM_LINE_COPIES;
    if (first->method == FM_IPIP && !(first->flags & FM_LINE_COPIES) &&
        e->role != FM_FOREIGN_AGENT && !is_not_granted(e, first))
        first->plain_budget = first->budget;
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
    for (uint32_t number = head; number; number = e->lines[number].next) {
        const struct fm_line *old = &e->lines[number];
        if (old->remote != line->remote || old->local != line->local ||
            old->method != line->method || old->ports != line->ports)
            continue;
        line->soft = __atomic_load_n(&old->soft, __ATOMIC_RELAXED);
        if (old->gre_key == line->gre_key)
            line->gre_last = __atomic_load_n(&old->gre_last, __ATOMIC_RELAXED);
    }
}

/* Lead the networks of a router (prefixes.h) to this chain, or FM_NO_LINE. */
FM_FN void control_lead(struct fm_control *c, uint32_t router, uint32_t head)
{
    struct fm_engine *e = &c->e;
    uint32_t mark = 0;
    if (!router)
        return;
    for (uint32_t number = head; number; number = e->lines[number].next)
        if (e->role == FM_HOME_AGENT && (e->lines[number].flags & FM_LINE_NESTED))
            mark = FM_ROUTER_NESTED;
    __atomic_store_n(&e->prefixes.routers[router].line, head | mark, __ATOMIC_RELEASE);
}

/* `router`: its number if the home address has mobile networks, else 0. */
FM_FN void control_publish_router(struct fm_control *c, uint32_t head, uint32_t router)
{
    struct fm_engine *e = &c->e;
    uint32_t home_be = e->lines[head].home, n = e->lines[head].chain_length;
    int64_t slot = index_slot(&e->by_home, home_be);
    uint32_t old = index_line_at(&e->by_home, slot);
    for (uint32_t number = head; number; number = e->lines[number].next)
        control_inherit(e, &e->lines[number], old);
    control_widen(e, swap32(home_be), swap32(home_be));
    if (!old)
        prefixes_note_home(&e->prefixes, swap32(home_be), 0);
    offload_begin(e, home_be);
    index_set(&e->by_home, slot, head);
    control_lead(c, router, head);
    offload_end(e, home_be, head);
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

FM_FN void control_publish(struct fm_control *c, uint32_t head)
{
    control_publish_router(c, head, 0);
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

FM_FN int control_remove_router(struct fm_control *c, uint32_t home_be, int keep_slot,
                                uint32_t router)
{
    int64_t slot = index_slot(&c->e.by_home, home_be);
    uint32_t head = slot < 0 ? FM_NO_LINE : index_line_at(&c->e.by_home, slot);
    if (!head)
        return 0;
    offload_begin(&c->e, home_be);
    index_set(&c->e.by_home, slot, FM_NO_LINE);
    control_lead(c, router, FM_NO_LINE);
    prefixes_note_home(&c->e.prefixes, swap32(home_be), 1);
    offload_end(&c->e, home_be, FM_NO_LINE);
    if (!keep_slot)
        index_release(&c->e.by_home, slot, home_be);
    control_retire(c, head);
    return 1;
}

FM_FN int control_remove(struct fm_control *c, uint32_t home_be, int keep_slot)
{
    return control_remove_router(c, home_be, keep_slot, 0);
}

FM_FN int control_extend(struct fm_control *c, uint32_t home_be, uint32_t remote_be,
                         uint64_t expires)
{
    struct fm_engine *e = &c->e;
    for (uint32_t number = control_head(c, home_be); number; number = e->lines[number].next)
        if (e->lines[number].remote == remote_be) {
            __atomic_store_n(&e->lines[number].expires, expires, __ATOMIC_RELAXED);
            offload_extend(e, &e->lines[number]);
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
            if (r[i + length].bundle && (*reason = "bundles of ESP come one by one"))
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

#endif
