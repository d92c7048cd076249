/* The tables that the control plane writes and the programs read (runtime/bpf.py has their twins).
 *
 * Settings are two, and `active` says which one counts: the control plane fills the other and
 * turns `active`, so that no frame sees half of a change. */
#ifndef FASTMIP_BPF_TABLES_H
#define FASTMIP_BPF_TABLES_H

#include "kernel.h"
#include "outcomes.h"

#define FM_OWN_MAX 32       /* own addresses */
#define FM_NETWORKS_MAX 16  /* home networks */
#define FM_INTERFACES_MAX 16
#define FM_QUEUES_MAX 64    /* receive queues of an interface that can have a socket */

struct fm_network {
    __u32 first, last; /* host order */
};

struct fm_settings {
    __u32 own_count, network_count;
    __u32 udp_port; /* network order; 0: UDP tunnels are left to the kernel */
    __u32 unused;
    __u32 interface[FM_INTERFACES_MAX]; /* ifindex; its place makes the key of its sockets */
    __u32 own[FM_OWN_MAX];              /* network order */
    struct fm_network network[FM_NETWORKS_MAX];
};

struct fm_count {
    __u64 packets, bytes;
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

struct {
    MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    MAP_UINT(max_entries, FM_OUTCOME_COUNT);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, struct fm_count);
} counters SEC(".maps");

/* Key: place of the interface * FM_QUEUES_MAX + queue. */
struct {
    MAP_UINT(type, BPF_MAP_TYPE_XSKMAP);
    MAP_UINT(max_entries, FM_INTERFACES_MAX *FM_QUEUES_MAX);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, __u32);
} xsks SEC(".maps");

#endif
