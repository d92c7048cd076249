// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/* The one XDP program of an interface. It takes only what the engine's fast path can do, and
 * gives everything else to the kernel as if it were not there:
 *
 *   to one of our addresses   IP in IP, GRE, minimal encapsulation; tunnel data on the UDP port
 *   into a home network       any protocol
 *
 * unfragmented, without IP options, whole in the first buffer. ARP, IPv6, VLAN tags, SSH, ICMP and
 * registrations never leave the kernel. A queue without a socket is the kernel's, too.
 */
#include <linux/if_ether.h>

#include "tables.h"

#define IPV4_HEADER 20
#define IPV4_FRAGMENT 0x3fff /* offset and "more fragments" */
#define PROTO_IPIP 4
#define PROTO_UDP 17
#define PROTO_GRE 47
#define PROTO_MINIMAL 55
#define MIP_TUNNEL_DATA 4 /* RFC 3519 3.1 */

struct ipv4 {
    __u8 version_ihl, tos;
    __u16 total, id, fragment;
    __u8 ttl, protocol;
    __u16 checksum;
    __u32 source, destination;
};

struct udp {
    __u16 source, destination, length, checksum;
    __u8 type;
};

/* A frame of ours. */
struct frame {
    struct xdp_md *ctx;
    const struct fm_settings *settings;
    void *end;
    struct ipv4 *ip;
    __u32 length;
};

INLINE int finish(const struct frame *f, __u32 outcome, int action)
{
    struct fm_count *count = bpf_map_lookup_elem(&counters, &outcome);
    if (LIKELY(count != 0)) {
        count->packets++;
        count->bytes += f->length;
    }
    return action;
}

INLINE int is_own(const struct fm_settings *s, __u32 address)
{
    for (__u32 i = 0; i < FM_OWN_MAX && i < s->own_count; i++)
        if (s->own[i] == address)
            return 1;
    return 0;
}

INLINE int is_home(const struct fm_settings *s, __u32 address)
{
    __u32 key = BE32(address);
    for (__u32 i = 0; i < FM_NETWORKS_MAX && i < s->network_count; i++)
        if (key - s->network[i].first <= s->network[i].last - s->network[i].first)
            return 1;
    return 0;
}

/* A whole tunnel packet, as far as the outer header tells? */
INLINE int is_tunnel(const struct frame *f)
{
    __u8 protocol = f->ip->protocol;
    if (protocol == PROTO_IPIP || protocol == PROTO_GRE || protocol == PROTO_MINIMAL)
        return 1;
    if (protocol != PROTO_UDP || !f->settings->udp_port)
        return 0;
    struct udp *udp = (void *)f->ip + IPV4_HEADER;
    return (void *)&udp->type + 1 <= f->end && udp->destination == f->settings->udp_port &&
           udp->type == MIP_TUNNEL_DATA;
}

INLINE int may_be_tunnel(const struct frame *f)
{
    __u8 protocol = f->ip->protocol;
    return protocol == PROTO_IPIP || protocol == PROTO_GRE || protocol == PROTO_MINIMAL;
}

INLINE int steer(const struct frame *f, __u32 outcome)
{
    __u32 queue = f->ctx->rx_queue_index, ifindex = f->ctx->ingress_ifindex;
    if (queue >= FM_QUEUES_MAX)
        return finish(f, FM_PASSED_NO_SOCKET, XDP_PASS);
    for (__u32 i = 0; i < FM_INTERFACES_MAX; i++) {
        if (f->settings->interface[i] != ifindex)
            continue;
        /* XDP_PASS is what it answers when there is no socket. */
        int action = bpf_redirect_map(&xsks, i * FM_QUEUES_MAX + queue, XDP_PASS);
        return finish(f, action == XDP_REDIRECT ? outcome : FM_PASSED_NO_SOCKET, action);
    }
    return finish(f, FM_PASSED_NO_SOCKET, XDP_PASS);
}

SEC("xdp.frags")
int fastmip(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    struct ethhdr *ethernet = data;
    __u32 zero = 0, *which = bpf_map_lookup_elem(&active, &zero);
    struct frame f = {.ctx = ctx, .end = (void *)(long)ctx->data_end};
    f.length = f.end - data;
    f.ip = data + sizeof *ethernet;
    if (UNLIKELY(!which))
        return XDP_PASS;
    __u32 turn = *which & 1;
    f.settings = bpf_map_lookup_elem(&settings, &turn);
    if (UNLIKELY(!f.settings))
        return XDP_PASS;
    if ((void *)(ethernet + 1) > f.end || ethernet->h_proto != BE16(ETH_P_IP))
        return finish(&f, FM_PASSED_NOT_IPV4, XDP_PASS);
    if ((void *)(f.ip + 1) > f.end)
        return finish(&f, FM_PASSED_TRUNCATED, XDP_PASS);
    __u32 outcome = FM_STEERED_HOME;
    if (is_own(f.settings, f.ip->destination)) {
        outcome = FM_STEERED_TUNNEL;
        /* With options or as a fragment it has no UDP header where we would look. */
        if (!(f.ip->version_ihl == 0x45 && !(f.ip->fragment & BE16(IPV4_FRAGMENT)) ? is_tunnel(&f)
                                                                                   : may_be_tunnel(&f)))
            return finish(&f, FM_PASSED_OTHER, XDP_PASS);
    } else if (!is_home(f.settings, f.ip->destination)) {
        return finish(&f, FM_PASSED_OTHER, XDP_PASS);
    }
    if (f.ip->version_ihl != 0x45)
        return finish(&f, FM_PASSED_OPTIONS, XDP_PASS);
    if (f.ip->fragment & BE16(IPV4_FRAGMENT))
        return finish(&f, FM_PASSED_FRAGMENT, XDP_PASS);
    __u32 total = BE16(f.ip->total);
    if (total < IPV4_HEADER || (void *)f.ip + total > f.end)
        return finish(&f, FM_PASSED_TRUNCATED, XDP_PASS);
    return steer(&f, outcome);
}

char LICENSE[] SEC("license") = "GPL";
