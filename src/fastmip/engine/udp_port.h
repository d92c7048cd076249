/* The UDP side of a kernel port: tunnels through a NAT (RFC 3519), on one datagram socket.
 *
 * The pipeline knows whole packets only: IPv4, UDP, four octets of tunnel header, inner packet.
 * A datagram socket gives and takes what follows the UDP header. So headers are made up from
 * what the kernel tells about a datagram when it comes in, and taken off again when it goes out;
 * the kernel verifies and computes UDP checksums, hence made-up headers carry none (zero).
 *
 * In   recvmmsg with UDP_GRO: datagrams of one peer may arrive as one, with their common size. A
 *      NIC's GRO knows addresses and ports only, so the last of them may be a registration
 *      message: the port sends it to this machine again, and so it finds the control socket.
 * Out  sendmmsg. Packets that stand together and go to the same peer with the same header become
 *      one message with UDP_SEGMENT, from which the kernel or a NIC makes the same datagrams:
 *      equal sizes, only the last may be shorter.
 *
 * The socket shares its port with the control socket; devices.py says who gets what.
 */
#ifndef FASTMIP_UDP_PORT_H
#define FASTMIP_UDP_PORT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "frames.h"
#include "vnet.h"

#define UDP_PORT_HEADERS 28 /* IPv4 and UDP, made up or taken off */
#define UDP_PORT_SOL 17     /* linux/udp.h */
#define UDP_PORT_SEGMENT 103
#define UDP_PORT_GRO 104
#define UDP_PORT_PARTS 64     /* datagrams of one message; kernels take as many */
#define UDP_PORT_BYTES 65507  /* largest payload of a message */
#define UDP_PORT_DATA 4       /* first octet of tunnel data (RFC 3519 3.3) */

/* Control messages of one datagram: IP_PKTINFO, IP_TOS, UDP_GRO or UDP_SEGMENT, IP_TTL. */
#define UDP_PORT_CONTROL                                                                          \
    (CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(int)) * 3)

union udp_control {
    uint8_t bytes[UDP_PORT_CONTROL];
    struct cmsghdr align;
};

struct udp_port {
    int fd;           /* -1: no UDP tunnels */
    uint16_t port_be; /* ours */
    int is_single;    /* the kernel cannot cut messages for this path: one datagram each */
    struct mmsghdr rx[FM_BATCH], tx[FM_BATCH];
    struct iovec rx_iov[FM_BATCH][2], tx_iov[FM_BATCH];
    struct sockaddr_in rx_from[FM_BATCH], tx_to[FM_BATCH];
    union udp_control rx_control[FM_BATCH], tx_control[FM_BATCH];
};

/* What a received datagram says beside its payload. */
struct udp_told {
    uint32_t destination_be; /* 0: not told */
    uint32_t gso_size;       /* 0: a single datagram */
    uint8_t tos, ttl;        /* ttl: minimal encapsulation carries on with it */
};

static inline void udp_port_init(struct udp_port *u, int fd)
{
    struct sockaddr_in bound = {0};
    socklen_t len = sizeof bound;
    u->fd = fd;
    if (fd < 0) return;
    if (!getsockname(fd, (struct sockaddr *)&bound, &len)) u->port_be = bound.sin_port;
    for (uint32_t i = 0; i < FM_BATCH; i++) {
        u->rx[i].msg_hdr.msg_name = &u->rx_from[i];
        u->rx[i].msg_hdr.msg_iov = u->rx_iov[i];
        u->rx[i].msg_hdr.msg_iovlen = 2;
        u->rx[i].msg_hdr.msg_control = &u->rx_control[i];
    }
}

/* The kernel overwrites lengths with those of the datagrams before. */
static inline void udp_port_ready(struct udp_port *u)
{
    for (uint32_t i = 0; i < FM_BATCH; i++) {
        u->rx[i].msg_hdr.msg_namelen = sizeof u->rx_from[i];
        u->rx[i].msg_hdr.msg_controllen = sizeof u->rx_control[i];
    }
}

static inline struct udp_told udp_port_told(struct msghdr *message)
{
    struct udp_told told = {0};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            told.destination_be = info.ipi_addr.s_addr;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            told.tos = *CMSG_DATA(c);
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) {
            int ttl;
            memcpy(&ttl, CMSG_DATA(c), sizeof ttl);
            told.ttl = (uint8_t)ttl;
        } else if (c->cmsg_level == UDP_PORT_SOL && c->cmsg_type == UDP_PORT_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            told.gso_size = size > 0 ? (uint32_t)size : 0;
        }
    }
    return told;
}

/* Write the headers of datagram `i` in front of its `payload`; returns where they begin. */
static inline uint8_t *udp_port_head(const struct udp_port *u, uint32_t i,
                                     const struct udp_told *told, uint8_t *payload, uint32_t len)
{
    uint8_t *ip = payload - UDP_PORT_HEADERS, *udp = payload - VNET_UDP_LEN;
    memset(ip, 0, UDP_PORT_HEADERS);
    ip[0] = 0x45;
    ip[1] = told->tos;
    vnet_put16(ip + VNET_IP_TOTAL, len + UDP_PORT_HEADERS);
    vnet_put16(ip + VNET_IP_FRAGMENT, 0x4000);
    ip[8] = told->ttl;
    ip[VNET_IP_PROTOCOL] = VNET_PROTO_UDP;
    memcpy(ip + VNET_IP_SOURCE, &u->rx_from[i].sin_addr, 4);
    memcpy(ip + VNET_IP_DESTINATION, &told->destination_be, 4);
    vnet_ip_checksum(ip, 20);
    memcpy(udp, &u->rx_from[i].sin_port, 2);
    memcpy(udp + 2, &u->port_be, 2);
    vnet_put16(udp + VNET_UDP_LENGTH, len + VNET_UDP_LEN);
    return ip;
}

/* True for what must leave through the datagram socket: UDP from its own port. */
static inline int udp_port_takes(const struct udp_port *u, const struct fm_desc *d)
{
    return u->fd >= 0 && d->len > UDP_PORT_HEADERS && d->data[0] == 0x45 &&
           d->data[VNET_IP_PROTOCOL] == VNET_PROTO_UDP && !memcmp(d->data + 20, &u->port_be, 2);
}

/* True if `b` may follow `a` in one message: TOS, TTL, addresses and ports are the same. */
static inline int udp_port_is_same_way(const uint8_t *a, const uint8_t *b)
{
    return a[1] == b[1] && a[8] == b[8] && !memcmp(a + VNET_IP_SOURCE, b + VNET_IP_SOURCE, 12);
}

static inline uint8_t *udp_port_put(uint8_t *at, int level, int type, const void *value,
                                    size_t len)
{
    struct cmsghdr head = {.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
    memcpy(at, &head, sizeof head);
    memcpy(CMSG_DATA((struct cmsghdr *)(void *)at), value, len);
    return at + CMSG_SPACE(len);
}

/* Make message `m` of `parts` packets like `first`; their payloads are in tx_iov from `iov` on. */
static inline void udp_port_message(struct udp_port *u, uint32_t m, const struct fm_desc *first,
                                    uint32_t iov, uint32_t parts)
{
    const uint8_t *ip = first->data;
    struct msghdr *message = &u->tx[m].msg_hdr;
    struct in_pktinfo from = {0};
    int tos = ip[1], ttl = ip[8];
    uint8_t *control = u->tx_control[m].bytes, *at = control;
    memset(control, 0, sizeof u->tx_control[m]);
    memcpy(&from.ipi_spec_dst, ip + VNET_IP_SOURCE, 4);
    at = udp_port_put(at, IPPROTO_IP, IP_PKTINFO, &from, sizeof from);
    at = udp_port_put(at, IPPROTO_IP, IP_TOS, &tos, sizeof tos);
    at = udp_port_put(at, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl);
    if (parts > 1) {
        uint16_t size = (uint16_t)(first->len - UDP_PORT_HEADERS);
        at = udp_port_put(at, UDP_PORT_SOL, UDP_PORT_SEGMENT, &size, sizeof size);
    }
    u->tx_to[m].sin_family = AF_INET;
    memcpy(&u->tx_to[m].sin_addr, ip + VNET_IP_DESTINATION, 4);
    memcpy(&u->tx_to[m].sin_port, ip + 22, 2);
    message->msg_name = &u->tx_to[m];
    message->msg_namelen = sizeof u->tx_to[m];
    message->msg_iov = &u->tx_iov[iov];
    message->msg_iovlen = parts;
    message->msg_control = control;
    message->msg_controllen = (size_t)(at - control);
}

/* Number of packets from `packets` on that may leave as one message. */
static inline uint32_t udp_port_run(const struct udp_port *u, struct fm_desc **packets,
                                    uint32_t count)
{
    const struct fm_desc *first = packets[0];
    uint32_t size = first->len - UDP_PORT_HEADERS, bytes = size, n = 1;
    if (u->is_single) return 1;
    while (n < count && n < UDP_PORT_PARTS) {
        uint32_t next = packets[n]->len - UDP_PORT_HEADERS;
        if (next > size || bytes + next > UDP_PORT_BYTES ||
            !udp_port_is_same_way(first->data, packets[n]->data))
            break;
        bytes += next;
        n++;
        if (next < size) break; /* a shorter one is the last */
    }
    return n;
}

/* Lay out up to FM_BATCH packets as messages; their number. parts[i]: packets of message i. */
static inline uint32_t udp_port_lay_out(struct udp_port *u, struct fm_desc **packets,
                                        uint32_t count, uint8_t parts[FM_BATCH])
{
    uint32_t messages = 0;
    for (uint32_t at = 0; at < count; messages++) {
        uint32_t run = udp_port_run(u, packets + at, count - at);
        for (uint32_t i = at; i < at + run; i++) {
            u->tx_iov[i].iov_base = packets[i]->data + UDP_PORT_HEADERS;
            u->tx_iov[i].iov_len = packets[i]->len - UDP_PORT_HEADERS;
        }
        udp_port_message(u, messages, packets[at], at, run);
        parts[messages] = (uint8_t)run;
        at += run;
    }
    return messages;
}

#endif
