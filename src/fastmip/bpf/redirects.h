/* Redirected frames that did not leave: the kernel tells only its tracepoints. A driver takes frames
 * in bulks; what it refuses, and what the kernel refuses before it, is counted by the interface the
 * frames came from. */
#ifndef FASTMIP_BPF_REDIRECTS_H
#define FASTMIP_BPF_REDIRECTS_H

#include "tables.h"

/* Of the kernel's types only what is read here; libbpf finds the places (CO-RE). */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct ns_common {
    unsigned int inum;
};
struct net {
    struct ns_common ns;
};
typedef struct {
    struct net *net;
} possible_net_t;
struct net_device {
    int ifindex;
    possible_net_t nd_net;
};
#pragma clang attribute pop

INLINE void count_refused(const struct net_device *from, __u32 packets)
{
    __u32 zero = 0, *which = bpf_map_lookup_elem(&active, &zero);
    if (!which || !from)
        return;
    __u32 turn = *which & 1;
    struct fm_settings *s = bpf_map_lookup_elem(&settings, &turn);
    if (!s || from->nd_net.net->ns.inum != s->netns)
        return;
    for (__u32 i = 0; i < FM_INTERFACES_MAX; i++) {
        if (s->interface[i].ifindex != (__u32)from->ifindex)
            continue;
        __u64 *count = bpf_map_lookup_elem(&refused, &i);
        if (count)
            *count += packets;
        return;
    }
}

/* from, to, sent, drops, error */
SEC("tp_btf/xdp_devmap_xmit")
int sent_or_not(__u64 *arguments)
{
    __u32 drops = (__u32)arguments[3];
    if (drops)
        count_refused((const struct net_device *)arguments[0], drops);
    return 0;
}

/* from, program, target, error, kind of map, ...; a full AF_XDP ring counts its own losses */
SEC("tp_btf/xdp_redirect_err")
int not_redirected(__u64 *arguments)
{
    if ((__u32)arguments[4] == BPF_MAP_TYPE_XSKMAP)
        return 0;
    count_refused((const struct net_device *)arguments[0], 1);
    return 0;
}

#endif
