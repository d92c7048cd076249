/* Outer packets our own kernel refused, and why: the pipeline learns from them what a router's
 * ICMP error would have taught (tunnel_errors.h), since no router ever saw them.
 */
#ifndef FASTMIP_REFUSED_H
#define FASTMIP_REFUSED_H

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"
#include "vnet.h"

#define REFUSED_IP_MTU 14    /* linux/in.h */
#define REFUSED_DISCARD 9    /* a UDP port; nothing is sent */

/* Of one batch; what does not fit is told by the next batch. */
struct refused {
    uint32_t count;
    struct fm_desc *packets[FM_BATCH];
    uint32_t mtu[FM_BATCH]; /* of the path for a packet that was too big (0: not known) */
    uint8_t is_too_big[FM_BATCH];
};

/* Path MTU as the kernel knows it for this outer packet's addresses and the raw socket's mark; 0
 * when it does not say. Four system calls, once for each time a tunnel's MTU shrinks. */
static inline uint32_t refused_path_mtu(int raw_fd, const uint8_t *outer)
{
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    int mark = 0, mtu = 0;
    socklen_t size = sizeof mark;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return 0;
    memcpy(&from.sin_addr, outer + VNET_IP_SOURCE, 4);
    memcpy(&to.sin_addr, outer + VNET_IP_DESTINATION, 4);
    to.sin_port = htons(REFUSED_DISCARD);
    int is_marked = getsockopt(raw_fd, SOL_SOCKET, SO_MARK, &mark, &size) == 0 && mark != 0;
    size = sizeof mtu;
    if ((is_marked && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark)) ||
        bind(fd, (struct sockaddr *)&from, sizeof from) ||
        connect(fd, (struct sockaddr *)&to, sizeof to) ||
        getsockopt(fd, IPPROTO_IP, REFUSED_IP_MTU, &mtu, &size) || mtu < 0)
        mtu = 0;
    close(fd);
    return (uint32_t)mtu;
}

static inline void refused_note(struct refused *r, struct fm_desc *d, int raw_fd, int error)
{
    int is_too_big = error == EMSGSIZE;
    if (!is_too_big && error != ENETUNREACH && error != EHOSTUNREACH) return;
    for (uint32_t i = 0; i < r->count; i++) /* once for each tunnel is enough */
        if (r->packets[i]->line == d->line) return;
    if (r->count == FM_BATCH) return;
    r->packets[r->count] = d;
    r->is_too_big[r->count] = (uint8_t)is_too_big;
    r->mtu[r->count++] = is_too_big ? refused_path_mtu(raw_fd, d->data) : 0;
}

#endif
