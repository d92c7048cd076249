/* The control thread's half of the index: reserve, set, release.
 *
 * A slot is empty (key 0), live (reserved or published) or a tombstone (key kept, line 0):
 * a tombstone stays only while some live key went past its bucket, because an empty slot
 * ends a reader's search. Slots are numbered bucket * 8 + slot.
 */
#ifndef FASTMIP_INDEX_WRITER_H
#define FASTMIP_INDEX_WRITER_H

#include "bindings.h"

/* Live slot of key, or -1. */
FM_FN int64_t index_slot(const struct fm_index *x, uint32_t key)
{
    uint32_t bucket = index_bucket(x, key);
    for (int probe = 0; probe < FM_PROBE_MAX; probe++, bucket = index_next(x, bucket)) {
        const struct fm_bucket *b = &x->buckets[bucket];
        int is_full = 1;
        for (int slot = 0; slot < FM_SLOTS; slot++) {
            if (b->key[slot] == key && x->notes[bucket].live >> slot & 1)
                return (int64_t)bucket * FM_SLOTS + slot;
            is_full &= b->key[slot] != FM_NO_KEY;
        }
        if (!is_full)
            return -1;
    }
    return -1;
}

FM_INLINE void index_count_passed(struct fm_index *x, uint32_t key, uint32_t bucket, int by)
{
    for (uint32_t b = index_bucket(x, key); b != bucket; b = index_next(x, b))
        x->notes[b].passed = (uint16_t)(x->notes[b].passed + by);
}

/* Make a live slot for key (line still 0, so readers miss it); -1 when there is no room. */
FM_FN int64_t index_reserve(struct fm_index *x, uint32_t key)
{
    uint32_t bucket = index_bucket(x, key);
    int64_t choice = -1;
    for (int probe = 0; probe < FM_PROBE_MAX; probe++, bucket = index_next(x, bucket)) {
        struct fm_bucket *b = &x->buckets[bucket];
        int is_full = 1;
        for (int slot = 0; slot < FM_SLOTS; slot++) {
            int64_t number = (int64_t)bucket * FM_SLOTS + slot;
            int is_live = x->notes[bucket].live >> slot & 1;
            if (b->key[slot] == key) {
                if (is_live)
                    return number;
                choice = number; /* our own tombstone: readers stop here, so use it */
                goto take;
            }
            if (!is_live && choice < 0)
                choice = number;
            is_full &= b->key[slot] != FM_NO_KEY;
        }
        if (!is_full)
            break;
    }
    if (choice < 0)
        return -1;
take:
    bucket = (uint32_t)(choice / FM_SLOTS);
    index_count_passed(x, key, bucket, 1);
    x->notes[bucket].live |= (uint8_t)(1u << choice % FM_SLOTS);
    __atomic_store_n(&x->buckets[bucket].key[choice % FM_SLOTS], key, __ATOMIC_RELEASE);
    return choice;
}

FM_INLINE uint32_t index_line_at(const struct fm_index *x, int64_t slot)
{
    return x->buckets[slot / FM_SLOTS].line[slot % FM_SLOTS];
}

/* The one store that publishes, moves or withdraws a binding. */
FM_INLINE void index_set(struct fm_index *x, int64_t slot, uint32_t line)
{
    __atomic_store_n(&x->buckets[slot / FM_SLOTS].line[slot % FM_SLOTS], line, __ATOMIC_RELEASE);
}

FM_INLINE void index_sweep(struct fm_index *x, uint32_t bucket)
{
    if (x->notes[bucket].passed)
        return;
    for (int slot = 0; slot < FM_SLOTS; slot++)
        if (!(x->notes[bucket].live >> slot & 1))
            __atomic_store_n(&x->buckets[bucket].key[slot], FM_NO_KEY, __ATOMIC_RELEASE);
}

/* Give a slot back; readers miss the key from here on. */
FM_FN void index_release(struct fm_index *x, int64_t slot, uint32_t key)
{
    uint32_t bucket = (uint32_t)(slot / FM_SLOTS);
    index_set(x, slot, FM_NO_LINE);
    x->notes[bucket].live &= (uint8_t)~(1u << slot % FM_SLOTS);
    index_count_passed(x, key, bucket, -1);
    for (uint32_t b = index_bucket(x, key); b != bucket; b = index_next(x, b))
        index_sweep(x, b);
    index_sweep(x, bucket);
}

#endif
