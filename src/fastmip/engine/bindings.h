/* The binding cache: home address -> index -> 64-byte binding line.
 *
 * Index: 64-byte buckets of 8 keys and 8 line numbers; a key lives in its own bucket or, when
 * that is full, in one of the next ones. A reader stops at the first bucket with an empty slot.
 *
 * Ownership: the control thread is the only writer. A line is complete before its number is
 * release-stored into the index, and afterwards immutable but for three atomic words:
 * `expires` (control thread), `soft` and `gre_last` (whichever worker learnt something). A reader
 * checks line.home against its key, because a slot may change hands between the two loads. A line is
 * reused only when every worker has announced a later epoch (epochs.h).
 */
#ifndef FASTMIP_BINDINGS_H
#define FASTMIP_BINDINGS_H

#include "ipip.h"

#define FM_SLOTS 8
#define FM_PROBE_MAX 32 /* buckets looked at for one key */
#define FM_NO_KEY 0u    /* 0.0.0.0 is no home address */
#define FM_NO_HOME 0xffffffffu /* home of line 0, which has expired at all times */
#define FM_NO_LINE 0u

struct fm_bucket {
    uint32_t key[FM_SLOTS]; /* network order */
    uint32_t line[FM_SLOTS];
} __attribute__((aligned(64)));

/* Control thread's notes about a bucket, kept off the readers' cache lines. */
struct fm_bucket_note {
    uint16_t passed; /* live keys of earlier buckets that went past this one */
    uint8_t live;    /* slots reserved or published */
    uint8_t unused;
};

struct fm_index {
    struct fm_bucket *buckets;
    struct fm_bucket_note *notes;
    uint32_t bucket_count;
    uint32_t key0;
    uint64_t key1, key2;
};

#define FM_LINE_REVERSE 1    /* reverse tunnelling granted (record flag) */
#define FM_LINE_FIRST_ONLY 2 /* send on the head of the chain only (record flag) */
#define FM_LINE_IPIP 4       /* packets of protocol 4 are taken */
#define FM_LINE_BROADCAST 8  /* record flag */
#define FM_LINE_NESTED 16    /* record flag */
#define FM_LINE_KEY 32       /* GRE with a key (record flag) */
#define FM_LINE_HALF_BOUND 64 /* UDP tunnel to a port not known yet: nothing can be sent */
#define FM_LINE_COPIES 128   /* head of a chain of which every line is sent on, or ESP */

/* What a line's packets look like; FM_UDP is added for UDP tunnels, FM_ESP where all of it goes
 * through ESP (esp.h). */
enum fm_method { FM_IPIP = 0, FM_GRE = 1, FM_MINIMAL = 2, FM_UDP = 4, FM_ESP = 8 };

struct fm_line {
    uint32_t home;         /* network order */
    uint32_t next;         /* next line of the chain, FM_NO_LINE at its end */
    uint64_t expires;      /* CLOCK_BOOTTIME ns, atomic */
    uint64_t soft;         /* struct fm_soft packed, atomic; 0 = nothing learnt */
    uint32_t remote, local; /* network order, in the order of a tunnel packet to us */
    uint64_t outer;        /* octets 8 to 15 of the outer header, checksum 0 */
    uint32_t constant_sum; /* ipip_constant_sum */
    uint16_t budget;       /* largest inner packet before anything was learnt */
    uint16_t plain_budget; /* the same where the fast loop needs no second look, else 0 */
    uint8_t tos_mask;      /* 0xff RFC 6040 normal mode, 0xfc compatibility mode */
    uint8_t flags;
    uint8_t chain_length; /* head only */
    uint8_t method;       /* enum fm_method */
    uint32_t gre_key;     /* network order */
    uint32_t ports;       /* udp_ports_to_us; 0 without UDP */
    uint32_t gre_last;    /* sequence number last taken, atomic */
} __attribute__((aligned(64)));

/* Control thread's notes about a line, kept off the readers' cache lines. */
struct fm_line_note {
    uint64_t retired; /* epoch of retirement */
    uint32_t link;    /* free list, retirement queue */
    uint32_t unused;
};

_Static_assert(sizeof(struct fm_bucket) == 64, "a bucket is one cache line");
_Static_assert(sizeof(struct fm_line) == 64, "a binding line is one cache line");

/* What ICMP taught about a tunnel (RFC 2003 section 5), in one atomic word. */
struct fm_soft {
    uint16_t budget;      /* largest inner packet; 0 = not learnt */
    uint8_t pending_code; /* destination unreachable to tell the next sender, plus 1; 0 = none */
    uint8_t unreachable;  /* last reported unreachable code plus 1; 0 = reachable */
    uint32_t learnt_s;    /* CLOCK_BOOTTIME seconds */
};

#define FM_PENDING_LIFE_S 5u /* to whoever sends later, the report says nothing any more */
#define FM_SOFT_LIFE_S 600u /* RFC 1191 6.3: try a larger MTU again after ten minutes */

FM_INLINE struct fm_soft line_soft(const struct fm_line *line)
{
    struct fm_soft soft;
    uint64_t word = __atomic_load_n(&line->soft, __ATOMIC_RELAXED);
    memcpy(&soft, &word, 8);
    return soft;
}

/* `is` in place of `was`; false when another worker was faster. */
FM_INLINE int line_replace_soft(struct fm_line *line, struct fm_soft was, struct fm_soft is)
{
    uint64_t old, new;
    memcpy(&old, &was, 8);
    memcpy(&new, &is, 8);
    return __atomic_compare_exchange_n(&line->soft, &old, new, 0, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED);
}

/* Octets in front of an inner packet, ESP's apart. */
FM_INLINE uint32_t line_overhead(const struct fm_line *line)
{
    static const uint8_t octets[8] = {20, 24, 12, 0, 32, 36, 24, 0};
    return octets[line->method & 7] + (line->flags & FM_LINE_KEY ? 4 : 0);
}

/* What IP in IP, for fragments, takes more than minimal encapsulation. */
#define FM_FALLBACK_OCTETS 8u

FM_INLINE int line_is_minimal(const struct fm_line *line) { return line->method & FM_MINIMAL; }

FM_INLINE int line_is_alive(const struct fm_line *line, uint64_t now_ns)
{
    return __atomic_load_n(&line->expires, __ATOMIC_RELAXED) > now_ns;
}

FM_INLINE uint32_t index_bucket(const struct fm_index *x, uint32_t key)
{
    uint64_t h = (uint64_t)(key ^ x->key0) * x->key1;
    h = (h ^ h >> 32) * x->key2;
    return (uint32_t)((h >> 32) * x->bucket_count >> 32);
}

FM_INLINE uint32_t index_next(const struct fm_index *x, uint32_t bucket)
{
    return bucket + 1 == x->bucket_count ? 0 : bucket + 1;
}

/* The scalar twin of every other find: line number of key, or FM_NO_LINE. */
FM_FN uint32_t index_find_from(const struct fm_index *x, uint32_t key, uint32_t bucket)
{
    for (int probe = 0; probe < FM_PROBE_MAX; probe++, bucket = index_next(x, bucket)) {
        const struct fm_bucket *b = &x->buckets[bucket];
        int is_full = 1;
        for (int slot = 0; slot < FM_SLOTS; slot++) {
            uint32_t found = __atomic_load_n(&b->key[slot], __ATOMIC_ACQUIRE);
            if (found == key)
                return __atomic_load_n(&b->line[slot], __ATOMIC_ACQUIRE);
            is_full &= found != FM_NO_KEY;
        }
        if (!is_full)
            return FM_NO_LINE;
    }
    return FM_NO_LINE;
}

FM_INLINE uint32_t index_find(const struct fm_index *x, uint32_t key)
{
    return index_find_from(x, key, index_bucket(x, key));
}

#endif
