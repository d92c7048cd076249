/* The XDP port: AF_XDP sockets beside a kernel port (kernel_port.h).
 *
 * In    The interfaces' XDP program (bpf/) steers unfragmented IPv4 packets without options here:
 *       those into a home network, and tunnel packets to us. What it leaves to the kernel arrives
 *       by the kernel port, as ever.
 * Out   What the pipeline emits, from whichever port, leaves by AF_XDP if the mirror of routes and
 *       neighbours (egress.h) knows how; else through the kernel port, and then the kernel asks
 *       for the neighbour and the mirror learns. So nothing is lost meanwhile.
 *
 * What nobody did yet, and so the pipeline must (fm_done): everything. But one thing must be known
 * before: a decapsulated packet that will leave through the kernel gets its hop there (or none, if
 * it is for this machine). So the next hop is looked up on the way in, too, and a packet without one
 * is declared done. If the way is another when it leaves, its TTL is put right:
 *
 *   hop known on the way in | leaves by | TTL
 *   yes                     | AF_XDP    | by the pipeline
 *   yes                     | TUN       | by the pipeline, put back; by the kernel
 *   no                      | TUN       | by the kernel
 *   no binding ("returned") | AF_XDP    | here;  TUN: by the kernel
 *
 * Checksums. A sender on this machine (veth) leaves those of TCP, UDP and GRE to its NIC, and an
 * AF_XDP socket does not tell. The field then holds the bare sum of the pseudo header, which
 * vnet.h recognises: it is completed before the pipeline sees it.
 *
 * Frames of the batch in hand that do not leave are free again when it has been sent.
 */
#ifndef FASTMIP_XDP_PORT_H
#define FASTMIP_XDP_PORT_H

#include "egress.h"
#include "kernel_worker.h"
#include "pipeline.h"
#include "xdp_counters.h"
#include "xdp_rings.h"

#define XDP_OUTLETS 64u /* numbers of interfaces, as hops have them */
#define XDP_NO_SOCKET 0xffu

_Static_assert(XDP_SOCKETS_MAX <= PORT_POLLED, "all can be waited for");

struct xdp_port {
    struct kernel_port *kernel;
    const struct fm_engine *engine;
    struct xdp_umem umem;
    struct xdp_socket sockets[XDP_SOCKETS_MAX];
    uint8_t outlet[XDP_OUTLETS]; /* interface -> the socket that sends there */
    uint32_t used;               /* sockets are below this number */
    uint32_t next;               /* socket read last */
    struct fm_desc waiting[FM_SIDES][FM_BATCH]; /* read, not yet handed over */
    uint32_t waiting_count[FM_SIDES];
    uint32_t hand[FM_BATCH]; /* frames of the batch in hand */
    uint32_t hand_count;
    uint64_t counters[XDP_COUNTER_COUNT]; /* written by the worker, read by anyone */
};

static inline void xdp_count(struct xdp_port *x, enum xdp_counter which, uint64_t more)
{
    __atomic_store_n(&x->counters[which], x->counters[which] + more, __ATOMIC_RELAXED);
}

/* 0, or -1 with errno. `sockets`: how many there will be. */
static inline int xdp_port_init(struct xdp_port *x, struct kernel_port *kernel,
                                const struct fm_engine *engine, uint32_t sockets)
{
    memset(x, 0, sizeof *x);
    x->kernel = kernel;
    x->engine = engine;
    memset(x->outlet, XDP_NO_SOCKET, sizeof x->outlet);
    for (uint32_t i = 0; i < XDP_SOCKETS_MAX; i++) x->sockets[i].fd = -1;
    return xdp_umem_init(&x->umem, sockets);
}

static inline void xdp_port_close(struct xdp_port *x, uint32_t number)
{
    xdp_close(&x->umem, &x->sockets[number], number);
    for (uint32_t i = 0; i < XDP_OUTLETS; i++)
        if (x->outlet[i] == number) x->outlet[i] = XDP_NO_SOCKET;
}

static inline void xdp_port_free(struct xdp_port *x)
{
    for (uint32_t i = 0; i < XDP_SOCKETS_MAX; i++) xdp_port_close(x, i);
    xdp_umem_destroy(&x->umem);
}

/* Serve one queue of an interface that hops call `outlet`; the socket's number, or -1 with errno.
 * Only while the worker stands still. */
static inline int xdp_port_open(struct xdp_port *x, uint32_t outlet, uint32_t ifindex,
                                uint32_t queue, int is_copy)
{
    uint32_t number = XDP_SOCKETS_MAX;
    int other = -1;
    for (uint32_t i = XDP_SOCKETS_MAX; i-- > 0;) {
        if (x->sockets[i].fd < 0)
            number = i;
        else if (!x->sockets[i].is_gone)
            other = x->sockets[i].fd;
    }
    if (number == XDP_SOCKETS_MAX || outlet >= XDP_OUTLETS) {
        errno = ENOSPC;
        return -1;
    }
    struct xdp_socket *s = &x->sockets[number];
    if (xdp_open(&x->umem, s, ifindex, queue, other, is_copy)) return -1;
    xdp_fill(&x->umem, s, number);
    if (x->used <= number) x->used = number + 1;
    if (x->outlet[outlet] == XDP_NO_SOCKET) x->outlet[outlet] = (uint8_t)number;
    return (int)number;
}

/* To us and not for the engine: what a kernel must put together first, or give to a socket. */
static inline int xdp_is_for_kernel(const uint8_t *ip, uint32_t len)
{
    uint32_t udp = (uint32_t)(ip[0] & 15) * 4;
    if (vnet_get16(ip + VNET_IP_FRAGMENT) & 0x3fff) return 1;
    switch (ip[VNET_IP_PROTOCOL]) {
    case VNET_PROTO_IPIP:
    case VNET_PROTO_GRE:
    case PROTO_MINIMAL: return 0;
    case VNET_PROTO_UDP: return len <= udp + VNET_UDP_LEN || ip[udp + VNET_UDP_LEN] != UDP_PORT_DATA;
    default: return 1;
    }
}

/* The socket by which a packet leaves, or NULL: it is the kernel's. */
static inline struct xdp_socket *xdp_way(struct xdp_port *x, int side, const uint8_t *ip,
                                         uint32_t len, struct fm_hop *hop, uint32_t *number)
{
    const struct fm_egress *mirror = x->engine->egress[side];
    uint32_t source = ipv4_source_be(ip), destination = ipv4_destination_be(ip);
    if (!mirror || is_martian_octet[destination & 0xff] ||
        egress_lookup(mirror, destination, egress_flow_hash(source, destination), hop) ||
        len > hop->mtu || hop->port >= XDP_OUTLETS)
        return NULL;
    *number = x->outlet[hop->port];
    if (*number == XDP_NO_SOCKET || x->sockets[*number].is_gone) return NULL;
    return &x->sockets[*number];
}

static inline void xdp_complete(struct xdp_port *x, uint8_t *ip, uint32_t len)
{
    uint32_t field = transport_partial(ip, len), header = (uint32_t)(ip[0] & 15) * 4;
    if (!field) return;
    struct vnet_hdr h = {.flags = VNET_NEEDS_CSUM, .csum_start = (uint16_t)header,
                         .csum_offset = (uint16_t)(field - header)};
    if (!vnet_complete(&h, ip, vnet_get16(ip + VNET_IP_TOTAL))) xdp_count(x, XDP_COUNT_COMPLETED, 1);
}

/* A tunnel packet to us: ready for the pipeline, or false: it went to the kernel. */
static inline int xdp_take_tunnel(struct xdp_port *x, struct fm_desc *d)
{
    if (xdp_is_for_kernel(d->data, d->len)) {
        port_write(x->kernel, d->data, d->len);
        xdp_count(x, XDP_COUNT_HANDED_BACK, 1);
        return 0;
    }
    uint32_t prefix = tunnel_prefix(d->data, d->len), number;
    struct fm_hop hop;
    d->done = FM_DONE_TTL;
    if (!prefix) return 1;
    uint8_t *inner = d->data + prefix;
    xdp_complete(x, inner, d->len - prefix);
    if (gre_complete(d->data, d->len)) xdp_count(x, XDP_COUNT_COMPLETED, 1);
    if (xdp_way(x, FM_HOME, inner, vnet_get16(inner + VNET_IP_TOTAL), &hop, &number)) d->done = 0;
    return 1;
}

/* What a frame holds, on its side's list; false if the frame is not needed any more. */
static inline int xdp_take(struct xdp_port *x, uint8_t *at, uint32_t len)
{
    if (len < XDP_ETHERNET) {
        xdp_count(x, XDP_COUNT_TRUNCATED, 1);
        return 0;
    }
    if (vnet_get16(at + 12) != 0x0800) {
        xdp_count(x, XDP_COUNT_NOT_IPV4, 1);
        return 0;
    }
    struct fm_desc d = {.data = at + XDP_ETHERNET, .len = len - XDP_ETHERNET, .side = FM_HOME};
    if (d.len >= IPV4_MIN_HEADER_LEN && is_own_address(x->engine, ipv4_destination_be(d.data))) {
        d.side = FM_TUNNEL;
        if (!xdp_take_tunnel(x, &d)) return 0;
    } else {
        xdp_complete(x, d.data, d.len);
    }
    x->waiting[d.side][x->waiting_count[d.side]++] = d;
    return 1;
}

/* Read up to `room` frames of one socket; their number. */
static inline uint32_t xdp_read(struct xdp_port *x, uint32_t number, uint32_t room)
{
    struct xdp_umem *u = &x->umem;
    struct xdp_socket *s = &x->sockets[number];
    const struct xdp_desc *entries = (const struct xdp_desc *)s->rx.entries;
    uint32_t n = xdp_load(s->rx.producer) - s->rx.at;
    if (n > room) n = room;
    if (!n) return 0;
    for (uint32_t i = 0; i < n; i++)
        __builtin_prefetch((const void *)((uintptr_t)u->memory +
                                          entries[(s->rx.at + i) & (XDP_RING - 1)].addr));
    for (uint32_t i = 0; i < n; i++) {
        const struct xdp_desc *e = &entries[s->rx.at++ & (XDP_RING - 1)];
        uint64_t frame = e->addr >> XDP_FRAME_SHIFT;
        if (frame >= u->frames || u->owner[frame] != XDP_RECEIVING + number ||
            (e->addr & (XDP_FRAME - 1)) + e->len > XDP_FRAME) {
            xdp_count(x, XDP_COUNT_STRANGE, 1);
            continue;
        }
        s->receiving--;
        u->owner[frame] = XDP_ENGINE;
        if (!xdp_take(x, u->memory + e->addr, e->len)) xdp_free_frame(u, (uint32_t)frame);
    }
    xdp_store(s->rx.consumer, s->rx.at);
    xdp_fill(u, s, number);
    /* A driver that ran out of frames wants to hear of new ones. */
    if (xdp_load(s->fill.flags) & XDP_RING_NEED_WAKEUP)
        (void)recvfrom(s->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
    return n;
}

/* The next frames of whichever socket has some, beginning behind the one read last. */
static inline void xdp_read_some(struct xdp_port *x)
{
    uint32_t most = x->waiting_count[FM_HOME] > x->waiting_count[FM_TUNNEL]
                        ? x->waiting_count[FM_HOME] : x->waiting_count[FM_TUNNEL];
    uint32_t room = FM_BATCH - most;
    for (uint32_t i = 0; i < x->used && room; i++) {
        x->next = x->next + 1 < x->used ? x->next + 1 : 0;
        if (x->sockets[x->next].fd >= 0) room -= xdp_read(x, x->next, room);
    }
}

static inline uint32_t xdp_hand_over(struct xdp_port *x, struct fm_desc *batch, int side)
{
    if (!x->waiting_count[side]) xdp_read_some(x);
    uint32_t n = x->waiting_count[side];
    x->waiting_count[side] = 0;
    memcpy(batch, x->waiting[side], n * sizeof *batch);
    for (uint32_t i = 0; i < n; i++) x->hand[i] = xdp_frame_of(&x->umem, batch[i].data);
    x->hand_count = n;
    xdp_count(x, side == FM_HOME ? XDP_COUNT_READ_HOME : XDP_COUNT_READ_TUNNEL, n);
    return n;
}

static uint32_t xdp_receive_home(void *self, struct fm_desc *batch)
{
    return xdp_hand_over((struct xdp_port *)self, batch, FM_HOME);
}

static uint32_t xdp_receive_tunnel(void *self, struct fm_desc *batch)
{
    return xdp_hand_over((struct xdp_port *)self, batch, FM_TUNNEL);
}

/* Have the kernel send what a socket holds, and take back what it sent. */
static inline void xdp_drain(struct xdp_port *x, struct xdp_socket *s, uint32_t number)
{
    int error = s->tx.at != xdp_load(s->tx.consumer) ? xdp_kick(s) : 0;
    xdp_count(x, XDP_COUNT_STRANGE, xdp_reap(&x->umem, s, number));
    if (!error) return;
    xdp_count(x, XDP_COUNT_SEND_ERRORS, 1);
    if (error != ENETDOWN) s->is_gone = 1;
}

static inline void xdp_drain_all(struct xdp_port *x)
{
    for (uint32_t i = 0; i < x->used; i++)
        if (x->sockets[i].fd >= 0 && x->sockets[i].sending && !x->sockets[i].is_gone)
            xdp_drain(x, &x->sockets[i], i);
}

/* Where a packet lies as a frame of the engine: in place, or copied. NULL: no frame is free. */
static inline uint8_t *xdp_in_frame(struct xdp_port *x, const struct fm_desc *d)
{
    struct xdp_umem *u = &x->umem;
    uint32_t frame = xdp_frame_of(u, d->data);
    if (frame < u->frames && u->owner[frame] == XDP_ENGINE) return d->data;
    if (d->len > XDP_FRAME - FM_HEADROOM_HOME ||
        (frame = xdp_take_frame(u, XDP_ENGINE)) == u->frames) {
        xdp_count(x, XDP_COUNT_NO_FRAME, 1);
        return NULL;
    }
    xdp_count(x, XDP_COUNT_SENT_COPIED, 1);
    return (uint8_t *)memcpy(xdp_frame(u, frame) + FM_HEADROOM_HOME, d->data, d->len);
}

/* Send a packet by a socket; false if that is the kernel's to do. */
static inline int xdp_send_by(struct xdp_port *x, struct xdp_socket *s, uint32_t number,
                              const struct fm_hop *hop, const struct fm_desc *d)
{
    uint8_t *ip = xdp_in_frame(x, d);
    if (!ip) return 0;
    uint8_t *at = ip - XDP_ETHERNET;
    memcpy(at, hop->dst, 6);
    memcpy(at + 6, hop->src, 6);
    vnet_put16(at + 12, 0x0800);
    if (s->sending == XDP_RING) xdp_drain(x, s, number);
    if (xdp_put(&x->umem, s, number, at, d->len + XDP_ETHERNET)) {
        xdp_count(x, XDP_COUNT_SENT, 1);
        return 1;
    }
    xdp_count(x, XDP_COUNT_RING_FULL, 1);
    if (ip != d->data) xdp_free_frame(&x->umem, xdp_frame_of(&x->umem, ip));
    return 1;
}

static inline int xdp_is_returned(const struct fm_desc *d)
{
    return d->verdict == FM_RETURNED_NO_BINDING || d->verdict == FM_RETURNED_EXPIRED;
}

/* Send a packet to the home side; false if that is the kernel port's to do, TTL put right. */
static inline int xdp_send_home(struct xdp_port *x, struct fm_desc *d)
{
    struct xdp_socket *s;
    struct fm_hop hop;
    uint32_t number;
    if (d->done & FM_DONE_TTL || d->len < IPV4_MIN_HEADER_LEN) return 0;
    if (xdp_is_returned(d)) {
        if (!d->data[OFF_TTL]) return 0;
        s = d->data[OFF_TTL] > 1 ? xdp_way(x, FM_HOME, d->data, d->len, &hop, &number) : NULL;
        ipv4_decrement_ttl(d->data); /* the kernel port puts it back */
        return s && xdp_send_by(x, s, number, &hop, d);
    }
    s = xdp_way(x, FM_HOME, d->data, d->len, &hop, &number);
    if (s && xdp_send_by(x, s, number, &hop, d)) return 1;
    returned_add_hop(d->data);
    return 0;
}

static inline int xdp_send_tunnel(struct xdp_port *x, struct fm_desc *d)
{
    struct fm_hop hop;
    uint32_t number;
    if (udp_port_takes(&x->kernel->udp, d)) return 0; /* its socket makes the checksum */
    struct xdp_socket *s = xdp_way(x, FM_TUNNEL, d->data, d->len, &hop, &number);
    return s && xdp_send_by(x, s, number, &hop, d);
}

static void xdp_send(void *self, struct fm_out *out, uint64_t now_ns)
{
    struct xdp_port *x = (struct xdp_port *)self;
    struct kernel_port *k = x->kernel;
    struct fm_desc **home = out->packets[FM_HOME], **tunnel = out->packets[FM_TUNNEL];
    uint32_t homes = 0, tunnels = 0;
    k->now_ns = now_ns;
    for (uint32_t i = 0; i < out->count[FM_TUNNEL]; i++)
        if (!xdp_send_tunnel(x, tunnel[i])) tunnel[tunnels++] = tunnel[i];
    for (uint32_t i = 0; i < out->count[FM_HOME]; i++)
        if (!xdp_send_home(x, home[i])) home[homes++] = home[i];
    kernel_port_send_tunnel(k, tunnel, tunnels);
    kernel_port_send_home(k, home, homes);
    xdp_count(x, XDP_COUNT_TO_KERNEL, tunnels + homes);
    for (uint32_t i = 0; i < x->hand_count; i++)
        if (x->umem.owner[x->hand[i]] == XDP_ENGINE) xdp_free_frame(&x->umem, x->hand[i]);
    x->hand_count = 0;
    xdp_drain_all(x);
}

static uint32_t xdp_polled(void *self, struct pollfd *fds)
{
    struct xdp_port *x = (struct xdp_port *)self;
    uint32_t n = 0;
    xdp_drain_all(x);
    for (uint32_t i = 0; i < x->used; i++) {
        struct xdp_socket *s = &x->sockets[i];
        if (s->fd < 0) continue;
        int is_unsent = !s->is_gone && xdp_load(s->tx.consumer) != s->tx.at;
        fds[n].fd = s->is_gone ? -1 : s->fd;
        fds[n++].events = (short)(POLLIN | (is_unsent ? POLLOUT : 0));
    }
    return n;
}

static void xdp_woken(void *self, const struct pollfd *fds, uint32_t count)
{
    struct xdp_port *x = (struct xdp_port *)self;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < x->used && fds[i].revents & (POLLERR | POLLNVAL); k++)
            if (fds[i].fd >= 0 && x->sockets[k].fd == fds[i].fd) x->sockets[k].is_gone = 1;
}

/* Frames that wait are handed over when the worker runs again. */
static int xdp_has_left(const void *self)
{
    (void)self;
    return 0;
}

static int xdp_has_failed(const void *self)
{
    (void)self;
    return 0; /* whatever happens to an interface, the kernel port carries on */
}

static const struct port_functions xdp_functions = {
    .name = "xdp",
    .receive = {xdp_receive_home, xdp_receive_tunnel, NULL},
    .send = xdp_send,
    .polled = xdp_polled,
    .woken = xdp_woken,
    .has_left = xdp_has_left,
    .has_failed = xdp_has_failed,
};

#endif
