// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/* The one program of an interface, at XDP or, for offload alone, at TC. It takes only what the engine's fast path can do, and
 * gives everything else to the kernel as if it were not there:
 *
 *   to one of our addresses   IP in IP, GRE, minimal encapsulation; tunnel data on the UDP port
 *   to a bound home address   any protocol
 *
 * unfragmented, without IP options, whole in the first buffer, addressed to the interface's MAC. ARP,
 * IPv6, VLAN tags, SSH, ICMP and registrations never leave the kernel. What it takes is done here if
 * it is plain (offload.h), else it goes to the socket of a worker (steering); a queue without a
 * socket is the kernel's, too, and the engine meets its packets behind it. */
#include "offload.h"
#include "redirects.h"

/* A tunnel packet, as far as the outer header tells? */
INLINE int is_tunnel(const struct frame *f)
{
    if (is_tunnel_protocol(f->ip->protocol))
        return 1;
    if (f->ip->protocol != PROTO_UDP || !f->settings->udp_port)
        return 0;
    struct udp *udp = (void *)(f->ip + 1);
    return (void *)&udp->type + 1 <= f->end && udp->destination == f->settings->udp_port &&
           udp->type == MIP_TUNNEL_DATA;
}

/* With options or as a fragment it has no UDP header where is_tunnel would look. */
INLINE int may_be_tunnel(const struct frame *f)
{
    if (f->ip->version_ihl == 0x45 && !(f->ip->fragment & BE16(IPV4_FRAGMENT)))
        return is_tunnel(f);
    return is_tunnel_protocol(f->ip->protocol);
}

INLINE int is_to_us(const struct frame *f)
{
    const struct ethhdr *ethernet = f->data;
    if (f->place >= FM_INTERFACES_MAX)
        return 0;
    const __u8 *mac = f->settings->interface[f->place].mac;
    return *(const __u32 *)ethernet->h_dest == *(const __u32 *)mac &&
           *(const __u16 *)(ethernet->h_dest + 4) == *(const __u16 *)(mac + 4);
}

INLINE int steer(const struct frame *f, __u32 outcome)
{
    if (f->is_skb)
        return finish(f, FM_PASSED_NO_SOCKET, XDP_PASS);
    __u32 queue = ((struct xdp_md *)f->ctx)->rx_queue_index;
    if (f->place >= FM_INTERFACES_MAX || queue >= FM_QUEUES_MAX)
        return finish(f, FM_PASSED_NO_SOCKET, XDP_PASS);
    /* XDP_PASS is what it answers when there is no socket. */
    int action = bpf_redirect_map(&xsks, f->place * FM_QUEUES_MAX + queue, XDP_PASS);
    return finish(f, action == XDP_REDIRECT ? outcome : FM_PASSED_NO_SOCKET, action);
}

INLINE __u32 place_of(const struct fm_settings *s, __u32 ifindex)
{
    for (__u32 i = 0; i < FM_INTERFACES_MAX; i++)
        if (s->interface[i].ifindex == ifindex)
            return i;
    return FM_INTERFACES_MAX;
}

/* XDP_PASS, or what bpf_redirect says. `f` has context, interface, length and where it lies. */
INLINE int judge(struct frame *f)
{
    struct ethhdr *ethernet = f->data;
    struct fm_home *home = 0;
    __u32 zero = 0, number = 0, outcome = FM_STEERED_TUNNEL;
    __u32 *which = bpf_map_lookup_elem(&active, &zero);
    if (UNLIKELY(!which))
        return XDP_PASS;
    __u32 turn = *which & 1;
    f->settings = bpf_map_lookup_elem(&settings, &turn);
    if (UNLIKELY(!f->settings))
        return XDP_PASS;
    f->ip = (void *)(ethernet + 1);
    f->place = place_of(f->settings, f->ifindex);
    if ((void *)(ethernet + 1) > f->end || ethernet->h_proto != BE16(ETH_P_IP))
        return finish(f, FM_PASSED_NOT_IPV4, XDP_PASS);
    if ((void *)(f->ip + 1) > f->end)
        return finish(f, FM_PASSED_TRUNCATED, XDP_PASS);
    if (is_own(f->settings, f->ip->destination)) {
        if (!may_be_tunnel(f))
            return finish(f, FM_PASSED_OTHER, XDP_PASS);
    } else {
        outcome = FM_STEERED_HOME;
        number = home_number(f->settings, f->ip->destination);
        if (!number--)
            return finish(f, FM_PASSED_OTHER, XDP_PASS);
        if (!(f->settings->flags & FM_STEER_UNBOUND)) {
            home = bpf_map_lookup_elem(&homes, &number);
            if (!home || !(READ_ONCE(home->flags) & FM_HOME_BOUND))
                return finish(f, FM_PASSED_UNBOUND, XDP_PASS);
        }
    }
    if (!is_to_us(f))
        return finish(f, FM_PASSED_NOT_TO_US, XDP_PASS);
    if (f->ip->version_ihl != 0x45)
        return finish(f, FM_PASSED_OPTIONS, XDP_PASS);
    if (f->ip->fragment & BE16(IPV4_FRAGMENT))
        return finish(f, FM_PASSED_FRAGMENT, XDP_PASS);
    __u32 total = BE16(f->ip->total);
    if (total < IPV4_HEADER || (__u32)sizeof *ethernet + total > f->length)
        return finish(f, FM_PASSED_TRUNCATED, XDP_PASS);
    if (f->settings->flags & FM_OFFLOAD) {
        int action = -1;
        if (home)
            action = encapsulate(f, home);
        else if (outcome == FM_STEERED_TUNNEL && f->ip->protocol == PROTO_IPIP)
            action = decapsulate(f);
        if (action >= 0)
            return action;
    }
    return steer(f, outcome);
}

SEC("xdp.frags")
int fastmip(struct xdp_md *ctx)
{
    struct frame f = {.ctx = ctx, .is_skb = 0, .ifindex = ctx->ingress_ifindex};
    look(&f);
    f.length = f.end - f.data;
    return judge(&f);
}

/* At TC, where super-frames pass whole. */
SEC("tc")
int fastmip_tc(struct __sk_buff *ctx)
{
    struct frame f = {.ctx = ctx, .is_skb = 1, .ifindex = ctx->ifindex};
    f.length = ctx->len;
    f.gso_size = ctx->gso_size;
    if (ctx->vlan_present)
        return TCX_NEXT;
    look(&f);
    __u32 wanted = f.length < FM_HEADERS ? f.length : FM_HEADERS;
    if (UNLIKELY(f.data + wanted > f.end)) {
        if (bpf_skb_pull_data(ctx, wanted))
            return TCX_NEXT;
        look(&f);
    }
    int action = judge(&f);
    if (action == XDP_PASS)
        return TCX_NEXT;
    return action == TC_ACT_REDIRECT ? action : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
