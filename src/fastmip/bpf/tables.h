/* The tables that the control plane writes and the programs read (runtime/bpf.py has their twins).
 *
 * Settings are two, and `active` says which one counts: the control plane fills the other and
 * turns `active`, so that no frame sees half of a change. */
#ifndef FASTMIP_BPF_TABLES_H
#define FASTMIP_BPF_TABLES_H

#include "home.h"
#include "kernel.h"
#include "outcomes.h"

#define FM_OWN_MAX 32       /* own addresses */
#define FM_NETWORKS_MAX 16  /* home networks */
#define FM_INTERFACES_MAX 16
#define FM_QUEUES_MAX 64    /* receive queues of an interface that can have a socket */
#define FM_ROUTES_MAX 1024  /* next hops a CPU remembers for what leaves tunnels */

#define FM_STEER_UNBOUND 1 /* homes is empty: the whole of a home network counts as bound */
#define FM_OFFLOAD 2       /* encapsulate and decapsulate here */

struct fm_network {
    __u32 first, last; /* host order */
    __u32 home;        /* number of the first address's entry in homes */
};

struct fm_interface {
    __u32 ifindex;
    __u8 mac[6];
    __u16 unused;
};

struct fm_settings {
    __u32 own_count, network_count;
    __u32 udp_port; /* network order; 0: UDP tunnels are left to the kernel */
    __u32 flags;
    __u32 generation;                             /* of routes and neighbours */
    __u32 netns;                                  /* inode of the network namespace */
    __u64 suspended_ns;                           /* CLOCK_BOOTTIME - CLOCK_MONOTONIC */
    struct fm_interface interface[FM_INTERFACES_MAX]; /* its place numbers counters and sockets */
    __u32 own[FM_OWN_MAX];                        /* network order */
    struct fm_network network[FM_NETWORKS_MAX];
};

struct fm_count {
    __u64 packets, bytes;
};

/* Where packets to a destination go on, as long as `generation` is that of the settings. */
struct fm_route {
    __u32 destination, generation;
    struct fm_next_hop hop;
    __u32 unused;
};

struct {
    MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
    MAP_UINT(max_entries, 2);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, struct fm_settings);
} settings SEC(".maps");

struct {
    MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
    MAP_UINT(max_entries, 1);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, __u32);
} active SEC(".maps");

/* Key: place of the interface (the last for all others) * FM_OUTCOME_COUNT + outcome. */
struct {
    MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    MAP_UINT(max_entries, (FM_INTERFACES_MAX + 1) * FM_OUTCOME_COUNT);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, struct fm_count);
} counters SEC(".maps");

/* Frames redirected from an interface that its outgoing driver did not take. */
struct {
    MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    MAP_UINT(max_entries, FM_INTERFACES_MAX);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, __u64);
} refused SEC(".maps");

/* Key: place of the interface * FM_QUEUES_MAX + queue. */
struct {
    MAP_UINT(type, BPF_MAP_TYPE_XSKMAP);
    MAP_UINT(max_entries, FM_INTERFACES_MAX *FM_QUEUES_MAX);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, __u32);
} xsks SEC(".maps");

struct {
    MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
    MAP_UINT(map_flags, BPF_F_MMAPABLE);
    MAP_UINT(max_entries, 1); /* the loader knows */
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, struct fm_home);
} homes SEC(".maps");

struct {
    MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    MAP_UINT(max_entries, FM_ROUTES_MAX);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, struct fm_route);
} routes SEC(".maps");

/* When this CPU last gave a packet to the kernel so that it confirms a neighbour. */
struct {
    MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    MAP_UINT(max_entries, 1);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, __u64);
} poked SEC(".maps");

/* Written once before loading. */
const volatile __u32 has_many_cpus = 0; /* more than FM_TALLIES */

#endif
