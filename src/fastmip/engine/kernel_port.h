/* The kernel port: a TUN queue on the home side, a raw socket on the tunnel side.
 *
 * Home in    TUN with IFF_VNET_HDR: super-frames are cut to wire size here (vnet.h), partial
 *            checksums completed. Packets the pipeline sees are ordinary IPv4 packets.
 * Tunnel out SOCK_RAW, protocol 4, IP_HDRINCL: sendmmsg, destination from each outer header.
 *            The kernel routes by destination and mark, not by a source that is in the header
 *            only. A socket bound to no address (a mobile node's) therefore names the source in
 *            IP_PKTINFO, too: rules "from CARE-OF-ADDRESS" hold, and a packet never leaves by a
 *            link that does not own its care-of address, not even while routes are changed.
 * Tunnel in  the same socket: recvmmsg. The kernel has reassembled (up to 64 kB).
 * Home out   written to the TUN device, routed by the kernel: decapsulated packets, ICMP
 *            errors, and packets without a binding ("written back").
 * ICMP in    SOCK_RAW, protocol 1, filter 3/11/12: errors about our outer packets, given to
 *            the pipeline whole as packets of the tunnel side.
 *
 * What the kernel does, and so the pipeline must not (fm_done):
 *   home in    forwarded into the TUN device: TTL decremented, header checksum verified,
 *              martians refused. Packets of this machine itself: TTL untouched, which is right.
 *   tunnel in  outer header verified, reassembled, outer martians refused. What leaves on the
 *              home side is forwarded by the kernel, which decrements the inner TTL then (or
 *              delivers it here, without). What leaves through another tunnel is the pipeline's.
 *   written back: forwarded a second time; returned.h puts the hop back.
 * TTL thus drops exactly once per path: cn->mn on entering the TUN device, mn->cn on leaving
 * it, mn->mn in the pipeline, written back on the way in.
 *
 * Buffers. A home slot holds any packet, up to 64 kB, and is backed by memory only as far as
 * packets reached; one plain read() each, which costs no more than readv() with an overflow
 * buffer. A tunnel slot holds a wire-size packet; what exceeds it runs on into a `large` buffer,
 * then its beginning is copied in front, so that 64 buffers of one recvmmsg stay close together.
 * Slots are an odd number of cache lines apart: their starts spread over all cache sets. Parts
 * of super-frames are written to the arena, valid for one batch.
 *
 * Nothing here blocks, allocates (but kernel_port_init) or touches Python. A descriptor that
 * fails for good sets `failed`; anything else is counted by reason and the batch goes on.
 */
#ifndef FASTMIP_KERNEL_PORT_H
#define FASTMIP_KERNEL_PORT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* recvmmsg, sendmmsg */
#endif
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frames.h"
#include "merge.h"
#include "port_counters.h"
#include "refused.h"
#include "returned.h"
#include "verdicts.h"
#include "vnet.h"

#define PORT_SLOT (FM_FRAME_SIZE + 64) /* 33 cache lines */
#define PORT_PACKET_MAX 65535
#define PORT_LARGE (PORT_SLOT + 65536 + 64)
#define PORT_ARENA (4 * 65536)
#define PORT_HOME_SLOT (65 * 1024 + 64) /* 1041 cache lines */
#define PORT_TUNNEL_ROOM (PORT_SLOT - FM_HEADROOM_TUNNEL - FM_TAILROOM)
/* Inner packets of this size are made from what GRO merged; the original size is not told. */
#define PORT_MERGED_SIZE 1400
#define PORT_ERRORS_MAX 1000 /* errors in a row that make a descriptor count as failed */

enum port_descriptor { PORT_NONE, PORT_TUN, PORT_RAW, PORT_ICMP };

/* One control message, IP_PKTINFO, laid out as CMSG_DATA wants it. */
struct port_source {
    struct cmsghdr head;
    struct in_pktinfo info;
    uint8_t padding[CMSG_SPACE(sizeof(struct in_pktinfo)) - sizeof(struct cmsghdr) -
                    sizeof(struct in_pktinfo)];
};

struct kernel_port {
    int tun_fd, raw_fd, icmp_fd; /* icmp_fd -1: another worker reads it */
    uint32_t vnet_len;           /* 10, or 0 without IFF_VNET_HDR */
    int failed;                  /* enum port_descriptor */
    int error;                   /* errno of the failure */
    uint32_t errors_in_a_row;
    uint8_t *memory;
    size_t memory_len;
    uint8_t *home_slots, *tunnel_slots, *tunnel_large, *arena;
    uint32_t home_slot; /* next to read into; a super-frame stays there until it is cut */
    uint32_t arena_used;
    struct super_frame home_super, tunnel_super;
    uint32_t received, taken; /* of the last recvmmsg */
    struct mmsghdr rx[FM_BATCH], tx[FM_BATCH];
    struct iovec rx_iov[FM_BATCH][2], tx_iov[FM_BATCH];
    struct sockaddr_in tx_to[FM_BATCH];
    struct port_source tx_from[FM_BATCH];
    int names_source; /* the raw socket is bound to no address */
    uint64_t counters[PORT_COUNTER_COUNT]; /* written by the worker, read by anyone */
    struct returned_memory returned;
    struct refused refused; /* by the last kernel_port_send_tunnel */
    uint64_t now_ns;        /* of the batch in hand */
    struct merge merges[MERGE_FLOWS];
    uint32_t next_merge; /* the one to close when all are open and another flow comes */
};

static inline void port_count(struct kernel_port *k, enum port_counter which, uint64_t more)
{
    __atomic_store_n(&k->counters[which], k->counters[which] + more, __ATOMIC_RELAXED);
}

static inline void port_fail(struct kernel_port *k, enum port_descriptor which, int error)
{
    k->failed = which;
    k->error = error;
}

/* An error on reading. Descriptors that are gone fail at once, others when they stay so. */
static inline void port_read_error(struct kernel_port *k, enum port_descriptor which,
                                   enum port_counter counter, int error)
{
    port_count(k, counter, 1);
    if (error == EBADF || error == EBADFD || error == ENOTSOCK || error == ENODEV ||
        ++k->errors_in_a_row > PORT_ERRORS_MAX)
        port_fail(k, which, error);
}

_Static_assert(sizeof(struct port_source) == CMSG_SPACE(sizeof(struct in_pktinfo)), "one cmsg");

static inline int port_is_unbound(int raw_fd)
{
    struct sockaddr_in bound = {0};
    socklen_t len = sizeof bound;
    return !getsockname(raw_fd, (struct sockaddr *)&bound, &len) && bound.sin_family == AF_INET &&
           bound.sin_addr.s_addr == htonl(INADDR_ANY);
}

static inline void port_name_source(struct msghdr *message, struct port_source *from)
{
    from->head.cmsg_len = CMSG_LEN(sizeof from->info);
    from->head.cmsg_level = IPPROTO_IP;
    from->head.cmsg_type = IP_PKTINFO;
    message->msg_control = from;
    message->msg_controllen = sizeof *from;
}

/* 0, or -1 with errno. The descriptors stay the caller's. */
static inline int kernel_port_init(struct kernel_port *k, int tun_fd, int raw_fd, int icmp_fd,
                                   int vnet_hdr)
{
    size_t home = (size_t)FM_BATCH * PORT_HOME_SLOT, tunnel = (size_t)FM_BATCH * PORT_SLOT;
    memset(k, 0, sizeof *k);
    k->tun_fd = tun_fd;
    k->raw_fd = raw_fd;
    k->icmp_fd = icmp_fd;
    k->vnet_len = vnet_hdr ? VNET_HDR_LEN : 0;
    k->names_source = port_is_unbound(raw_fd);
    k->memory_len = home + tunnel + (size_t)FM_BATCH * PORT_LARGE + PORT_ARENA;
    k->memory = (uint8_t *)mmap(NULL, k->memory_len, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (k->memory == (uint8_t *)MAP_FAILED) {
        k->memory = NULL;
        return -1;
    }
    k->home_slots = k->memory;
    k->tunnel_slots = k->home_slots + home;
    k->arena = k->tunnel_slots + tunnel;
    k->tunnel_large = k->arena + PORT_ARENA;
    for (uint32_t i = 0; i < FM_BATCH; i++) {
        k->rx_iov[i][0].iov_base = k->tunnel_slots + (size_t)i * PORT_SLOT + FM_HEADROOM_TUNNEL;
        k->rx_iov[i][0].iov_len = PORT_TUNNEL_ROOM;
        k->rx_iov[i][1].iov_base = k->tunnel_large + (size_t)i * PORT_LARGE + PORT_SLOT;
        k->rx_iov[i][1].iov_len = PORT_PACKET_MAX;
        k->rx[i].msg_hdr.msg_iov = k->rx_iov[i];
        k->rx[i].msg_hdr.msg_iovlen = 2;
        k->tx_to[i].sin_family = AF_INET;
        k->tx[i].msg_hdr.msg_name = &k->tx_to[i];
        k->tx[i].msg_hdr.msg_namelen = sizeof k->tx_to[i];
        k->tx[i].msg_hdr.msg_iov = &k->tx_iov[i];
        k->tx[i].msg_hdr.msg_iovlen = 1;
        if (k->names_source) port_name_source(&k->tx[i].msg_hdr, &k->tx_from[i]);
    }
    return 0;
}

static inline void kernel_port_free(struct kernel_port *k)
{
    if (k->memory) munmap(k->memory, k->memory_len);
    k->memory = NULL;
}

static inline void port_describe(struct fm_desc *d, uint8_t *data, uint32_t len, int side)
{
    d->data = data;
    d->len = len;
    d->line = 0;
    d->hash = 0;
    d->verdict = FM_NONE;
    d->done = FM_DONE_TTL | FM_DONE_CHECKSUM | FM_DONE_REASSEMBLY | FM_DONE_MARTIAN;
    d->side = (uint8_t)side;
}

/* The first `room` bytes of a packet lie in a slot, the rest in `large`: make it one piece. */
static inline uint8_t *port_join(const uint8_t *slot, uint8_t *large, uint32_t room)
{
    return (uint8_t *)memcpy(large + PORT_SLOT - room, slot, room);
}

/* Cut as much of a super-frame as batch and arena hold; the new number of packets in batch. */
static inline uint32_t port_cut(struct kernel_port *k, struct super_frame *f,
                                struct fm_desc *batch, uint32_t n, int side)
{
    uint32_t headroom = side == FM_HOME ? FM_HEADROOM_HOME : FM_HEADROOM_TUNNEL;
    uint32_t before = n;
    while (n < FM_BATCH && super_frame_pending(f)) {
        uint32_t stride = (headroom + super_frame_peek(f) + FM_TAILROOM + 127u) & ~63u;
        stride |= 64; /* an odd number of cache lines */
        if (k->arena_used + stride > PORT_ARENA) break;
        uint8_t *room = k->arena + k->arena_used + headroom;
        port_describe(&batch[n++], room, super_frame_next(f, room), side);
        k->arena_used += stride;
    }
    port_count(k, side == FM_HOME ? PORT_HOME_SEGMENTS : PORT_TUNNEL_SEGMENTS, n - before);
    return n;
}

/* One read from the TUN device: bytes of the packet at `data`, 0 when there is none. */
static inline uint32_t port_read_tun(struct kernel_port *k, uint8_t *data, struct vnet_hdr *h)
{
    uint8_t *start = data - k->vnet_len;
    for (;;) {
        ssize_t got = read(k->tun_fd, start, k->vnet_len + PORT_PACKET_MAX);
        if (got > (ssize_t)k->vnet_len) {
            memset(h, 0, sizeof *h);
            if (k->vnet_len) memcpy(h, start, VNET_HDR_LEN);
            k->errors_in_a_row = 0;
            return (uint32_t)got - k->vnet_len;
        }
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
        port_read_error(k, PORT_TUN, PORT_HOME_READ_ERRORS, got < 0 ? errno : EIO);
        return 0;
    }
}

/* Fill batch from the home side; the number of packets. */
static inline uint32_t kernel_port_receive_home(struct kernel_port *k, struct fm_desc *batch)
{
    uint32_t n = 0, len;
    uint64_t reads = 0;
    struct vnet_hdr h;
    k->arena_used = 0;
    if (!super_frame_pending(&k->home_super)) k->home_slot = 0;
    for (;;) {
        n = port_cut(k, &k->home_super, batch, n, FM_HOME);
        if (n == FM_BATCH || super_frame_pending(&k->home_super)) break;
        uint8_t *data = k->home_slots + (size_t)k->home_slot * PORT_HOME_SLOT + FM_HEADROOM_HOME;
        if (!(len = port_read_tun(k, data, &h))) break;
        reads++;
        if (h.gso_type != VNET_GSO_NONE) {
            port_count(k, PORT_HOME_SUPER_FRAMES, 1);
            if (super_frame_open(&k->home_super, &h, data, len))
                port_count(k, PORT_HOME_BAD_OFFLOAD, 1);
            continue;
        }
        if (h.flags & VNET_NEEDS_CSUM) {
            int bad = vnet_complete(&h, data, len);
            port_count(k, bad ? PORT_HOME_BAD_OFFLOAD : PORT_HOME_COMPLETED, 1);
            if (bad) continue;
        }
        port_describe(&batch[n++], data, len, FM_HOME);
        /* At most a batch of packets stay in slots, one slot fewer if a super-frame holds one. */
        k->home_slot = (k->home_slot + 1) % FM_BATCH;
    }
    port_count(k, PORT_HOME_READ, reads);
    return n;
}

/* Inner TCP or UDP with a bare pseudo-header sum: complete it, or take it up for cutting.
 * True if it was taken up. */
static inline int port_mend_inner(struct kernel_port *k, uint8_t *data, uint32_t len)
{
    uint32_t outer = (uint32_t)(data[0] & 15) * 4;
    if (len < outer + 20 || data[VNET_IP_PROTOCOL] != 4) return 0;
    uint8_t *ip = data + outer;
    uint32_t field = transport_partial(ip, len - outer);
    if (!field) return 0;
    uint32_t total = vnet_get16(ip + VNET_IP_TOTAL), ip_len = (uint32_t)(ip[0] & 15) * 4;
    if (ip[VNET_IP_PROTOCOL] == VNET_PROTO_TCP && total > PORT_MERGED_SIZE) {
        uint32_t headers = ip_len + (uint32_t)(ip[ip_len + VNET_TCP_OFFSET] >> 4) * 4;
        if (super_frame_adopt(&k->tunnel_super, VNET_PROTO_TCP, data, outer + total, outer,
                              PORT_MERGED_SIZE - headers) == 0) {
            port_count(k, PORT_TUNNEL_MERGED, 1);
            return 1;
        }
    }
    struct vnet_hdr h = {.flags = VNET_NEEDS_CSUM,
                         .csum_start = (uint16_t)ip_len,
                         .csum_offset = (uint16_t)(field - ip_len)};
    if (vnet_complete(&h, ip, total) == 0) port_count(k, PORT_TUNNEL_COMPLETED, 1);
    return 0;
}

/* Read up to a batch from a raw socket into the tunnel slots; their number. */
static inline uint32_t port_read_raw(struct kernel_port *k, int fd, enum port_descriptor which,
                                     enum port_counter read, enum port_counter errors)
{
    int got = recvmmsg(fd, k->rx, FM_BATCH, MSG_DONTWAIT, NULL);
    if (got > 0) {
        port_count(k, read, (uint64_t)got);
        k->errors_in_a_row = 0;
        return (uint32_t)got;
    }
    if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        port_read_error(k, which, errors, errno);
    return 0;
}

static inline uint8_t *port_received(struct kernel_port *k, uint32_t i, uint32_t len)
{
    uint8_t *data = (uint8_t *)k->rx_iov[i][0].iov_base;
    if (len <= PORT_TUNNEL_ROOM) return data;
    port_count(k, PORT_TUNNEL_LARGE, 1);
    return port_join(data, k->tunnel_large + (size_t)i * PORT_LARGE, PORT_TUNNEL_ROOM);
}

/* Fill batch from the tunnel side; the number of packets. */
static inline uint32_t kernel_port_receive_tunnel(struct kernel_port *k, struct fm_desc *batch)
{
    uint32_t n = 0;
    k->arena_used = 0;
    if (k->taken == k->received && !super_frame_pending(&k->tunnel_super)) {
        k->received = port_read_raw(k, k->raw_fd, PORT_RAW, PORT_TUNNEL_READ,
                                    PORT_TUNNEL_READ_ERRORS);
        k->taken = 0;
    }
    for (;;) {
        n = port_cut(k, &k->tunnel_super, batch, n, FM_TUNNEL);
        if (n == FM_BATCH || super_frame_pending(&k->tunnel_super) || k->taken == k->received)
            return n;
        uint32_t i = k->taken++, len = k->rx[i].msg_len;
        uint8_t *data = port_received(k, i, len);
        if (len && port_mend_inner(k, data, len)) continue;
        port_describe(&batch[n++], data, len, FM_TUNNEL);
    }
}

/* Fill batch with ICMP errors; only when no tunnel packets are left to take (shared slots). */
static inline uint32_t kernel_port_receive_icmp(struct kernel_port *k, struct fm_desc *batch)
{
    if (k->icmp_fd < 0 || k->taken != k->received || super_frame_pending(&k->tunnel_super))
        return 0;
    uint32_t n = port_read_raw(k, k->icmp_fd, PORT_ICMP, PORT_ICMP_READ, PORT_ICMP_READ_ERRORS);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len = k->rx[i].msg_len;
        port_describe(&batch[i], port_received(k, i, len), len, FM_TUNNEL);
    }
    return n;
}

/* A packet the kernel is to route as if it had never left it. */
static inline void port_put_hop_back(struct kernel_port *k, struct fm_desc *d)
{
    if (d->len < 20) return;
    if (returned_before(&k->returned, d->data, d->len, k->now_ns)) {
        port_count(k, PORT_HOME_CIRCLING, 1);
        return;
    }
    returned_add_hop(d->data);
    port_count(k, PORT_HOME_HOPS_RETURNED, 1);
}

/* The outcome of one write that carried `packets`. */
static inline void port_written(struct kernel_port *k, ssize_t done, uint64_t packets)
{
    enum port_counter which = PORT_HOME_REFUSED;
    if (done >= 0) {
        which = PORT_HOME_WRITTEN;
    } else if (errno == EIO) {
        which = PORT_HOME_DOWN;
    } else if (errno == ENOMEM || errno == ENOBUFS || errno == EAGAIN) {
        which = PORT_HOME_NO_BUFFER;
    } else if (errno == EBADF || errno == EBADFD) {
        port_fail(k, PORT_TUN, errno);
    }
    port_count(k, which, packets);
}

static inline void port_write(struct kernel_port *k, uint8_t *data, uint32_t len)
{
    uint8_t *start = data - k->vnet_len; /* within FM_HEADROOM_MIN */
    memset(start, 0, k->vnet_len);       /* a whole packet, checksum complete */
    port_written(k, write(k->tun_fd, start, k->vnet_len + len), 1);
}

static inline void port_close_merge(struct kernel_port *k, struct merge *m)
{
    if (!m->data) return;
    merge_finish(m);
    if (m->parts > 1) port_count(k, PORT_HOME_MERGED, m->parts);
    port_written(k, writev(k->tun_fd, m->iov, (int)m->parts), m->parts);
    m->data = NULL;
}

/* Write a packet now, or keep it as part of its flow's super-frame until the batch ends. Order
 * is kept within a flow, and between two hosts for whatever is not merged. */
static inline void port_write_or_merge(struct kernel_port *k, uint8_t *ip, uint32_t len)
{
    uint32_t headers = k->vnet_len ? merge_headers(ip, len) : 0;
    struct merge *vacant = NULL;
    if (headers && !merge_checksum_holds(ip, len)) headers = 0;
    for (uint32_t i = 0; i < MERGE_FLOWS; i++) {
        struct merge *m = &k->merges[i];
        if (merge_is_between(m, ip, headers ? MERGE_FLOW_LEN : MERGE_HOSTS_LEN)) {
            if (headers && merge_fits(m, ip, len, headers)) {
                merge_append(m, ip, len);
                return;
            }
            port_close_merge(k, m);
        }
        if (!m->data) vacant = m;
    }
    if (!headers) {
        port_write(k, ip, len);
        return;
    }
    if (!vacant) {
        vacant = &k->merges[k->next_merge];
        k->next_merge = (k->next_merge + 1) % MERGE_FLOWS;
        port_close_merge(k, vacant);
    }
    merge_open(vacant, ip, len, headers);
}

static inline void kernel_port_send_home(struct kernel_port *k, struct fm_desc **packets,
                                         uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct fm_desc *d = packets[i];
        if (d->verdict == FM_RETURNED_NO_BINDING || d->verdict == FM_RETURNED_EXPIRED)
            port_put_hop_back(k, d);
        port_write_or_merge(k, d->data, d->len);
    }
    for (uint32_t i = 0; count && i < MERGE_FLOWS; i++) port_close_merge(k, &k->merges[i]);
}

static inline void port_send_error(struct kernel_port *k, int error)
{
    enum port_counter why = PORT_TUNNEL_REFUSED;
    switch (error) {
    case EMSGSIZE: why = PORT_TUNNEL_TOO_BIG; break;
    case ENOBUFS:
    case ENOMEM: why = PORT_TUNNEL_NO_BUFFER; break;
    case EPERM:
    case EACCES: why = PORT_TUNNEL_FORBIDDEN; break;
    case EAGAIN: why = PORT_TUNNEL_WOULD_BLOCK; break;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN: why = PORT_TUNNEL_UNREACHABLE; break;
    case EBADF:
    case ENOTSOCK: port_fail(k, PORT_RAW, error); break;
    }
    port_count(k, why, 1);
}

/* Send up to FM_BATCH packets. The kernel stops at the first it refuses; that one is counted
 * and the rest sent. A full socket buffer gets one wait of a millisecond per call. */
static inline void port_send_chunk(struct kernel_port *k, struct fm_desc **packets, uint32_t count)
{
    uint32_t sent = 0, lost = 0;
    int waited = 0;
    while (sent < count && !k->failed) {
        int done = sendmmsg(k->raw_fd, k->tx + sent, count - sent, MSG_DONTWAIT);
        if (done > 0) {
            sent += (uint32_t)done;
        } else if (errno == EINTR) {
            continue;
        } else if (errno == EAGAIN && !waited) {
            struct pollfd writable = {.fd = k->raw_fd, .events = POLLOUT};
            waited = 1;
            poll(&writable, 1, 1);
        } else {
            int error = errno;
            port_send_error(k, error);
            refused_note(&k->refused, packets[sent], k->raw_fd, error);
            sent++;
            lost++;
        }
    }
    port_count(k, PORT_TUNNEL_SENT, sent - lost);
}

static inline void kernel_port_send_tunnel(struct kernel_port *k, struct fm_desc **packets,
                                           uint32_t count)
{
    k->refused.count = 0;
    while (count && !k->failed) {
        uint32_t chunk = count < FM_BATCH ? count : FM_BATCH;
        for (uint32_t i = 0; i < chunk; i++) {
            k->tx_iov[i].iov_base = packets[i]->data;
            k->tx_iov[i].iov_len = packets[i]->len;
            memcpy(&k->tx_to[i].sin_addr, packets[i]->data + VNET_IP_DESTINATION, 4);
            memcpy(&k->tx_from[i].info.ipi_spec_dst, packets[i]->data + VNET_IP_SOURCE, 4);
        }
        port_send_chunk(k, packets, chunk);
        packets += chunk;
        count -= chunk;
    }
}

#endif
