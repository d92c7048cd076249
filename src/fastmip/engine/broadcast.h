/* Broadcasts of the home network for nodes away from home (RFC 5944 4.3): copies of one packet
 * through every tunnel that asked for it, made by the control thread on the worker of the
 * in-process ports. With a co-located care-of address the packet goes into the tunnel as it is;
 * else it is nested in a packet to the home address first, so that the foreign agent knows whose
 * it is.
 */
#ifndef FASTMIP_BROADCAST_H
#define FASTMIP_BROADCAST_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "control.h"

#define FM_BROADCAST_MAX 1024u /* copies of one call */
#define FM_BROADCAST_PACKET_MAX 1500u

/* A copy for each live line of this home address that wants it; their number. */
FM_FN uint32_t broadcast_to(struct fm_control *c, struct fm_worker *w, uint32_t home_be,
                            const uint8_t *packet, uint32_t len, struct fm_out *out)
{
    struct fm_engine *e = &c->e;
    uint32_t copies = 0;
    for (uint32_t number = control_head(c, home_be); number; number = e->lines[number].next) {
        const struct fm_line *line = &e->lines[number];
        if (!(line->flags & FM_LINE_BROADCAST) || !line_is_alive(line, w->now_ns))
            continue;
        struct fm_desc *d = fm_out_room(out, FM_TUNNEL) ? fm_scratch(w, len) : (struct fm_desc *)0;
        w->copies++;
        if (!d) {
            struct fm_desc lost;
            fm_finish(w, &lost, FM_DROP_BUFFER, len);
            continue;
        }
        memcpy(d->data, packet, len);
        d->side = FM_HOME;
        d->done = FM_DONE_TTL | FM_DONE_QUIET;
        if (line->flags & FM_LINE_NESTED)
            nest_for_home(d, line);
        encapsulate_one(w, d, number, 0, FM_ENCAPSULATED_COPY, out);
        copies += d->verdict == FM_ENCAPSULATED_COPY || d->verdict == FM_ENCAPSULATED_FRAGMENTS;
    }
    if (e->esp)
        esp_seal(w);
    return copies;
}

/* Start a call: the scratch arena is empty again. */
FM_FN void broadcast_start(struct fm_worker *w, uint64_t now_ns)
{
    fm_worker_online(w);
    w->now_ns = now_ns;
    w->scratch_used = 0;
    w->scratch_descs = 0;
}

/* Send them through a raw socket (IP_HDRINCL); how many the kernel refused. */
FM_FN uint32_t broadcast_send(int raw_fd, const struct fm_out *out)
{
    uint32_t refused = 0;
    for (uint32_t i = 0; i < out->count[FM_TUNNEL]; i++) {
        const struct fm_desc *d = out->packets[FM_TUNNEL][i];
        struct sockaddr_in to = {.sin_family = AF_INET};
        to.sin_addr.s_addr = ipv4_destination_be(d->data);
        refused += sendto(raw_fd, d->data, d->len, MSG_DONTWAIT, (struct sockaddr *)&to,
                          sizeof to) < 0;
    }
    return refused;
}

#endif
