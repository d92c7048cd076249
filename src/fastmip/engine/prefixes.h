/* Longest prefix match for mobile networks: an address leads to the HOME ADDRESS of its
 * mobile router, so that a move of the router changes one index entry and nothing here.
 *
 * DIR-24-8: one 4-byte entry per /24 (64 MiB of address space, touched lazily); an entry at
 * or above FM_GROUP points to 256 entries for longer prefixes (no home address is that high:
 * 240/4 is reserved). Entries are single atomic stores; the control thread is the only
 * writer and remembers the length each entry came from. A bit for each /16 tells workers where
 * to look at all: 8 KiB that stay in the first cache.
 */
#ifndef FASTMIP_PREFIXES_H
#define FASTMIP_PREFIXES_H

#include "octets.h"

#define FM_GROUP 0xf0000000u
#define FM_GROUP_MAX 65536u /* /24s that can hold longer prefixes */

struct fm_prefixes {
    uint32_t *entry;       /* [1 << 24] home address (host order), 0, or FM_GROUP + group */
    uint8_t *length;       /* [1 << 24] */
    uint32_t *group_entry; /* [FM_GROUP_MAX << 8] */
    uint8_t *group_length;
    uint64_t *sixteen;       /* [1 << 10] a bit for each /16 that holds a prefix, or lies in one */
    uint32_t *sixteen_count; /* [1 << 16] prefixes there */
    uint32_t groups; /* used so far; groups are never given back */
    uint32_t count;  /* prefixes set; 0 lets the packet path skip the tables */
};

/* May a prefix hold this address (host order)? */
FM_INLINE int prefixes_may_hold(const struct fm_prefixes *t, uint32_t address)
{
    return (int)(__atomic_load_n(&t->sixteen[address >> 22], __ATOMIC_RELAXED) >>
                 (address >> 16 & 63) & 1);
}

/* Home address (host order) for an address (host order), 0 if no prefix holds it. */
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

/* One prefix more, or one less, in the /16s it touches; `count` follows. */
FM_FN void prefixes_note(struct fm_prefixes *t, uint32_t prefix, uint8_t length, int is_clear)
{
    uint32_t first = prefix >> 16, last = first;
    if (length < 16)
        last = first + (1u << (16 - length)) - 1;
    for (uint32_t i = first; i <= last; i++) {
        t->sixteen_count[i] += is_clear ? ~0u : 1u;
        uint64_t bit = 1ull << (i & 63), word = t->sixteen[i >> 6] & ~bit;
        __atomic_store_n(&t->sixteen[i >> 6], t->sixteen_count[i] ? word | bit : word,
                         __ATOMIC_RELEASE);
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
