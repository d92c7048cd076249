/* The kernel port: a TUN queue on the home side, a raw socket on the tunnel side.
 *
 * Home in    TUN with IFF_VNET_HDR: super-frames are cut to wire size here (vnet.h), partial
 *            checksums completed. Packets the pipeline sees are ordinary IPv4 packets. read(), or
 *            where the batch before was full a batch in one call (uring.h): light load waits for
 *            nothing, and the ring is never asked for much more than is there.
 * Tunnel out SOCK_RAW, IP_HDRINCL: sendmmsg, destination from each outer header. One socket
 *            sends every protocol. The kernel routes by destination and mark, not by a source that is in the header
 *            only. A socket bound to no address (a mobile node's) therefore names the source in
 *            IP_PKTINFO, too: rules "from CARE-OF-ADDRESS" hold, and a packet never leaves by a
 *            link that does not own its care-of address, not even while routes are changed.
 *            Past the stack by AF_PACKET where that may be (packet_out.h).
 * Tunnel in  one such socket for each encapsulation offered (protocols 4, 47, 55): recvmmsg, in
 *            turn. The kernel has reassembled (up to 64 kB).
 * UDP        tunnels through a NAT, both ways: a datagram socket (udp_port.h), in turn with them.
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
 * packets reached (all of it is pinned for a ring); one plain read() each, which costs no more
 * than readv() with an overflow buffer. A tunnel slot holds a wire-size packet; what exceeds it runs on into a `large` buffer,
 * then its beginning is copied in front, so that 64 buffers of one recvmmsg stay close together.
 * Slots are an odd number of cache lines apart: their starts spread over all cache sets. Parts
 * of super-frames are written to the arena, valid for one batch.
 *
 * Nothing here blocks, allocates (but kernel_port_init) or touches Python. A descriptor that
 * fails for good sets `failed`; anything else is counted by reason and the batch goes on.
 */
#ifndef FASTMIP_KERNEL_PORT_H
#define FASTMIP_KERNEL_PORT_H

#include "port_state.h"
#include "verdicts.h"

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

/* A registration message that came merged with tunnel data: to this machine once more, from where
 * it came from, alone (udp_port.h). */
static inline void port_hand_back(struct kernel_port *k, const uint8_t *packet, uint32_t len)
{
    struct sockaddr_in here = {.sin_family = AF_INET};
    memcpy(&here.sin_addr, packet + VNET_IP_DESTINATION, 4);
    ssize_t done = sendto(k->fds.raw_fd[0], packet, len, MSG_DONTWAIT, (struct sockaddr *)&here,
                          sizeof here);
    port_count(k, done < 0 ? PORT_UDP_NOT_DATA : PORT_UDP_HANDED_BACK, 1);
}

/* Cut as much of a super-frame as batch and arena hold; the new number of packets in batch. */
static inline uint32_t port_cut(struct kernel_port *k, struct super_frame *f,
                                struct fm_desc *batch, uint32_t n, int side)
{
    uint32_t headroom = side == FM_HOME ? FM_HEADROOM_HOME : FM_HEADROOM_TUNNEL;
    uint32_t before = n, is_udp_tunnel = f == &k->tunnel_super && !f->prefix;
    while (n < FM_BATCH && super_frame_pending(f)) {
        uint32_t stride = (headroom + super_frame_peek(f) + FM_TAILROOM + 127u) & ~63u;
        stride |= 64; /* an odd number of cache lines */
        if (k->arena_used + stride > PORT_ARENA) break;
        uint8_t *room = k->arena + k->arena_used + headroom;
        uint32_t size = super_frame_next(f, room);
        if (is_udp_tunnel && room[UDP_PORT_HEADERS] != UDP_PORT_DATA) {
            port_hand_back(k, room, size);
            continue;
        }
        port_describe(&batch[n++], room, size, side);
        k->arena_used += stride;
    }
    port_count(k, side == FM_HOME ? PORT_HOME_SEGMENTS : PORT_TUNNEL_SEGMENTS, n - before);
    return n;
}

/* What one read brought to a home slot: bytes of the packet behind the offload header. */
static inline uint32_t port_take_read(struct kernel_port *k, const uint8_t *data, uint32_t got,
                                      struct vnet_hdr *h)
{
    memset(h, 0, sizeof *h);
    if (k->vnet_len) memcpy(h, data - k->vnet_len, VNET_HDR_LEN);
    k->errors_in_a_row = 0;
    return got - k->vnet_len;
}

/* One read from the TUN device: bytes of the packet at `data`, 0 when there is none. */
static inline uint32_t port_read_tun(struct kernel_port *k, uint8_t *data, struct vnet_hdr *h)
{
    for (;;) {
        ssize_t got = read(k->fds.tun_fd, data - k->vnet_len, k->vnet_len + PORT_PACKET_MAX);
        if (got > (ssize_t)k->vnet_len) return port_take_read(k, data, (uint32_t)got, h);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
        port_read_error(k, PORT_TUN, PORT_HOME_READ_ERRORS, got < 0 ? errno : EIO);
        return 0;
    }
}

/* The next packet the ring has read, likewise. */
static inline uint32_t port_next_in_ring(struct kernel_port *k, uint8_t **data, struct vnet_hdr *h)
{
    uint32_t slot, got;
    while ((got = (uint32_t)uring_next(&k->home_ring, &slot))) {
        *data = port_home_slot(k, slot);
        if (got > k->vnet_len) return port_take_read(k, *data, got, h);
        port_count(k, PORT_HOME_READ_ERRORS, 1);
    }
    return 0;
}

/* Fill batch from the home side; the number of packets. */
static inline uint32_t kernel_port_receive_home(struct kernel_port *k, struct fm_desc *batch)
{
    uint32_t n = 0, len;
    uint64_t reads = 0;
    uint8_t *data;
    struct vnet_hdr h;
    k->arena_used = 0;
    if (!super_frame_pending(&k->home_super)) {
        k->home_slot = 0;
        if (k->is_home_busy && k->home_ring.usable && !k->home_ring.left)
            uring_read(&k->home_ring);
    }
    /* All slots belong to what the ring has read until that is taken: no read() in this batch. */
    int is_from_ring = k->home_ring.left > 0;
    for (;;) {
        n = port_cut(k, &k->home_super, batch, n, FM_HOME);
        if (n == FM_BATCH || super_frame_pending(&k->home_super)) break;
        if (is_from_ring) {
            len = port_next_in_ring(k, &data, &h);
        } else {
            data = port_home_slot(k, k->home_slot);
            len = port_read_tun(k, data, &h);
        }
        if (!len) break;
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
    k->is_home_busy = reads == FM_BATCH;
    port_count(k, PORT_HOME_READ, reads);
    if (is_from_ring) port_count(k, PORT_HOME_RING_READ, reads);
    return n;
}

/* Whether what comes out of a tunnel can only leave on the home side, by the TUN device. */
static inline int port_ends_at_home(const struct kernel_port *k, const uint8_t *ip)
{
    const struct fm_engine *e = k->engine;
    if (!e || !k->vnet_len || e->role == FM_FOREIGN_AGENT) return 0;
    return e->role == FM_MOBILE_NODE || !may_be_held(e, vnet_get32(ip + VNET_IP_DESTINATION));
}

/* A merged TCP packet in IP in IP that need not be cut, because the kernel takes it from the TUN
 * device as it is. Counted as one packet from here on. */
static inline int port_stays_whole(const struct kernel_port *k, const uint8_t *data, uint32_t len,
                                   uint32_t prefix, uint32_t headers)
{
    const uint8_t *ip = data + prefix;
    return prefix == 20 && data[VNET_IP_PROTOCOL] == VNET_PROTO_IPIP && ip[0] == 0x45 &&
           headers >= 40 && headers < PORT_MERGED_SIZE &&
           (uint32_t)vnet_get16(ip + VNET_IP_TOTAL) + prefix <= len &&
           !(vnet_get16(ip + VNET_IP_FRAGMENT) & 0x3fff) && port_ends_at_home(k, ip);
}

/* Inner TCP or UDP with a bare pseudo-header sum: complete it, or take it up for cutting.
 * True if it was taken up. *done gets what the pipeline and the other side are to know. */
static inline int port_mend_inner(struct kernel_port *k, uint8_t *data, uint32_t len,
                                  uint32_t prefix, uint8_t *done)
{
    uint8_t *ip = data + prefix;
    uint32_t field = transport_partial(ip, len - prefix);
    if (!field) return 0;
    uint32_t total = vnet_get16(ip + VNET_IP_TOTAL), ip_len = (uint32_t)(ip[0] & 15) * 4;
    if (ip[VNET_IP_PROTOCOL] == VNET_PROTO_TCP && total > PORT_MERGED_SIZE) {
        uint32_t headers = ip_len + (uint32_t)(ip[ip_len + VNET_TCP_OFFSET] >> 4) * 4;
        if (port_stays_whole(k, data, len, prefix, headers)) {
            port_count(k, PORT_TUNNEL_WHOLE, 1);
            *done |= FM_DONE_WHOLE;
            return 0;
        }
        if (super_frame_adopt(&k->tunnel_super, VNET_PROTO_TCP, data, prefix + total, prefix,
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

/* What a kernel or NIC on this machine left undone in a tunnel packet. True if it is taken up for
 * cutting. */
static inline int port_mend(struct kernel_port *k, uint8_t *data, uint32_t len, uint8_t *done)
{
    uint32_t prefix = tunnel_prefix(data, len);
    if (!prefix) return 0;
    if (port_mend_inner(k, data, len, prefix, done)) return 1;
    if (gre_complete(data, len)) port_count(k, PORT_TUNNEL_COMPLETED, 1);
    return 0;
}

/* Read up to a batch into the tunnel slots; the number of packets. */
static inline uint32_t port_read_slots(struct kernel_port *k, int fd, struct mmsghdr *into,
                                       enum port_descriptor which, enum port_counter read,
                                       enum port_counter errors)
{
    int got = recvmmsg(fd, into, FM_BATCH, MSG_DONTWAIT, NULL);
    if (got > 0) {
        port_count(k, read, (uint64_t)got);
        k->errors_in_a_row = 0;
        return (uint32_t)got;
    }
    if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        port_read_error(k, which, errors, errno);
    return 0;
}

/* The next batch of whichever tunnel socket has one, beginning behind the one served last. */
static inline void port_read_tunnel(struct kernel_port *k)
{
    uint32_t inputs = k->fds.raw_count + (k->udp.fd >= 0);
    k->received = k->taken = 0;
    for (uint32_t i = 0; i < inputs && !k->received; i++) {
        k->input = (k->input + 1) % inputs;
        uint32_t number = k->input < k->fds.raw_count ? PORT_IN_RAW + k->input : PORT_IN_UDP;
        if (port_is_silent(k, number)) continue;
        if (k->input < k->fds.raw_count) {
            k->received = port_read_slots(k, k->fds.raw_fd[k->input], k->rx, PORT_RAW,
                                          PORT_TUNNEL_READ, PORT_TUNNEL_READ_ERRORS);
        } else {
            udp_port_ready(&k->udp);
            k->received = port_read_slots(k, k->udp.fd, k->udp.rx, PORT_UDP, PORT_UDP_READ,
                                          PORT_UDP_READ_ERRORS);
        }
        if (k->received < FM_BATCH) k->skips[number] = PORT_SKIPS;
    }
}

/* Packet `i` of the last read, in one piece: `before` bytes of its slot are still to be written. */
static inline uint8_t *port_received(struct kernel_port *k, uint32_t i, uint32_t len,
                                     uint32_t before)
{
    uint32_t room = PORT_TUNNEL_ROOM - before;
    uint8_t *data = k->tunnel_slots + (size_t)i * PORT_SLOT + FM_HEADROOM_TUNNEL + before;
    if (len <= room) return data;
    port_count(k, PORT_TUNNEL_LARGE, 1);
    return port_join(data, k->tunnel_large + (size_t)i * PORT_LARGE, room);
}

/* Datagram `i` of the last read as a packet: 1 described, 0 dropped, or taken up for cutting. */
static inline int port_take_datagram(struct kernel_port *k, uint32_t i, struct fm_desc *d)
{
    struct udp_told told = udp_port_told(&k->udp.rx[i].msg_hdr);
    uint32_t len = k->udp.rx[i].msg_len;
    uint8_t *payload = port_received(k, i, len, UDP_PORT_HEADERS);
    if (!len || payload[0] != UDP_PORT_DATA || !told.destination_be) {
        port_count(k, PORT_UDP_NOT_DATA, 1);
        return 0;
    }
    uint8_t *ip = udp_port_head(&k->udp, i, &told, payload, len);
    if (told.gso_size && told.gso_size < len) {
        int bad = super_frame_adopt(&k->tunnel_super, VNET_PROTO_UDP, ip, len + UDP_PORT_HEADERS,
                                    0, told.gso_size);
        port_count(k, bad ? PORT_UDP_NOT_DATA : PORT_UDP_MERGED, 1);
        return 0;
    }
    port_describe(d, ip, len + UDP_PORT_HEADERS, FM_TUNNEL);
    return 1;
}

/* Fill batch from the tunnel side; the number of packets. */
static inline uint32_t kernel_port_receive_tunnel(struct kernel_port *k, struct fm_desc *batch)
{
    uint32_t n = 0;
    k->arena_used = 0;
    if (k->taken == k->received && !super_frame_pending(&k->tunnel_super)) port_read_tunnel(k);
    for (;;) {
        n = port_cut(k, &k->tunnel_super, batch, n, FM_TUNNEL);
        if (n == FM_BATCH || super_frame_pending(&k->tunnel_super) || k->taken == k->received)
            return n;
        uint32_t i = k->taken++;
        if (k->input == k->fds.raw_count) {
            n += (uint32_t)port_take_datagram(k, i, &batch[n]);
            continue;
        }
        uint32_t len = k->rx[i].msg_len;
        uint8_t *data = port_received(k, i, len, 0);
        uint8_t done = 0;
        if (len && port_mend(k, data, len, &done)) continue;
        port_describe(&batch[n], data, len, FM_TUNNEL);
        batch[n++].done |= done;
    }
}

/* Fill batch with ICMP errors; only when no tunnel packets are left to take (shared slots). */
static inline uint32_t kernel_port_receive_icmp(struct kernel_port *k, struct fm_desc *batch)
{
    if (k->fds.icmp_fd < 0 || k->taken != k->received || super_frame_pending(&k->tunnel_super))
        return 0;
    uint32_t n = port_read_slots(k, k->fds.icmp_fd, k->rx, PORT_ICMP, PORT_ICMP_READ,
                                 PORT_ICMP_READ_ERRORS);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len = k->rx[i].msg_len;
        port_describe(&batch[i], port_received(k, i, len, 0), len, FM_TUNNEL);
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
    port_written(k, write(k->fds.tun_fd, start, k->vnet_len + len), 1);
}

static inline void port_close_merge(struct kernel_port *k, struct merge *m)
{
    if (!m->data) return;
    merge_finish(m);
    if (m->parts > 1) port_count(k, PORT_HOME_MERGED, m->parts);
    port_written(k, writev(k->fds.tun_fd, m->iov, (int)m->parts), m->parts);
    m->data = NULL;
}

/* A super-frame that was never cut, as it came: what was merged of its flow goes before it. */
static inline void port_write_whole(struct kernel_port *k, uint8_t *ip, uint32_t len)
{
    uint32_t headers = 20 + (uint32_t)(ip[20 + VNET_TCP_OFFSET] >> 4) * 4;
    struct vnet_hdr h = {.flags = VNET_NEEDS_CSUM,
                         .gso_type = VNET_GSO_TCPV4,
                         .hdr_len = (uint16_t)headers,
                         .gso_size = (uint16_t)(PORT_MERGED_SIZE - headers),
                         .csum_start = 20,
                         .csum_offset = VNET_TCP_CHECKSUM};
    if (ip[20 + VNET_TCP_FLAGS] & VNET_CWR) h.gso_type |= VNET_GSO_ECN;
    for (uint32_t i = 0; i < MERGE_FLOWS; i++)
        if (merge_is_between(&k->merges[i], ip, MERGE_HOSTS_LEN))
            port_close_merge(k, &k->merges[i]);
    memcpy(ip - VNET_HDR_LEN, &h, VNET_HDR_LEN);
    port_written(k, write(k->fds.tun_fd, ip - VNET_HDR_LEN, VNET_HDR_LEN + len), 1);
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
        if (d->verdict == FM_RETURNED_NO_BINDING || d->verdict == FM_RETURNED_EXPIRED ||
            d->verdict == FM_RETURNED_NOT_REVERSE)
            port_put_hop_back(k, d);
        if (d->done & FM_DONE_WHOLE && d->verdict == FM_DECAPSULATED)
            port_write_whole(k, d->data, d->len);
        else
            port_write_or_merge(k, d->data, d->len);
    }
    for (uint32_t i = 0; count && i < MERGE_FLOWS; i++) port_close_merge(k, &k->merges[i]);
}

/* A packet that was not sent: counted by reason, told to the pipeline if it can learn from it. */
static inline void port_not_sent(struct kernel_port *k, struct fm_desc *d,
                                 enum port_descriptor which, int error)
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
    case ENOTSOCK: port_fail(k, which, error); break;
    }
    port_count(k, why, 1);
    refused_note(&k->refused, d, k->fds.raw_fd[0], error);
}

/* One sendmmsg of `count` messages; how many were taken, 0 with errno. A full socket buffer gets
 * one wait of a millisecond per chunk. */
static inline uint32_t port_send_some(int fd, struct mmsghdr *messages, uint32_t count, int *waited)
{
    for (;;) {
        int done = sendmmsg(fd, messages, count, MSG_DONTWAIT);
        if (done > 0) return (uint32_t)done;
        if (errno == EINTR) continue;
        if (errno != EAGAIN || *waited) return 0;
        struct pollfd writable = {.fd = fd, .events = POLLOUT};
        *waited = 1;
        poll(&writable, 1, 1);
    }
}

/* Send up to FM_BATCH packets through the raw socket. The kernel stops at the first it refuses;
 * that one is counted and the rest sent. */
static inline void port_send_raw(struct kernel_port *k, struct fm_desc **packets, uint32_t count)
{
    uint32_t sent = 0, lost = 0;
    int waited = 0;
    for (uint32_t i = 0; i < count; i++) {
        k->tx_iov[i].iov_base = packets[i]->data;
        k->tx_iov[i].iov_len = packets[i]->len;
        memcpy(&k->tx_to[i].sin_addr, packets[i]->data + VNET_IP_DESTINATION, 4);
        memcpy(&k->tx_from[i].info.ipi_spec_dst, packets[i]->data + VNET_IP_SOURCE, 4);
    }
    while (sent < count && !k->failed) {
        uint32_t done = port_send_some(k->fds.raw_fd[0], k->tx + sent, count - sent, &waited);
        sent += done;
        if (done) continue;
        port_not_sent(k, packets[sent], PORT_RAW, errno);
        sent++;
        lost++;
    }
    port_count(k, PORT_TUNNEL_SENT, sent - lost);
}

/* One packet through the datagram socket. */
static inline void port_send_datagram(struct kernel_port *k, struct fm_desc *d, int *waited)
{
    uint8_t parts[FM_BATCH];
    (void)udp_port_lay_out(&k->udp, &d, 1, parts);
    if (port_send_some(k->udp.fd, k->udp.tx, 1, waited))
        port_count(k, PORT_UDP_SENT, 1);
    else
        port_not_sent(k, d, PORT_UDP, errno);
}

/* Packets through the datagram socket. A message of several packets that is refused is sent
 * again packet by packet: what is wrong with one of them need not be with all, and a kernel may
 * be unable to cut messages for this path. */
static inline void port_send_datagrams(struct kernel_port *k, struct fm_desc **packets,
                                       uint32_t count)
{
    struct udp_port *u = &k->udp;
    uint8_t parts[FM_BATCH];
    int waited = 0;
    while (count && !k->failed) {
        uint32_t messages = udp_port_lay_out(u, packets, count, parts), at = 0;
        uint32_t done = port_send_some(u->fd, u->tx, messages, &waited);
        for (uint32_t m = 0; m < done; m++) {
            port_count(k, PORT_UDP_SENT, parts[m]);
            if (parts[m] > 1) port_count(k, PORT_UDP_SENT_MERGED, parts[m]);
            at += parts[m];
        }
        if (!done && parts[0] > 1) {
            if (errno == EIO) u->is_single = 1;
            for (uint32_t whole = parts[0]; at < whole && !k->failed; at++)
                port_send_datagram(k, packets[at], &waited);
        } else if (!done) {
            port_not_sent(k, packets[at++], PORT_UDP, errno);
        }
        packets += at;
        count -= at;
    }
}

/* Send `count` laid out packets past the stack; those it is to do after all go to `raw`. */
static inline uint32_t port_send_past(struct kernel_port *k, struct fm_desc **packets,
                                      uint32_t count, struct fm_desc **raw)
{
    uint32_t at = 0, sent = 0, stale = 0;
    int waited = 0;
    while (at < count && !k->failed) {
        uint32_t done = port_send_some(k->packet.fd, k->packet.tx + at, count - at, &waited);
        at += done;
        sent += done;
        if (done) continue;
        if (packet_out_is_stale(errno))
            raw[stale++] = packets[at++];
        else
            port_not_sent(k, packets[at++], PORT_PACKET, errno);
    }
    port_count(k, PORT_PACKET_SENT, sent);
    port_count(k, PORT_PACKET_STALE, stale);
    return stale;
}

static inline void kernel_port_send_tunnel(struct kernel_port *k, struct fm_desc **packets,
                                           uint32_t count)
{
    struct fm_desc *raw[FM_BATCH], *datagrams[FM_BATCH], *past[FM_BATCH];
    const struct fm_egress *mirror = packet_out_mirror(&k->packet, k->engine);
    k->refused.count = 0;
    while (count && !k->failed) {
        uint32_t chunk = count < FM_BATCH ? count : FM_BATCH, raws = 0, others = 0, pasts = 0;
        for (uint32_t i = 0; i < chunk; i++) {
            if (udp_port_takes(&k->udp, packets[i]))
                datagrams[others++] = packets[i];
            else if (mirror && packet_out_lay_out(&k->packet, mirror, packets[i], pasts))
                past[pasts++] = packets[i];
            else
                raw[raws++] = packets[i];
        }
        if (pasts) raws += port_send_past(k, past, pasts, raw + raws);
        if (raws) port_send_raw(k, raw, raws);
        if (others) port_send_datagrams(k, datagrams, others);
        packets += chunk;
        count -= chunk;
    }
}

#endif
