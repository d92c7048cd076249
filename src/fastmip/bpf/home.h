/* A home address as the offload programs see it; written by the engine's control thread
 * (engine/offload.h), which includes this file, too.
 *
 * Two cache lines, at the place of the address in its home network: what is read, and the counters,
 * which are there because a CPU fetches lines in pairs and pages by the one. `version` is odd while
 * it is filled; a reader takes what it read only if `version` is even and the same before and after.
 * `expires` and `soft` may change at any time, by one store each.
 *
 * The program itself remembers in `hop` where the tunnel's packets go, as long as `hop_stamp` is
 * version and generation of routes under which it asked the kernel. */
#ifndef FASTMIP_BPF_HOME_H
#define FASTMIP_BPF_HOME_H

#include <linux/types.h>

#define FM_HOME_BOUND 1 /* there is a binding: the engine's business */
#define FM_HOME_PLAIN 2 /* one tunnel, IP in IP: ours to encapsulate */
#define FM_HOME_TAKE 4  /* and to decapsulate: reverse tunnelling was granted */

struct fm_next_hop {
    __u32 ifindex; /* 0: leave it to the kernel */
    __u8 to[6], from[6];
    __u16 mtu, unused;
};

struct fm_home_tally {
    __u64 sent_packets, sent_bytes, received_packets, received_bytes;
};

#define FM_TALLIES 2 /* CPUs share them where there are more: then counted by atomic additions */

struct fm_home {
    __u64 expires; /* CLOCK_BOOTTIME ns */
    __u64 soft;    /* struct fm_soft of the engine: 0, nothing learnt */
    __u64 hop_stamp; /* version, generation */
    __u32 remote, local; /* network order, in the order of a tunnel packet to us */
    __u32 version;
    __u16 constant_sum; /* of the outer header, folded */
    __u16 budget;       /* largest inner packet before anything was learnt */
    struct fm_next_hop hop;
    __u8 flags, tos_mask, ttl, unused;
    struct fm_home_tally tally[FM_TALLIES];
} __attribute__((aligned(128)));

_Static_assert(sizeof(struct fm_home) == 128, "two cache lines");

#endif
