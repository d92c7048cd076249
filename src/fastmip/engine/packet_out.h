/* Outer packets past the kernel's IP stack: an AF_PACKET socket beside a kernel port's raw one.
 *
 * The mirror of routes and neighbours (egress.h) names interface and MAC, the socket (SOCK_DGRAM)
 * has the kernel write the Ethernet header. tc and captures see the packet; the firewall's output
 * chains, connection tracking and IPsec policies do not. The control thread therefore says when it
 * may be so (packet_transmit.py), with one word that is read once a batch.
 *
 * What the mirror does not know, what is larger than the interface takes, and what the interface
 * refused for being down, gone or smaller by now, leaves by the raw socket, as without this.
 */
#ifndef FASTMIP_PACKET_OUT_H
#define FASTMIP_PACKET_OUT_H

#include <linux/if_ether.h>
#include <linux/if_packet.h>

#include "egress.h"
#include "frames.h"
#include "ipv4.h"
#include "worker.h"

struct packet_out {
    int fd;      /* -1: none */
    int is_open; /* packets may leave this way now; written by the control thread */
    struct mmsghdr tx[FM_BATCH];
    struct iovec iov[FM_BATCH];
    struct sockaddr_ll to[FM_BATCH];
};

static inline void packet_out_init(struct packet_out *p, int fd)
{
    p->fd = fd;
    p->is_open = 0;
    for (uint32_t i = 0; i < FM_BATCH; i++) {
        p->to[i] = (struct sockaddr_ll){.sll_family = AF_PACKET,
                                        .sll_protocol = htons(ETH_P_IP),
                                        .sll_halen = ETH_ALEN};
        p->tx[i].msg_hdr.msg_name = &p->to[i];
        p->tx[i].msg_hdr.msg_namelen = sizeof p->to[i];
        p->tx[i].msg_hdr.msg_iov = &p->iov[i];
        p->tx[i].msg_hdr.msg_iovlen = 1;
    }
}

static inline void packet_out_allow(struct packet_out *p, int is_open)
{
    __atomic_store_n(&p->is_open, p->fd >= 0 && is_open, __ATOMIC_RELAXED);
}

/* The mirror, if packets may leave this way now. */
static inline const struct fm_egress *packet_out_mirror(const struct packet_out *p,
                                                        const struct fm_engine *e)
{
    return e && __atomic_load_n(&p->is_open, __ATOMIC_RELAXED) ? e->egress[FM_TUNNEL] : NULL;
}

/* Addresses no next hop leads to: this network, loopback, multicast, broadcast. */
static inline int packet_out_is_odd(uint32_t destination_be)
{
    uint32_t first = destination_be & 0xff;
    return first == 0 || first == 127 || first >= 224;
}

/* Lay a packet out as message `i`; false if it is the raw socket's. */
static inline int packet_out_lay_out(struct packet_out *p, const struct fm_egress *mirror,
                                     const struct fm_desc *d, uint32_t i)
{
    struct fm_hop hop;
    if (d->len < IPV4_MIN_HEADER_LEN) return 0;
    uint32_t source = ipv4_source_be(d->data), destination = ipv4_destination_be(d->data);
    if (packet_out_is_odd(destination) ||
        egress_lookup(mirror, destination, egress_flow_hash(source, destination), &hop) ||
        d->len > hop.mtu)
        return 0;
    p->to[i].sll_ifindex = (int)hop.ifindex;
    memcpy(p->to[i].sll_addr, hop.dst, ETH_ALEN);
    p->iov[i].iov_base = d->data;
    p->iov[i].iov_len = d->len;
    return 1;
}

/* Whether the raw socket may do better: the mirror was behind the kernel. */
static inline int packet_out_is_stale(int error)
{
    return error == ENXIO || error == ENODEV || error == ENETDOWN || error == EMSGSIZE;
}

#endif
