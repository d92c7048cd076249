/* The control thread's half of egress.h: routes, next hops, links and neighbours come and go. */
#ifndef FASTMIP_EGRESS_WRITER_H
#define FASTMIP_EGRESS_WRITER_H

#include "egress.h"
#include "space.h"

#define EGRESS_FOREVER 255 /* held length of entries that had no room for longer prefixes */

struct fm_egress_note {
    uint64_t retired; /* epoch */
    uint32_t link;    /* queue of retired numbers */
    uint32_t unused;
};

FM_FN void egress_destroy(struct fm_egress *e)
{
    if (!e)
        return;
    control_unmap(e->root, 65536 * 4);
    control_unmap(e->root_length, 65536);
    control_unmap(e->group, (uint64_t)EGRESS_GROUPS << 10);
    control_unmap(e->group_length, (uint64_t)EGRESS_GROUPS << 8);
    control_unmap(e->sets, EGRESS_SETS * sizeof *e->sets);
    control_unmap(e->notes, EGRESS_SETS * sizeof *e->notes);
    control_unmap(e->neighbours, (EGRESS_SLOTS + 1) * sizeof *e->neighbours);
    control_unmap(e, sizeof *e);
}

/* NULL when the system refuses the address space; memory is touched as routes come. */
FM_FN struct fm_egress *egress_create(void)
{
    struct fm_egress *e = (struct fm_egress *)control_map(sizeof *e);
    if (!e)
        return e;
    e->root = (uint32_t *)control_map(65536 * 4);
    e->root_length = (uint8_t *)control_map(65536);
    e->group = (uint32_t *)control_map((uint64_t)EGRESS_GROUPS << 10);
    e->group_length = (uint8_t *)control_map((uint64_t)EGRESS_GROUPS << 8);
    e->sets = (struct fm_ways *)control_map(EGRESS_SETS * sizeof *e->sets);
    e->notes = (struct fm_egress_note *)control_map(EGRESS_SETS * sizeof *e->notes);
    e->neighbours = (struct fm_egress_neighbour *)control_map((EGRESS_SLOTS + 1) *
                                                              sizeof *e->neighbours);
    e->fresh = EGRESS_KERNEL + 1;
    if (e->root && e->root_length && e->group && e->group_length && e->sets && e->notes &&
        e->neighbours) {
        e->neighbours[0].key = EGRESS_GONE; /* 0 is nobody's number */
        return e;
    }
    egress_destroy(e);
    return (struct fm_egress *)0;
}

/* Next hops */

/* A number for a new set, without any next hop, or 0 when all are in use. */
FM_FN uint32_t egress_take_set(struct fm_egress *e, const struct fm_engine *engine)
{
    uint32_t number = e->old_head;
    if (number && fm_epoch_is_over(engine, e->notes[number].retired)) {
        e->old_head = e->notes[number].link;
        if (!e->old_head)
            e->old_tail = 0;
        return number;
    }
    return e->fresh < EGRESS_SETS ? e->fresh++ : 0;
}

/* Fill a set's 16 ways from n next hops, each as often as its weight wants; n = 0: none. */
FM_FN void egress_fill_set(struct fm_egress *e, uint32_t number, const uint64_t *way,
                           const uint32_t *weight, uint32_t n)
{
    uint64_t total = 0, until = 0;
    uint32_t at = 0;
    for (uint32_t i = 0; i < n; i++)
        total += weight[i];
    for (uint32_t i = 0; i < n; i++) {
        until += weight[i];
        uint32_t end = (uint32_t)((until * EGRESS_WAYS + total / 2) / total);
        for (; at < end; at++)
            __atomic_store_n(&e->sets[number].way[at], way[i], __ATOMIC_RELEASE);
    }
    for (; at < EGRESS_WAYS; at++)
        __atomic_store_n(&e->sets[number].way[at], 0, __ATOMIC_RELEASE);
}

/* No route leads to this set any more. */
FM_FN void egress_retire_set(struct fm_egress *e, struct fm_engine *engine, uint32_t number)
{
    egress_fill_set(e, number, (const uint64_t *)0, (const uint32_t *)0, 0);
    e->notes[number].retired = __atomic_add_fetch(&engine->epoch, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* withdrawn before worker epochs are read */
    e->notes[number].link = 0;
    if (e->old_tail)
        e->notes[e->old_tail].link = number;
    else
        e->old_head = number;
    e->old_tail = number;
}

/* Routes */

struct fm_egress_change {
    uint32_t value; /* set */
    uint8_t length, value_length, is_clear;
};

/* What prefixes_put does, with the two lengths that stand in a change. */
FM_FN void egress_put(struct fm_egress *e, uint32_t *entry, uint8_t *held,
                      const struct fm_egress_change *c)
{
    if (*entry < EGRESS_GROUP) {
        prefixes_put(entry, held, c->is_clear, c->length, c->value, c->value_length);
        return;
    }
    uint32_t base = (*entry - EGRESS_GROUP) << 8;
    for (uint32_t i = base; i < base + 256; i++)
        egress_put(e, &e->group[i], &e->group_length[i], c);
}

/* First entry of the group below an entry, made where there was none; -1 without one. */
FM_FN int64_t egress_below(struct fm_egress *e, uint32_t *entry, uint8_t *held, int is_clear)
{
    if (*entry < EGRESS_GROUP) {
        if (is_clear || *held == EGRESS_FOREVER)
            return -1;
        if (e->groups == EGRESS_GROUPS) { /* the kernel does all of it from here on */
            *held = EGRESS_FOREVER;
            __atomic_store_n(entry, EGRESS_KERNEL, __ATOMIC_RELEASE);
            return -1;
        }
        uint32_t base = e->groups << 8;
        for (uint32_t i = base; i < base + 256; i++) {
            e->group[i] = *entry;
            e->group_length[i] = *held;
        }
        __atomic_store_n(entry, EGRESS_GROUP + e->groups++, __ATOMIC_RELEASE);
    }
    return (int64_t)(*entry - EGRESS_GROUP) << 8;
}

/* Set a prefix of 0 to 32 bits, or clear it, which puts the next shorter one (or 0 and 0) in its
 * place; host order. Returns -1 when there was no room and the kernel has to do it. */
FM_FN int egress_apply(struct fm_egress *e, uint32_t prefix, const struct fm_egress_change *c)
{
    uint32_t *table = e->root, level = 16, index = prefix >> 16;
    uint8_t *held = e->root_length;
    if (c->length == 0) {
        __atomic_store_n(&e->fallback, c->value, __ATOMIC_RELEASE);
        return 0;
    }
    for (; c->length > level; level += 8) {
        int64_t below = egress_below(e, &table[index], &held[index], c->is_clear);
        if (below < 0)
            return c->is_clear ? 0 : -1;
        table = e->group;
        held = e->group_length;
        index = (uint32_t)below + (prefix >> (24 - level) & 255);
    }
    for (uint32_t i = index; i < index + (1u << (level - c->length)); i++)
        egress_put(e, &table[i], &held[i], c);
    return 0;
}

/* Links */

FM_FN void egress_set_link(struct fm_egress *e, uint32_t number, uint32_t ifindex,
                           const uint8_t *mac, uint16_t mtu, uint16_t port)
{
    struct fm_egress_link *link = &e->links[number];
    uint64_t word = (uint64_t)mtu << 48;
    memcpy(&word, mac, 6);
    if (link->ifindex != ifindex || link->port != port)
        __atomic_store_n(&link->mac_mtu, 0, __ATOMIC_RELEASE);
    link->ifindex = ifindex;
    link->port = port;
    __atomic_store_n(&link->mac_mtu, word, __ATOMIC_RELEASE);
}

FM_FN void egress_clear_link(struct fm_egress *e, uint32_t number)
{
    __atomic_store_n(&e->links[number].mac_mtu, 0, __ATOMIC_RELEASE);
}

/* Neighbours */

/* 0, or -1 when the table is full: the kernel then serves this neighbour. */
FM_FN int egress_set_neighbour(struct fm_egress *e, uint32_t address_be, uint32_t link,
                               const uint8_t *mac, int is_stale)
{
    uint64_t key = address_be | (uint64_t)link << 32, word = 0;
    int64_t found = egress_find(e, key, &word);
    word = EGRESS_VALID | (is_stale ? EGRESS_TELL : 0);
    memcpy(&word, mac, 6);
    if (found >= 0) {
        __atomic_store_n(&e->neighbours[found].word, word, __ATOMIC_RELEASE);
        return 0;
    }
    if (e->neighbour_count >= EGRESS_SLOTS / 2)
        return -1;
    uint32_t slot = egress_slot(key);
    for (uint32_t i = 0; i < EGRESS_PROBES; i++, slot = (slot + 1) % EGRESS_SLOTS) {
        struct fm_egress_neighbour *n = &e->neighbours[slot];
        if (slot == 0 || (n->key != 0 && n->key != EGRESS_GONE))
            continue;
        n->told = 0;
        __atomic_store_n(&n->key, key, __ATOMIC_RELEASE);
        __atomic_store_n(&n->word, word, __ATOMIC_RELEASE);
        e->neighbour_count++;
        return 0;
    }
    return -1;
}

FM_FN void egress_clear_neighbour(struct fm_egress *e, uint32_t address_be, uint32_t link)
{
    uint64_t word;
    int64_t slot = egress_find(e, address_be | (uint64_t)link << 32, &word);
    if (slot < 0)
        return;
    struct fm_egress_neighbour *n = e->neighbours;
    __atomic_store_n(&n[slot].word, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&n[slot].key, EGRESS_GONE, __ATOMIC_RELEASE);
    e->neighbour_count--;
    /* At the end of a cluster nothing stands behind it: readers may stop here again. */
    while (slot != 0 && n[slot].key == EGRESS_GONE && n[(slot + 1) % EGRESS_SLOTS].key == 0) {
        __atomic_store_n(&n[slot].key, 0, __ATOMIC_RELEASE);
        slot--;
    }
}

/* Slots from *from on that workers told of, each once; at most n. */
FM_FN uint32_t egress_told(struct fm_egress *e, uint32_t *from, uint64_t *keys, uint32_t n)
{
    uint32_t count = 0;
    for (; *from < EGRESS_SLOTS && count < n; ++*from) {
        struct fm_egress_neighbour *slot = &e->neighbours[*from];
        if (!__atomic_load_n(&slot->told, __ATOMIC_RELAXED))
            continue;
        __atomic_store_n(&slot->told, 0, __ATOMIC_RELAXED);
        if (slot->key != 0 && slot->key != EGRESS_GONE)
            keys[count++] = slot->key;
    }
    return count;
}

/* Number of the neighbour a destination's packets go to (its slot), 0 without. */
FM_FN uint32_t egress_number(const struct fm_egress *e, uint32_t dst_be, uint32_t flow_hash)
{
    const struct fm_ways *ways = &e->sets[egress_set(e, dst_be)];
    uint64_t way = ways->way[flow_hash * 0x9e3779b1u >> 28], word = 0;
    uint32_t link = way >> 32 & (EGRESS_LINKS - 1), gateway = (uint32_t)way;
    if (!link)
        return 0;
    int64_t slot = egress_find(e, (gateway ? gateway : dst_be) | (uint64_t)link << 32, &word);
    return slot < 0 ? 0 : (uint32_t)slot;
}

/* What a number stands for: as egress_lookup, without a route's MTU. */
FM_FN int egress_entry(const struct fm_egress *e, uint32_t number, struct fm_hop *hop)
{
    const struct fm_egress_neighbour *n = &e->neighbours[number];
    const struct fm_egress_link *link = &e->links[n->key >> 32 & (EGRESS_LINKS - 1)];
    if (n->key == 0 || n->key == EGRESS_GONE || !(n->word & EGRESS_VALID) || !link->mac_mtu)
        return EGRESS_NO_NEIGHBOUR;
    memcpy(hop->dst, &n->word, 6);
    memcpy(hop->src, &link->mac_mtu, 6);
    hop->ifindex = link->ifindex;
    hop->mtu = (uint16_t)(link->mac_mtu >> 48);
    hop->port = (uint16_t)link->port;
    return EGRESS_KNOWN;
}

/* For benchmarks and tests: look n destinations up, one after the other; how many are known. */
FM_FN uint64_t egress_lookup_many(const struct fm_egress *e, const uint32_t *dst_be, uint64_t n,
                                  uint64_t *sum)
{
    struct fm_hop hop;
    uint64_t known = 0;
    for (uint64_t i = 0; i < n; i++)
        if (egress_lookup(e, dst_be[i], (uint32_t)i, &hop) == EGRESS_KNOWN) {
            known++;
            *sum += hop.ifindex + hop.dst[5];
        }
    return known;
}

#endif
