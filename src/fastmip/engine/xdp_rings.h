/* AF_XDP by system calls: a memory of frames (UMEM) that several sockets share, and each socket's
 * four rings.
 *
 *   free ──fill──> kernel ──rx──> engine ──tx──> kernel ──completion──> free
 *                                   └────────────── given back ───────────┘
 *
 * Every frame is in one of these places, and `owner` says in which; what comes back from the
 * kernel is believed only if it is where the books say. So at any time
 *
 *   free + engine + sum over sockets (receiving + sending) == frames
 *
 * (`receiving`: fill and rx ring; `sending`: tx and completion ring). When a socket is closed, or
 * its interface vanishes, the kernel lets go of its frames and they are free again.
 *
 * One thread at a time uses all of this: the control thread while the worker stands still.
 */
#ifndef FASTMIP_XDP_RINGS_H
#define FASTMIP_XDP_RINGS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/if_xdp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"

#define XDP_FRAME 4096u      /* bytes: whatever MTU a driver takes with XDP fits */
#define XDP_FRAME_SHIFT 12
#define XDP_RING 1024u       /* entries of each ring */
#define XDP_SOCKETS_MAX 32u  /* of one worker */
/* The kernel leaves 256 bytes, then these, then the Ethernet header: the IPv4 header comes to 276,
 * as in all frames that get an outer header in front (frames.h), and an outer one from a tunnel
 * has its inner one in the same cache line. */
#define XDP_HEADROOM 6u
#define XDP_ETHERNET 14u
#define XDP_SEND_BUFFER (8 << 20)
#define XDP_SEND_AT_ONCE 9 /* linux/if_xdp.h of 6.17: XDP_MAX_TX_SKB_BUDGET */

/* Owner of a frame: one of these, or a socket's number + XDP_RECEIVING or + XDP_SENDING. */
enum { XDP_FREE = 0, XDP_ENGINE = 1, XDP_RECEIVING = 0x40, XDP_SENDING = 0x80 };

_Static_assert(FM_HEADROOM_HOME == 256 + XDP_HEADROOM + XDP_ETHERNET, "aligned as other frames");
_Static_assert(1u << XDP_FRAME_SHIFT == XDP_FRAME, "a frame's number is its address shifted");
_Static_assert(XDP_SOCKETS_MAX <= 0x40, "owners are bytes");

struct xdp_ring {
    uint32_t *producer, *consumer, *flags;
    void *entries;
    uint32_t at; /* our own end: next to produce or to consume */
    void *map;
    size_t map_len;
};

struct xdp_socket {
    int fd; /* -1: none */
    uint32_t ifindex, queue;
    int is_zero_copy;
    int is_gone; /* the kernel says that its interface is */
    struct xdp_ring rx, tx, fill, completion;
    uint32_t receiving, sending; /* frames that the kernel has */
};

struct xdp_umem {
    uint8_t *memory;
    size_t len;
    uint32_t frames, free_count;
    uint32_t *free;
    uint8_t *owner;
};

static inline uint32_t xdp_load(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static inline void xdp_store(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* Frames for so many sockets: each can have its fill and its tx ring full, beside two batches. 0,
 * or -1 with errno. */
static inline int xdp_umem_init(struct xdp_umem *u, uint32_t sockets)
{
    memset(u, 0, sizeof *u);
    u->frames = sockets * 2 * XDP_RING + 2 * FM_BATCH;
    u->len = (size_t)u->frames * XDP_FRAME;
    u->free = (uint32_t *)calloc(u->frames, sizeof *u->free);
    u->owner = (uint8_t *)calloc(u->frames, 1);
    u->memory = (uint8_t *)mmap(NULL, u->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                -1, 0);
    if (u->memory == (uint8_t *)MAP_FAILED) u->memory = NULL;
    if (!u->memory || !u->free || !u->owner) {
        if (u->memory) munmap(u->memory, u->len);
        free(u->free);
        free(u->owner);
        memset(u, 0, sizeof *u);
        errno = ENOMEM;
        return -1;
    }
    (void)madvise(u->memory, u->len, MADV_HUGEPAGE);
    for (uint32_t i = 0; i < u->frames; i++) u->free[i] = u->frames - 1 - i; /* lowest first */
    u->free_count = u->frames;
    return 0;
}

static inline void xdp_umem_destroy(struct xdp_umem *u)
{
    if (u->memory) munmap(u->memory, u->len);
    free(u->free);
    free(u->owner);
    memset(u, 0, sizeof *u);
}

static inline uint8_t *xdp_frame(const struct xdp_umem *u, uint32_t frame)
{
    return u->memory + (size_t)frame * XDP_FRAME;
}

/* The frame an address points into; u->frames if into none. */
static inline uint32_t xdp_frame_of(const struct xdp_umem *u, const uint8_t *data)
{
    uintptr_t at = (uintptr_t)data - (uintptr_t)u->memory;
    return at < u->len ? (uint32_t)(at >> XDP_FRAME_SHIFT) : u->frames;
}

/* A free frame for `owner`, or u->frames. */
static inline uint32_t xdp_take_frame(struct xdp_umem *u, uint8_t owner)
{
    if (!u->free_count) return u->frames;
    uint32_t frame = u->free[--u->free_count];
    u->owner[frame] = owner;
    return frame;
}

static inline void xdp_free_frame(struct xdp_umem *u, uint32_t frame)
{
    u->owner[frame] = XDP_FREE;
    u->free[u->free_count++] = frame;
}

/* All frames that the kernel had for a socket. */
static inline void xdp_free_frames_of(struct xdp_umem *u, uint32_t number)
{
    for (uint32_t i = 0; i < u->frames; i++)
        if (u->owner[i] == XDP_RECEIVING + number || u->owner[i] == XDP_SENDING + number)
            xdp_free_frame(u, i);
}

/* 0 or -1 with errno. */
static inline int xdp_map_ring(struct xdp_ring *r, int fd, const struct xdp_ring_offset *at,
                               uint64_t page, size_t entry)
{
    r->map_len = at->desc + XDP_RING * entry;
    r->map = mmap(NULL, r->map_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
                  (off_t)page);
    if (r->map == MAP_FAILED) {
        r->map = NULL;
        return -1;
    }
    uint8_t *base = (uint8_t *)r->map;
    r->producer = (uint32_t *)(void *)(base + at->producer);
    r->consumer = (uint32_t *)(void *)(base + at->consumer);
    r->flags = (uint32_t *)(void *)(base + at->flags);
    r->entries = base + at->desc;
    return 0;
}

static inline void xdp_unmap_ring(struct xdp_ring *r)
{
    if (r->map) munmap(r->map, r->map_len);
    memset(r, 0, sizeof *r);
}

/* Close a socket; its frames are free again. */
static inline void xdp_close(struct xdp_umem *u, struct xdp_socket *s, uint32_t number)
{
    if (s->fd >= 0) close(s->fd);
    xdp_unmap_ring(&s->rx);
    xdp_unmap_ring(&s->tx);
    xdp_unmap_ring(&s->fill);
    xdp_unmap_ring(&s->completion);
    xdp_free_frames_of(u, number);
    memset(s, 0, sizeof *s);
    s->fd = -1;
}

static inline int xdp_set(int fd, int option, const void *value, socklen_t len)
{
    return setsockopt(fd, SOL_XDP, option, value, len);
}

/* Make the rings of a new socket; 0 or -1 with errno. */
static inline int xdp_make_rings(struct xdp_socket *s)
{
    static const int options[] = {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING,
                                  XDP_TX_RING};
    uint32_t size = XDP_RING;
    struct xdp_mmap_offsets at;
    socklen_t len = sizeof at;
    for (uint32_t i = 0; i < 4; i++)
        if (xdp_set(s->fd, options[i], &size, sizeof size)) return -1;
    if (getsockopt(s->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &len)) return -1;
    size_t frame = sizeof(struct xdp_desc), address = sizeof(uint64_t);
    return xdp_map_ring(&s->rx, s->fd, &at.rx, XDP_PGOFF_RX_RING, frame) ||
                   xdp_map_ring(&s->tx, s->fd, &at.tx, XDP_PGOFF_TX_RING, frame) ||
                   xdp_map_ring(&s->fill, s->fd, &at.fr, XDP_UMEM_PGOFF_FILL_RING, address) ||
                   xdp_map_ring(&s->completion, s->fd, &at.cr, XDP_UMEM_PGOFF_COMPLETION_RING,
                                address)
               ? -1
               : 0;
}

/* A socket on one queue of an interface. `other`: a bound socket of the same memory, or -1 for the
 * first one, which decides how frames are passed: zero-copy where the driver can, or copied.
 * 0, or -1 with errno; EBUSY also shortly after a socket there was closed. */
static inline int xdp_open(struct xdp_umem *u, struct xdp_socket *s, uint32_t ifindex,
                           uint32_t queue, int other, int is_copy)
{
    struct xdp_umem_reg memory = {.addr = (uint64_t)(uintptr_t)u->memory,
                                  .len = u->len,
                                  .chunk_size = XDP_FRAME,
                                  .headroom = XDP_HEADROOM};
    struct sockaddr_xdp to = {.sxdp_family = AF_XDP, .sxdp_ifindex = ifindex,
                              .sxdp_queue_id = queue};
    struct xdp_options options = {0};
    socklen_t len = sizeof options;
    int error, buffer = XDP_SEND_BUFFER;
    uint32_t ring = XDP_RING;
    memset(s, 0, sizeof *s);
    s->ifindex = ifindex;
    s->queue = queue;
    s->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (s->fd < 0) return -1;
    if (other < 0) {
        to.sxdp_flags = (uint16_t)(XDP_USE_NEED_WAKEUP | (is_copy ? XDP_COPY : 0));
    } else {
        to.sxdp_flags = XDP_SHARED_UMEM;
        to.sxdp_shared_umem_fd = (uint32_t)other;
    }
    if ((other >= 0 || !xdp_set(s->fd, XDP_UMEM_REG, &memory, sizeof memory)) &&
        !xdp_make_rings(s) && !bind(s->fd, (struct sockaddr *)&to, sizeof to)) {
        if (!getsockopt(s->fd, SOL_XDP, XDP_OPTIONS, &options, &len))
            s->is_zero_copy = (options.flags & XDP_OPTIONS_ZEROCOPY) != 0;
        (void)setsockopt(s->fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
        (void)xdp_set(s->fd, XDP_SEND_AT_ONCE, &ring, sizeof ring); /* else 32 frames a kick */
        return 0;
    }
    error = errno;
    xdp_close(u, s, XDP_SOCKETS_MAX); /* no frame is its own */
    errno = error;
    return -1;
}

/* What the kernel counted for a socket; 0, or -1 with errno. */
static inline int xdp_read_statistics(const struct xdp_socket *s, struct xdp_statistics *told)
{
    socklen_t len = sizeof *told;
    memset(told, 0, sizeof *told);
    return getsockopt(s->fd, SOL_XDP, XDP_STATISTICS, told, &len);
}

/* Give the kernel free frames to receive into, until it has a ring of them. */
static inline void xdp_fill(struct xdp_umem *u, struct xdp_socket *s, uint32_t number)
{
    uint64_t *entries = (uint64_t *)s->fill.entries;
    uint32_t frame;
    while (s->receiving < XDP_RING &&
           (frame = xdp_take_frame(u, (uint8_t)(XDP_RECEIVING + number))) != u->frames) {
        entries[s->fill.at++ & (XDP_RING - 1)] = (uint64_t)frame << XDP_FRAME_SHIFT;
        s->receiving++;
    }
    xdp_store(s->fill.producer, s->fill.at);
}

/* Frames that were sent are free again; the number that were not where the books say. */
static inline uint32_t xdp_reap(struct xdp_umem *u, struct xdp_socket *s, uint32_t number)
{
    const uint64_t *entries = (const uint64_t *)s->completion.entries;
    uint32_t end = xdp_load(s->completion.producer), strange = 0;
    if (end == s->completion.at) return 0;
    for (; s->completion.at != end; s->completion.at++) {
        uint64_t frame = entries[s->completion.at & (XDP_RING - 1)] >> XDP_FRAME_SHIFT;
        if (frame >= u->frames || u->owner[frame] != XDP_SENDING + number) {
            strange++;
            continue;
        }
        s->sending--;
        xdp_free_frame(u, (uint32_t)frame);
    }
    xdp_store(s->completion.consumer, end);
    return strange;
}

/* Put one frame of the engine into the tx ring; false if that is full. `at` is the first of `len`
 * bytes with their Ethernet header. */
static inline int xdp_put(struct xdp_umem *u, struct xdp_socket *s, uint32_t number, uint8_t *at,
                          uint32_t len)
{
    struct xdp_desc *entries = (struct xdp_desc *)s->tx.entries;
    if (s->sending == XDP_RING) return 0;
    entries[s->tx.at++ & (XDP_RING - 1)] =
        (struct xdp_desc){.addr = (uint64_t)(at - u->memory), .len = len};
    u->owner[xdp_frame_of(u, at)] = (uint8_t)(XDP_SENDING + number);
    s->sending++;
    return 1;
}

/* Have the kernel send what is in the tx ring. Older ones send 32 frames per call: as many calls as
 * the ring needs; fewer when nothing moves any more (a full queue, a link that is down: what is
 * left goes with the next kick). 0, or the errno of an interface that cannot send. */
static inline int xdp_kick(struct xdp_socket *s)
{
    uint32_t before = xdp_load(s->tx.consumer), stalls = 0;
    xdp_store(s->tx.producer, s->tx.at);
    while (before != s->tx.at && stalls < 3) {
        if (!(xdp_load(s->tx.flags) & XDP_RING_NEED_WAKEUP)) return 0;
        int error = sendto(s->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0;
        uint32_t now = xdp_load(s->tx.consumer);
        if (error == ENETDOWN || error == ENXIO || error == EBADF || error == EINVAL) return error;
        stalls = now == before ? stalls + 1 : 0;
        before = now;
    }
    return 0;
}

#endif
