/* What a kernel port keeps: its descriptors, buffers and counters. See kernel_port.h. */
#ifndef FASTMIP_PORT_STATE_H
#define FASTMIP_PORT_STATE_H

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
#include "packet_out.h"
#include "port_counters.h"
#include "refused.h"
#include "returned.h"
#include "udp_port.h"
#include "uring.h"
#include "vnet.h"
#include "worker.h"

#define PORT_SLOT (FM_FRAME_SIZE + 64) /* 33 cache lines */
#define PORT_PACKET_MAX 65535
#define PORT_LARGE (PORT_SLOT + 65536 + 64)
#define PORT_ARENA (4 * 65536)
#define PORT_HOME_SLOT (65 * 1024 + 64) /* 1041 cache lines */
#define PORT_TUNNEL_ROOM (PORT_SLOT - FM_HEADROOM_TUNNEL - FM_TAILROOM)
/* Inner packets of this size are made from what GRO merged; the original size is not told. */
#define PORT_MERGED_SIZE 1400
#define PORT_ERRORS_MAX 1000 /* errors in a row that make a descriptor count as failed */

#define PORT_RAW_MAX 3       /* protocols 4, 47 and 55 */
#define PORT_SKIPS 2         /* times a silent input is not asked: a turn that works, one that ends */

_Static_assert(URING_DEPTH == FM_BATCH, "a slot for each read");

/* Inputs, in the order in which they are polled. */
enum port_source_number { PORT_IN_TUN, PORT_IN_ICMP, PORT_IN_UDP, PORT_IN_RAW };
#define PORT_IN_COUNT (PORT_IN_RAW + PORT_RAW_MAX)

enum port_descriptor { PORT_NONE, PORT_TUN, PORT_RAW, PORT_ICMP, PORT_UDP, PORT_PACKET };

/* What a port works on. The first raw socket sends; each receives its own protocol. */
struct port_descriptors {
    int tun_fd, icmp_fd, udp_fd; /* -1: no such, or another worker reads it */
    int packet_fd;               /* AF_PACKET, to send outer packets; -1: none */
    int raw_fd[PORT_RAW_MAX];
    uint32_t raw_count;
    int vnet_hdr; /* the TUN device was opened with IFF_VNET_HDR */
    int no_ring;  /* read() only */
};

/* One control message, IP_PKTINFO, laid out as CMSG_DATA wants it. */
struct port_source {
    struct cmsghdr head;
    struct in_pktinfo info;
    uint8_t padding[CMSG_SPACE(sizeof(struct in_pktinfo)) - sizeof(struct cmsghdr) -
                    sizeof(struct in_pktinfo)];
};

struct kernel_port {
    struct port_descriptors fds;
    uint32_t vnet_len; /* 10, or 0 without IFF_VNET_HDR */
    int failed;        /* enum port_descriptor */
    int error;         /* errno of the failure */
    uint32_t errors_in_a_row, false_wakes;
    uint8_t *memory;
    size_t memory_len;
    uint8_t *home_slots, *tunnel_slots, *tunnel_large, *arena;
    uint32_t home_slot; /* next to read into; a super-frame stays there until it is cut */
    struct uring home_ring;
    int is_home_busy; /* the last batch took a full batch of reads */
    uint32_t arena_used;
    struct super_frame home_super, tunnel_super;
    uint8_t skips[PORT_IN_COUNT]; /* how often an input is still not asked: it was empty just now */
    uint32_t received, taken; /* of the last recvmmsg */
    uint32_t input;           /* which tunnel socket that was: raw ones, then UDP */
    struct mmsghdr rx[FM_BATCH], tx[FM_BATCH];
    struct iovec rx_iov[FM_BATCH][2], tx_iov[FM_BATCH];
    struct sockaddr_in tx_to[FM_BATCH];
    struct port_source tx_from[FM_BATCH];
    struct udp_port udp;
    struct packet_out packet;
    int names_source; /* the raw socket is bound to no address */
    uint64_t counters[PORT_COUNTER_COUNT]; /* written by the worker, read by anyone */
    struct returned_memory returned;
    struct refused refused; /* by the last kernel_port_send_tunnel */
    uint64_t now_ns;        /* of the batch in hand */
    const struct fm_engine *engine; /* whose home addresses tell what goes on to another tunnel */
    struct merge merges[MERGE_FLOWS];
    uint32_t next_merge; /* the one to close when all are open and another flow comes */
};

static inline void port_count(struct kernel_port *k, enum port_counter which, uint64_t more)
{
    __atomic_store_n(&k->counters[which], k->counters[which] + more, __ATOMIC_RELAXED);
}

/* An input that was empty just now, or of which poll said so, is not asked before the next sleep
 * unless that is long in coming: under light load most calls would be for nothing. */
static inline int port_is_silent(struct kernel_port *k, uint32_t input)
{
    if (!k->skips[input]) return 0;
    k->skips[input]--;
    return 1;
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

/* Where recvmmsg puts packet i: `room` bytes in its slot behind `before` bytes, more in `large`. */
static inline void port_receive_into(struct kernel_port *k, struct iovec iov[2], uint32_t i,
                                     uint32_t before)
{
    iov[0].iov_base = k->tunnel_slots + (size_t)i * PORT_SLOT + FM_HEADROOM_TUNNEL + before;
    iov[0].iov_len = PORT_TUNNEL_ROOM - before;
    iov[1].iov_base = k->tunnel_large + (size_t)i * PORT_LARGE + PORT_SLOT;
    iov[1].iov_len = PORT_PACKET_MAX;
}

static inline uint8_t *port_home_slot(struct kernel_port *k, uint32_t i)
{
    return k->home_slots + (size_t)i * PORT_HOME_SLOT + FM_HEADROOM_HOME;
}

/* 0, or -1 with errno. The descriptors stay the caller's. */
static inline int kernel_port_init(struct kernel_port *k, const struct port_descriptors *fds)
{
    size_t home = (size_t)FM_BATCH * PORT_HOME_SLOT, tunnel = (size_t)FM_BATCH * PORT_SLOT;
    memset(k, 0, sizeof *k);
    k->fds = *fds;
    k->vnet_len = fds->vnet_hdr ? VNET_HDR_LEN : 0;
    k->names_source = port_is_unbound(fds->raw_fd[0]);
    udp_port_init(&k->udp, fds->udp_fd);
    packet_out_init(&k->packet, fds->packet_fd);
    k->memory_len = home + tunnel + (size_t)FM_BATCH * PORT_LARGE + PORT_ARENA;
    k->memory = (uint8_t *)mmap(NULL, k->memory_len, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    k->home_ring.fd = -1;
    if (k->memory == (uint8_t *)MAP_FAILED) {
        k->memory = NULL;
        return -1;
    }
    k->home_slots = k->memory;
    k->tunnel_slots = k->home_slots + home;
    k->arena = k->tunnel_slots + tunnel;
    k->tunnel_large = k->arena + PORT_ARENA;
    for (uint32_t i = 0; i < FM_BATCH; i++) {
        port_receive_into(k, k->rx_iov[i], i, 0);
        port_receive_into(k, k->udp.rx_iov[i], i, UDP_PORT_HEADERS);
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

/* Where there can be no ring, read() does it. It holds the TUN device: close it with the work. */
static inline void port_open_ring(struct kernel_port *k)
{
    if (k->fds.no_ring) return;
    (void)uring_open(&k->home_ring, k->fds.tun_fd, port_home_slot(k, 0) - k->vnet_len,
                     PORT_HOME_SLOT, k->vnet_len + PORT_PACKET_MAX);
}

static inline void kernel_port_free(struct kernel_port *k)
{
    uring_close(&k->home_ring);
    if (k->memory) munmap(k->memory, k->memory_len);
    k->memory = NULL;
}

#endif
