/* TTL of packets that are written back to the kernel.
 *
 * A packet of the home side without a binding is written back to the TUN device and routed
 * normally. The kernel has then forwarded it twice where a plain router would have once, so the
 * engine puts one hop back (RFC 1624 update of the checksum). A packet of this machine itself
 * was not decremented on the way in and will be on the way out: the same +1 is right for it.
 *
 * If routing is misconfigured such that the kernel sends what is written back into the TUN
 * device again, +1 would let it circle for ever. So the port remembers what it wrote back; a
 * packet seen again gets no hop back and the circle ends at TTL 0. Forgetting costs nothing but
 * a circle that lasts longer: 4096 packets are remembered, the TUN queue holds fewer, and all are
 * forgotten several times a second, so that a datagram sent again (a heartbeat with DF and
 * Identification 0 looks the same for ever) is seldom taken for one that circles.
 */
#ifndef FASTMIP_RETURNED_H
#define FASTMIP_RETURNED_H

#include <stdint.h>
#include <string.h>

#include "vnet.h"

#define RETURNED_SETS 512 /* power of two */
#define RETURNED_WAYS 8   /* one cache line */
#define RETURNED_AGE_BITS 28 /* 2^28 ns, 0.27 s: far longer than one turn of a circle */

struct returned_memory {
    uint64_t mark[RETURNED_SETS][RETURNED_WAYS];
    uint8_t next[RETURNED_SETS];
    uint64_t age;
};

/* A mark of everything that stays the same while a packet circles: not TTL, not checksum. */
static inline uint64_t returned_mark(const uint8_t *ip, uint32_t len)
{
    uint64_t words[5] = {0};
    memcpy(words, ip, 8);
    memcpy((uint8_t *)words + 8, ip + VNET_IP_SOURCE, 8);
    uint32_t rest = len - 20;
    memcpy((uint8_t *)words + 16, ip + 20, rest < 24 ? rest : 24);
    uint64_t mark = ip[VNET_IP_PROTOCOL];
    for (int i = 0; i < 5; i++) {
        mark = (mark ^ words[i]) * 0x9e3779b97f4a7c15u;
        mark ^= mark >> 29;
    }
    return mark ? mark : 1;
}

/* True if this packet was written back lately; remembers it. `len` >= 20. */
static inline int returned_before(struct returned_memory *m, const uint8_t *ip, uint32_t len,
                                  uint64_t now_ns)
{
    if (now_ns >> RETURNED_AGE_BITS != m->age) {
        memset(m, 0, sizeof *m);
        m->age = now_ns >> RETURNED_AGE_BITS;
    }
    uint64_t mark = returned_mark(ip, len);
    uint32_t set = (uint32_t)(mark >> 32) & (RETURNED_SETS - 1);
    for (int way = 0; way < RETURNED_WAYS; way++)
        if (m->mark[set][way] == mark) return 1;
    m->mark[set][m->next[set]] = mark;
    m->next[set] = (uint8_t)((m->next[set] + 1) % RETURNED_WAYS);
    return 0;
}

/* Put one hop back. 255 has no successor: such a packet of this machine arrives with 254. */
static inline void returned_add_hop(uint8_t *ip)
{
    if (ip[8] == 255) return;
    ip[8]++;
    /* RFC 1624: the word (TTL, protocol) grew by 0x0100, its complement sum shrinks by that. */
    uint32_t sum = (uint32_t)vnet_get16(ip + VNET_IP_CHECKSUM) + 0xfeff;
    sum = (sum & 0xffff) + (sum >> 16);
    vnet_put16(ip + VNET_IP_CHECKSUM, sum);
}

#endif
