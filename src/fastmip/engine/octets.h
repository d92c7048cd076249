/* Octets: unaligned load/store, byte order, RFC 1071 sums, RFC 1624 updates.
 *
 * Names ending in _be hold network order exactly as it lies in memory; sums are taken over
 * such raw words (RFC 1071 section 2B: the one's complement sum does not care about order).
 */
#ifndef FASTMIP_OCTETS_H
#define FASTMIP_OCTETS_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "fastmip's engine assumes a little-endian machine"
#endif

#define FM_LIKELY(x) __builtin_expect(!!(x), 1)
#define FM_UNLIKELY(x) __builtin_expect(!!(x), 0)
/* An engine header is shared by the extension, the probe and the fuzz target; none uses all. */
#define FM_FN __attribute__((unused)) static
#define FM_INLINE __attribute__((unused)) static inline
#define FM_NOINLINE __attribute__((noinline))
#define FM_ALWAYS inline __attribute__((always_inline))
#define FM_COLD __attribute__((unused, noinline, cold)) static

FM_INLINE uint16_t load16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
FM_INLINE uint32_t load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
FM_INLINE uint64_t load64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
FM_INLINE void store16(void *p, uint16_t v) { memcpy(p, &v, 2); }
FM_INLINE void store32(void *p, uint32_t v) { memcpy(p, &v, 4); }
FM_INLINE void store64(void *p, uint64_t v) { memcpy(p, &v, 8); }

FM_INLINE uint16_t swap16(uint16_t v) { return __builtin_bswap16(v); }
FM_INLINE uint32_t swap32(uint32_t v) { return __builtin_bswap32(v); }

/* Host-order value of a network-order field. */
FM_INLINE uint16_t get16(const void *p) { return swap16(load16(p)); }
FM_INLINE uint32_t get32(const void *p) { return swap32(load32(p)); }
FM_INLINE void put16(void *p, uint16_t v) { store16(p, swap16(v)); }
FM_INLINE void put32(void *p, uint32_t v) { store32(p, swap32(v)); }

/* Fold a sum of raw 16- or 32-bit words to 16 bits. A number plus itself with its halves swapped
 * has their sum in the upper half, with the carry of the lower half already added. */
FM_INLINE uint16_t sum_fold(uint64_t sum)
{
    uint32_t half = (uint32_t)((sum + (sum << 32 | sum >> 32)) >> 32);
    return (uint16_t)((half + (half << 16 | half >> 16)) >> 16);
}

/* One's complement sum of len octets, an odd last octet padded with zero (RFC 1071). */
FM_INLINE uint16_t sum_octets(const uint8_t *p, uint32_t len)
{
    uint64_t sum = 0;
    while (len >= 4) {
        sum += load32(p);
        p += 4;
        len -= 4;
    }
    if (len >= 2) {
        sum += load16(p);
        p += 2;
        len -= 2;
    }
    if (len)
        sum += *p;
    return sum_fold(sum);
}

/* RFC 1624 equation 3: a checksum field after the 16-bit word `was` became `is`. */
FM_INLINE uint16_t sum_update(uint16_t checksum, uint16_t was, uint16_t is)
{
    return (uint16_t)~sum_fold((uint64_t)(uint16_t)~checksum + (uint16_t)~was + is);
}

#endif
