/* Longest prefix match for mobile networks: an address leads to the NUMBER of its mobile router,
 * and that to the router's line: a move of the router changes one word, however many prefixes
 * it has.
 *
 * DIR-24-8: one 4-byte entry per /24 (64 MiB of address space, touched lazily); an entry at
 * or above FM_GROUP points to 256 entries for longer prefixes. Entries are single atomic stores; the control thread is the only
 * writer and remembers the length each entry came from. A bit for each /16 tells workers where
 * to look at all, another where no home address is bound besides: 8 KiB each, which stay in
 * the first cache.
 */
#ifndef FASTMIP_PREFIXES_H
#define FASTMIP_PREFIXES_H

#include "octets.h"

#define FM_GROUP 0xf0000000u
#define FM_GROUP_MAX 65536u /* /24s that can hold longer prefixes */

#define FM_ROUTER_NESTED 0x80000000u /* packets for its networks get a header more (RFC 5177 7) */

struct fm_router {
    uint32_t home; /* network order; a number goes from one router to another by and by */
    uint32_t line; /* head of its chain, perhaps with FM_ROUTER_NESTED; 0 while it is at home */
};

struct fm_prefixes {
    uint32_t *entry;       /* [1 << 24] number of a router, 0, or FM_GROUP + group */
    uint8_t *length;       /* [1 << 24] */
    uint32_t *group_entry; /* [FM_GROUP_MAX << 8] */
    uint8_t *group_length;
    uint64_t *sixteen;       /* [1 << 10] a bit for each /16 that holds a prefix, or lies in one */
    uint64_t *alone;         /* [1 << 10] a bit for each of these in which no home address is bound */
    uint32_t *sixteen_count; /* [1 << 16] prefixes there */
    uint32_t *home_count;    /* [1 << 16] home addresses bound there */
    struct fm_router *routers; /* [router_max], 0 is nobody */
    uint32_t router_max;
    uint32_t groups; /* used so far; groups are never given back */
    uint32_t count;  /* prefixes set; 0 lets the packet path skip the tables */
};

/* May a prefix hold this address (host order)? */
FM_INLINE int prefixes_may_hold(const struct fm_prefixes *t, uint32_t address)
{
    return (int)(__atomic_load_n(&t->sixteen[address >> 22], __ATOMIC_RELAXED) >>
                 (address >> 16 & 63) & 1);
}

/* Can only a prefix hold this address (host order), no home address? */
FM_INLINE int prefixes_are_alone(const struct fm_prefixes *t, uint32_t address)
{
    return (int)(__atomic_load_n(&t->alone[address >> 22], __ATOMIC_RELAXED) >>
                 (address >> 16 & 63) & 1);
}

/* A router's line with its mark, and its home address (network order). */
FM_INLINE uint32_t router_line(const struct fm_prefixes *t, uint32_t number, uint32_t *home_be)
{
    *home_be = __atomic_load_n(&t->routers[number].home, __ATOMIC_RELAXED);
    return __atomic_load_n(&t->routers[number].line, __ATOMIC_ACQUIRE);
}

/* Number of the router for an address (host order), 0 if no prefix holds it. */
FM_INLINE uint32_t prefixes_find(const struct fm_prefixes *t, uint32_t address)
{
    uint32_t value = __atomic_load_n(&t->entry[address >> 8], __ATOMIC_ACQUIRE);
    if (value >= FM_GROUP)
        value = __atomic_load_n(&t->group_entry[(value - FM_GROUP) << 8 | (address & 255)],
                                __ATOMIC_ACQUIRE);
    return value;
}

/* One entry: `from` is the length this prefix may replace (0..length), -1 for exactly length. */
FM_INLINE void prefixes_put(uint32_t *entry, uint8_t *held, int is_clear, uint8_t length,
                            uint32_t value, uint8_t value_length)
{
    if (is_clear ? *held != length : *held > length)
        return;
    *held = value_length;
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

FM_FN void prefixes_mark(uint64_t *bits, uint32_t place, int is_set)
{
    uint64_t bit = 1ull << (place & 63), word = bits[place >> 6] & ~bit;
    __atomic_store_n(&bits[place >> 6], is_set ? word | bit : word, __ATOMIC_RELEASE);
}

/* A home address was bound, or is bound no more. */
FM_FN void prefixes_note_home(struct fm_prefixes *t, uint32_t home, int is_gone)
{
    uint32_t i = home >> 16;
    t->home_count[i] += is_gone ? ~0u : 1u;
    prefixes_mark(t->alone, i, t->sixteen_count[i] && !t->home_count[i]);
}

/* One prefix more, or one less, in the /16s it touches; `count` follows. */
FM_FN void prefixes_note(struct fm_prefixes *t, uint32_t prefix, uint8_t length, int is_clear)
{
    uint32_t first = prefix >> 16, last = first;
    if (length < 16)
        last = first + (1u << (16 - length)) - 1;
    for (uint32_t i = first; i <= last; i++) {
        t->sixteen_count[i] += is_clear ? ~0u : 1u;
        prefixes_mark(t->sixteen, i, t->sixteen_count[i] != 0);
        prefixes_mark(t->alone, i, t->sixteen_count[i] && !t->home_count[i]);
    }
    __atomic_store_n(&t->count, t->count + (is_clear ? ~0u : 1u), __ATOMIC_RELEASE);
}

/* Make the entries a prefix longer than 24 bits needs; then setting it cannot fail. -1 when no
 * group is left. */
FM_FN int prefixes_reserve(struct fm_prefixes *t, uint32_t prefix, uint8_t length)
{
    uint32_t place = prefix >> 8;
    if (length <= 24 || t->entry[place] >= FM_GROUP)
        return 0;
    if (t->groups == FM_GROUP_MAX)
        return -1;
    uint32_t group = t->groups++;
    for (uint32_t i = 0; i < 256; i++) {
        t->group_entry[group << 8 | i] = t->entry[place];
        t->group_length[group << 8 | i] = t->length[place];
    }
    __atomic_store_n(&t->entry[place], FM_GROUP + group, __ATOMIC_RELEASE);
    return 0;
}

/* Apply to every entry below prefix/length. Set: value with value_length = length. Clear: the
 * value of the next shorter prefix (or 0 and 0). Returns -1 when no group is left. */
FM_FN int prefixes_apply(struct fm_prefixes *t, uint32_t prefix, uint8_t length, int is_clear,
                         uint32_t value, uint8_t value_length)
{
    uint32_t first = prefix >> 8, last = first;
    if (length < 24)
        last = first + (1u << (24 - length)) - 1;
    if (is_clear && length > 24 && t->entry[first] < FM_GROUP)
        return 0;
    if (!is_clear && prefixes_reserve(t, prefix, length))
        return -1;
    for (uint32_t i = first; i <= last; i++) {
        if (t->entry[i] < FM_GROUP) {
            prefixes_put(&t->entry[i], &t->length[i], is_clear, length, value, value_length);
            continue;
        }
        uint32_t base = (t->entry[i] - FM_GROUP) << 8, low = 0, high = 255;
        if (length > 24) {
            low = prefix & 255;
            high = low + (1u << (32 - length)) - 1;
        }
        for (uint32_t j = base + low; j <= base + high; j++)
            prefixes_put(&t->group_entry[j], &t->group_length[j], is_clear, length, value,
                         value_length);
    }
    return 0;
}

#endif
