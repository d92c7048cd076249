/* ESP's anti-replay window and the upper half of extended sequence numbers.
 *
 * A ring of 64-bit words (RFC 6479's idea, own code: its listing takes one number too many). The
 * window covers (highest - size, highest]; the ring is a word longer at least, so that the words
 * ahead can be cleared as it moves on, and nothing is ever shifted.
 */
#ifndef FASTMIP_ESP_WINDOW_H
#define FASTMIP_ESP_WINDOW_H

#include "octets.h"

#define ESP_WINDOW_MIN 64u
#define ESP_WINDOW_MAX 4096u
#define ESP_RING_WORDS_MAX 128u

struct esp_window {
    uint64_t highest; /* number taken; 0 before the first */
    uint64_t floor;   /* nothing at or below it is taken */
    uint32_t size;
    uint32_t mask;  /* words of the ring less one */
    uint64_t *ring;
};

/* Words of the ring: a power of two, beyond the window by a word. */
FM_INLINE uint32_t window_words(uint32_t size)
{
    uint32_t words = 2;
    while (words * 64 < size + 64)
        words *= 2;
    return words;
}

/* May this number still be taken? */
FM_INLINE int window_admits(const struct esp_window *w, uint64_t n)
{
    if (n > w->highest)
        return 1;
    if (n <= w->floor || w->highest - n >= w->size)
        return 0;
    return !(w->ring[n >> 6 & w->mask] >> (n & 63) & 1);
}

/* Take it; false when it must not be (any more). */
FM_INLINE int window_take(struct esp_window *w, uint64_t n)
{
    if (!window_admits(w, n))
        return 0;
    if (n > w->highest) {
        uint64_t ahead = (n >> 6) - (w->highest >> 6), word = w->highest >> 6;
        if (ahead > w->mask)
            ahead = (uint64_t)w->mask + 1;
        while (ahead--)
            w->ring[++word & w->mask] = 0;
        w->highest = n;
    }
    w->ring[n >> 6 & w->mask] |= 1ull << (n & 63);
    return 1;
}

/* The whole number of which a packet carries the lower half: RFC 4303 appendix A2.2 (the text of
 * 3.4.3 breaks reordering inside the window). 0 when it would be before the first. */
FM_INLINE uint64_t window_extend(const struct esp_window *w, uint32_t low)
{
    uint64_t high = w->highest >> 32;
    uint32_t top = (uint32_t)w->highest, bottom = top - (w->size - 1);
    if (top >= w->size - 1) {
        if (low < bottom)
            high++;
    } else if (low >= bottom) {
        if (!high)
            return 0;
        high--;
    }
    return high << 32 | low;
}

#endif
