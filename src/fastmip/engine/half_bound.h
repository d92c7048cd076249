/* Half bound UDP tunnels (RFC 3519 4.11): a node that registered through a foreign agent has a
 * port of its own behind the NAT, which only its first keepalive tells. That packet is checked
 * and handed to the control thread, which publishes the line anew with the port; it is never
 * forwarded. What the control thread is slow to take is lost: nodes send keepalives again.
 */
#ifndef FASTMIP_HALF_BOUND_H
#define FASTMIP_HALF_BOUND_H

#include <unistd.h>

#include "tunnel.h"
#include "worker.h"

/* Did the packet come from where the line's packets must come from, but for their port? */
FM_INLINE int half_bound_comes_from(const struct fm_line *line, const struct fm_carried *c)
{
    return line->remote == c->source && line->local == c->destination &&
           (c->method & FM_UDP) && line->ports >> 16 == c->ports >> 16;
}

/* RFC 3519 4.6, 4.9: an ICMP echo request from the home address to the home agent. */
FM_INLINE int half_bound_is_keepalive(const struct fm_line *line, const uint8_t *inner)
{
    uint32_t header = ipv4_header_len(inner);
    return ipv4_source_be(inner) == line->home && ipv4_destination_be(inner) == line->local &&
           ipv4_protocol(inner) == PROTO_ICMP && !ipv4_is_fragment(inner) &&
           header + 8 <= ipv4_total(inner) && inner[header] == 8;
}

/* Put it where the control thread finds it. */
FM_COLD void half_bound_tell(struct fm_worker *w, const struct fm_line *line,
                             const struct fm_carried *c)
{
    struct fm_half_bound_ring *ring = &w->half_bound;
    uint32_t tail = __atomic_load_n(&ring->taken, __ATOMIC_ACQUIRE);
    if (ring->put - tail == FM_HALF_BOUND_MAX)
        return;
    struct fm_half_bound *told = &ring->told[ring->put % FM_HALF_BOUND_MAX];
    told->home = swap32(line->home);
    told->source = swap32(c->source);
    told->port = swap16((uint16_t)c->ports);
    __atomic_store_n(&ring->put, ring->put + 1, __ATOMIC_RELEASE);
    uint64_t one = 1;
    if (w->engine->half_bound_fd >= 0 &&
        write(w->engine->half_bound_fd, &one, sizeof one) < 0)
        return; /* EAGAIN: the control thread has been woken already */
}

/* Control thread: the next one, or false. */
FM_FN int half_bound_take(struct fm_worker *w, struct fm_half_bound *told)
{
    struct fm_half_bound_ring *ring = &w->half_bound;
    uint32_t taken = ring->taken;
    if (__atomic_load_n(&ring->put, __ATOMIC_ACQUIRE) == taken)
        return 0;
    *told = ring->told[taken % FM_HALF_BOUND_MAX];
    __atomic_store_n(&ring->taken, taken + 1, __ATOMIC_RELEASE);
    return 1;
}

#endif
