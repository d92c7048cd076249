/* Where a packet leaves by an L2 port: a mirror of the kernel's routes, links and neighbours.
 *
 *   destination -> 16-8-8 trie -> set of next hops -> one of them by flow hash
 *               -> link (our MAC, MTU, interface) and neighbour (gateway or destination -> MAC)
 *
 * One table per side, because policy rules may send outer and inner packets different ways.
 * Whatever is not known here goes to the kernel: it routes, answers with ICMP, or asks by ARP,
 * and the mirror learns.
 *
 * Ownership: the control thread is the only writer (egress_writer.h). Whatever a reader looks at
 * is one word, stored with release: a trie entry, a next hop, a link's MAC and MTU, a neighbour's
 * MAC. No reader ever waits or tries again. Next hops change in place; a set's number goes to
 * another route only when every worker has announced a later epoch; a neighbour's slot tells by
 * its key, read again, that it changed hands.
 */
#ifndef FASTMIP_EGRESS_H
#define FASTMIP_EGRESS_H

#include "octets.h"

#define EGRESS_WAYS 16u        /* next hops of a set, weights included */
#define EGRESS_LINKS 256u      /* link numbers 1 to 255 */
#define EGRESS_SETS 65536u     /* sets of next hops; number 0 has none and 1 never gets one */
#define EGRESS_KERNEL 1u       /* the set of destinations that are the kernel's */
#define EGRESS_GROUPS 131072u  /* of 256 entries: for prefixes longer than 16 or 24 bits */
#define EGRESS_GROUP 0x80000000u /* an entry that is a group, not a set */
#define EGRESS_SLOTS 65536u    /* of neighbours; half of them are used at most */
#define EGRESS_PROBES 64u      /* slots looked at for one neighbour */
#define EGRESS_GONE (~(uint64_t)0) /* key of a slot that was used */
#define EGRESS_NO_PORT 0xffffu

enum { EGRESS_KNOWN, EGRESS_NO_ROUTE, EGRESS_NO_NEIGHBOUR };

struct fm_hop {
    uint8_t dst[6], src[6]; /* an Ethernet header's addresses */
    uint32_t ifindex;
    uint16_t mtu; /* octets of IP */
    uint16_t port; /* ours on that interface, or EGRESS_NO_PORT */
};

/* A next hop in one word; 0 is none. The gateway is 0 on a link: the destination is next. */
#define EGRESS_WAY(gateway_be, link, mtu)                                                        \
    ((uint64_t)(gateway_be) | (uint64_t)(link) << 32 | (uint64_t)(mtu) << 48)

struct fm_ways {
    uint64_t way[EGRESS_WAYS];
} __attribute__((aligned(64)));

struct fm_egress_link {
    uint64_t mac_mtu; /* MAC as it lies in memory, MTU in the upper 16 bits; 0 = not usable */
    uint32_t ifindex;
    uint32_t port;
};

#define EGRESS_MAC 0x0000ffffffffffffu
#define EGRESS_VALID (1ull << 48) /* the MAC may be used */
#define EGRESS_TELL (1ull << 49)  /* and whoever does tells so: the kernel wants to ask again */

struct fm_egress_neighbour {
    uint64_t key;  /* address, link << 32; 0 = never used */
    uint64_t word; /* MAC and flags */
    uint32_t told; /* a worker used it */
    uint32_t pad[3];
};

_Static_assert(sizeof(struct fm_egress_neighbour) == 32, "two neighbours a cache line");
_Static_assert(sizeof(struct fm_hop) == 20, "a hop as ports and maps know it");

struct fm_egress {
    uint32_t *root;       /* [65536] set, 0 (the default route), or EGRESS_GROUP + group */
    uint32_t *group;      /* [EGRESS_GROUPS << 8] likewise */
    struct fm_ways *sets; /* [EGRESS_SETS] */
    struct fm_egress_neighbour *neighbours; /* [EGRESS_SLOTS + 1], the last one: any was told */
    uint32_t fallback;    /* set of the default route */
    struct fm_egress_link links[EGRESS_LINKS] __attribute__((aligned(64)));
    /* the writer's own, see egress_writer.h */
    uint8_t *root_length, *group_length;
    struct fm_egress_note *notes; /* [EGRESS_SETS] */
    uint32_t groups, fresh, old_head, old_tail, neighbour_count;
};

/* Packets of one flow go one way: those between two addresses. */
FM_INLINE uint32_t egress_flow_hash(uint32_t src_be, uint32_t dst_be)
{
    uint64_t mixed = (src_be ^ (uint64_t)dst_be << 32 ^ dst_be) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(mixed >> 32);
}

FM_INLINE uint32_t egress_slot(uint64_t key)
{
    return (uint32_t)(key * 0x9e3779b97f4a7c15u >> 48);
}

FM_INLINE uint32_t egress_set(const struct fm_egress *e, uint32_t dst_be)
{
    uint32_t dst = swap32(dst_be);
    uint32_t set = __atomic_load_n(&e->root[dst >> 16], __ATOMIC_ACQUIRE);
    if (set >= EGRESS_GROUP) {
        set = __atomic_load_n(&e->group[(set - EGRESS_GROUP) << 8 | (dst >> 8 & 255)],
                              __ATOMIC_ACQUIRE);
        if (set >= EGRESS_GROUP)
            set = __atomic_load_n(&e->group[(set - EGRESS_GROUP) << 8 | (dst & 255)],
                                  __ATOMIC_ACQUIRE);
    }
    return set ? set : __atomic_load_n(&e->fallback, __ATOMIC_ACQUIRE);
}

/* Slot of a neighbour, or -1; *word is what it said when its key was still this one. */
FM_INLINE int64_t egress_find(const struct fm_egress *e, uint64_t key, uint64_t *word)
{
    uint32_t slot = egress_slot(key);
    for (uint32_t i = 0; i < EGRESS_PROBES; i++, slot = (slot + 1) % EGRESS_SLOTS) {
        struct fm_egress_neighbour *n = &e->neighbours[slot];
        uint64_t held = __atomic_load_n(&n->key, __ATOMIC_ACQUIRE);
        if (held == 0)
            return -1;
        if (held != key)
            continue;
        *word = __atomic_load_n(&n->word, __ATOMIC_ACQUIRE);
        return __atomic_load_n(&n->key, __ATOMIC_RELAXED) == key ? (int64_t)slot : -1;
    }
    return -1;
}

FM_COLD void egress_tell(const struct fm_egress *e, int64_t slot)
{
    if (__atomic_load_n(&e->neighbours[slot].told, __ATOMIC_RELAXED))
        return;
    __atomic_store_n(&e->neighbours[slot].told, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&e->neighbours[EGRESS_SLOTS].told, 1, __ATOMIC_RELEASE);
}

/* The next hop of a destination: EGRESS_KNOWN and *hop, or why the kernel has to do it. */
FM_INLINE int egress_lookup(const struct fm_egress *e, uint32_t dst_be, uint32_t flow_hash,
                            struct fm_hop *hop)
{
    const struct fm_ways *ways = &e->sets[egress_set(e, dst_be)];
    uint32_t number = flow_hash * 0x9e3779b1u >> 28;
    uint64_t way = __atomic_load_n(&ways->way[number], __ATOMIC_ACQUIRE), word = 0;
    const struct fm_egress_link *link = &e->links[way >> 32 & (EGRESS_LINKS - 1)];
    uint64_t mac_mtu = __atomic_load_n(&link->mac_mtu, __ATOMIC_ACQUIRE);
    if (FM_UNLIKELY(!mac_mtu))
        return EGRESS_NO_ROUTE;
    uint32_t gateway = (uint32_t)way, next = gateway ? gateway : dst_be;
    int64_t slot = egress_find(e, next | (way >> 32 & (EGRESS_LINKS - 1)) << 32, &word);
    if (FM_UNLIKELY(slot < 0 || !(word & EGRESS_VALID)))
        return EGRESS_NO_NEIGHBOUR;
    if (FM_UNLIKELY(word & EGRESS_TELL))
        egress_tell(e, slot);
    uint16_t mtu = (uint16_t)(mac_mtu >> 48), narrow = (uint16_t)(way >> 48);
    memcpy(hop->dst, &word, 6);
    memcpy(hop->src, &mac_mtu, 6);
    hop->ifindex = link->ifindex;
    hop->mtu = narrow && narrow < mtu ? narrow : mtu;
    hop->port = (uint16_t)link->port;
    return EGRESS_KNOWN;
}

#endif
