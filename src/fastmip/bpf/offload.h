/* Plain IP in IP for bound home addresses, in the kernel: what the engine's fast loops do
 * (engine/fast.h), for the same packets, byte by byte. Everything that is not plain is left as it
 * came, and the engine judges it: no drop is decided here.
 *
 * Left to the engine: other encapsulations, simultaneous bindings, expired ones, tunnel packets in
 * tunnels, TTL used up, too big, sources that are wrong or ours, packets from node to node, unusual
 * ECN, whatever has no next hop that a frame can be redirected to. */
#ifndef FASTMIP_BPF_OFFLOAD_H
#define FASTMIP_BPF_OFFLOAD_H

#include "packet.h"

#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))
#define BARRIER() __asm__ volatile("" ::: "memory")

#define POKE_NS 1000000000ull /* a neighbour is confirmed by the kernel this often at least */
#define SOFT_LIFE_S 600       /* FM_SOFT_LIFE_S */
#define AF_INET 2

/* What of a home address a frame needs, read at once. */
struct tunnel {
    struct fm_home *home;
    __u64 expires, soft, hop_stamp;
    __u32 remote, local, version, budget;
    __u16 constant_sum;
    __u8 flags, tos_mask, ttl;
};

INLINE int read_home(struct tunnel *t, struct fm_home *home)
{
    t->home = home;
    t->version = READ_ONCE(home->version);
    BARRIER();
    t->expires = READ_ONCE(home->expires);
    t->soft = READ_ONCE(home->soft);
    t->hop_stamp = READ_ONCE(home->hop_stamp);
    t->remote = READ_ONCE(home->remote);
    t->local = READ_ONCE(home->local);
    t->constant_sum = READ_ONCE(home->constant_sum);
    t->budget = READ_ONCE(home->budget);
    t->flags = READ_ONCE(home->flags);
    t->tos_mask = READ_ONCE(home->tos_mask);
    t->ttl = READ_ONCE(home->ttl);
    BARRIER();
    return !(t->version & 1) && READ_ONCE(home->version) == t->version;
}

/* CLOCK_BOOTTIME, at most a tick late: the exact clock waits for every load before it, which costs
 * more than all the rest. */
INLINE __u64 boot_ns(const struct fm_settings *s)
{
    return bpf_ktime_get_coarse_ns() + s->suspended_ns;
}

/* What ICMP taught lowers the budget for ten minutes; 0: something is to be told to the sender. */
INLINE __u32 budget_now(const struct tunnel *t, __u64 now_ns)
{
    __u32 learnt = (__u16)t->soft, learnt_s = (__u32)(t->soft >> 32);
    if (LIKELY(!t->soft))
        return t->budget;
    if (t->soft >> 16 & 0xff)
        return 0;
    if (learnt && learnt < t->budget && (__u32)(now_ns / 1000000000u) - learnt_s < SOFT_LIFE_S)
        return learnt;
    return t->budget;
}

/* Ask the kernel where a packet goes on. 0: it cannot say yet, or is to see this packet itself, so
 * that it confirms its neighbour; ask again. `hop` comes with the interface the packet came from. */
APART int ask_kernel(void *ctx, const struct fm_settings *s, __u32 source, __u32 destination,
                     struct fm_next_hop *hop)
{
    /* With a length the answer has the route's MTU at TC, too. */
    struct bpf_fib_lookup query = {.family = AF_INET, .tot_len = IPV4_HEADER};
    __u32 zero = 0;
    __u64 now_ns = bpf_ktime_get_coarse_ns(), *last = bpf_map_lookup_elem(&poked, &zero);
    if (!last || !s)
        return 0;
    if (now_ns - *last > POKE_NS) {
        *last = now_ns;
        return 0;
    }
    query.ifindex = hop->ifindex;
    query.ipv4_src = source;
    query.ipv4_dst = destination;
    long answer = bpf_fib_lookup(ctx, &query, sizeof query, 0);
    if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
        return 0;
    __builtin_memset(hop, 0, sizeof *hop);
    if (answer != BPF_FIB_LKUP_RET_SUCCESS)
        return 1;
    for (__u32 i = 0; i < FM_INTERFACES_MAX; i++)
        if (s->interface[i].ifindex == query.ifindex)
            hop->ifindex = query.ifindex;
    __builtin_memcpy(hop->to, query.dmac, 6);
    __builtin_memcpy(hop->from, query.smac, 6);
    hop->mtu = query.mtu_result;
    return 1;
}

/* Next hop of a tunnel's packets; 0 without one. */
INLINE int hop_of_tunnel(const struct frame *f, const struct tunnel *t, struct fm_next_hop *hop)
{
    __u64 stamp = (__u64)t->version << 32 | f->settings->generation;
    if (LIKELY(t->hop_stamp == stamp)) {
        *hop = t->home->hop;
        BARRIER();
        return READ_ONCE(t->home->hop_stamp) == stamp && hop->ifindex;
    }
    hop->ifindex = f->ifindex;
    if (!ask_kernel(f->ctx, f->settings, t->local, t->remote, hop))
        return 0;
    WRITE_ONCE(t->home->hop_stamp, 0);
    BARRIER();
    t->home->hop = *hop;
    BARRIER();
    WRITE_ONCE(t->home->hop_stamp, stamp);
    return hop->ifindex != 0;
}

/* Next hop of what came out of a tunnel; 0 without one. */
INLINE int hop_of_packet(const struct frame *f, __u32 source, __u32 destination,
                         struct fm_next_hop *hop)
{
    __u32 key = (destination * 0x9e3779b1u) >> 22, generation = f->settings->generation;
    struct fm_route *route = bpf_map_lookup_elem(&routes, &key);
    if (!route)
        return 0;
    if (LIKELY(route->destination == destination && route->generation == generation)) {
        *hop = route->hop;
        return hop->ifindex != 0;
    }
    hop->ifindex = f->ifindex;
    if (!ask_kernel(f->ctx, f->settings, source, destination, hop))
        return 0;
    route->destination = destination;
    route->generation = generation;
    route->hop = *hop;
    return hop->ifindex != 0;
}

INLINE struct fm_home_tally *tally_of(const struct tunnel *t)
{
    return &t->home->tally[bpf_get_smp_processor_id() % FM_TALLIES];
}

#define TALLY(tally, name, octets)                                                                \
    do {                                                                                          \
        if (has_many_cpus) {                                                                      \
            __sync_fetch_and_add(&(tally)->name##_packets, 1);                                    \
            __sync_fetch_and_add(&(tally)->name##_bytes, (octets));                               \
        } else {                                                                                  \
            (tally)->name##_packets++;                                                            \
            (tally)->name##_bytes += (octets);                                                    \
        }                                                                                         \
    } while (0)

INLINE void put_ethernet(struct ethhdr *ethernet, const struct fm_next_hop *hop)
{
    __builtin_memcpy(ethernet->h_dest, hop->to, 6);
    __builtin_memcpy(ethernet->h_source, hop->from, 6);
    ethernet->h_proto = BE16(ETH_P_IP);
}

INLINE __u16 folded(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (__u16)sum;
}

/* Into the tunnel; what bpf_redirect says, or -1 when it is the engine's. */
INLINE int encapsulate(struct frame *f, struct fm_home *home)
{
    struct ipv4 *ip = f->ip;
    struct fm_next_hop hop;
    struct tunnel t;
    if (!read_home(&t, home) || !(t.flags & FM_HOME_PLAIN))
        return -1;
    __u64 now_ns = boot_ns(f->settings);
    __u32 total = BE16(ip->total), largest = largest_packet(f, ip), source = ip->source;
    if (t.expires <= now_ns || largest > budget_now(&t, now_ns) || ip->ttl <= 1 ||
        source == t.remote || is_martian(source) || is_tunnel_protocol(ip->protocol) ||
        !sum20_is_right(ip) || is_own(f->settings, source))
        return -1;
    if (total + IPV4_HEADER > 0xffff) /* a super-frame */
        return -1;
    if (!hop_of_tunnel(f, &t, &hop) || largest + IPV4_HEADER > hop.mtu)
        return -1;
    __u8 tos = ip->tos & t.tos_mask;
    struct fm_home_tally *tally = tally_of(&t);
    if (change_room(f, IPV4_HEADER))
        return -1;
    struct ethhdr *ethernet = f->data;
    struct ipv4 *outer = (void *)(ethernet + 1), *inner = outer + 1;
    if ((void *)(inner + 1) > f->end)
        return XDP_ABORTED; /* cannot be: the verifier wants to see it */
    decrement_ttl(inner);
    put_ethernet(ethernet, &hop);
    outer->version_ihl = 0x45;
    outer->tos = tos;
    outer->total = BE16(total + IPV4_HEADER);
    outer->id = 0;
    outer->fragment = BE16(IPV4_DF);
    outer->ttl = t.ttl;
    outer->protocol = PROTO_IPIP;
    outer->checksum = (__u16)~folded(t.constant_sum + ((__u32)tos << 8) + outer->total);
    outer->source = t.local;
    outer->destination = t.remote;
    TALLY(tally, sent, total);
    count(f, FM_ENCAPSULATED, total);
    return (int)bpf_redirect(hop.ifindex, 0);
}

/* ECN of the inner header after both (RFC 6040 4.2), or -1 for what the engine counts or drops. */
INLINE int merged_ecn(__u8 outer_tos, __u8 inner_tos)
{
    __u8 outer = outer_tos & ECN_MASK, inner = inner_tos & ECN_MASK;
    if (LIKELY(outer == 0 || outer == inner))
        return inner;
    if (inner != 0 && inner != ECN_CE && outer == ECN_CE)
        return ECN_CE;
    if (inner == ECN_CE && outer == 2)
        return inner;
    return inner == 2 && outer == 1 ? 1 : -1;
}

/* Out of the tunnel; what bpf_redirect says, or -1 when it is the engine's. `f->ip` is IP in IP to us. */
INLINE int decapsulate(struct frame *f)
{
    struct ipv4 *outer = f->ip, *inner = outer + 1;
    struct fm_next_hop hop;
    struct tunnel t;
    if ((void *)(inner + 1) > f->end)
        return -1;
    __u32 number = home_number(f->settings, inner->source);
    if (!number--)
        return -1;
    struct fm_home *home = bpf_map_lookup_elem(&homes, &number);
    if (!home || !read_home(&t, home) || !(t.flags & FM_HOME_TAKE))
        return -1;
    __u32 total = BE16(inner->total), room = BE16(outer->total);
    __u32 largest = largest_packet(f, inner);
    int ecn = merged_ecn(outer->tos, inner->tos);
    if (t.remote != outer->source || t.local != outer->destination ||
        t.expires <= boot_ns(f->settings) || inner->version_ihl != 0x45 ||
        inner->protocol == PROTO_IPIP || total < IPV4_HEADER || total + IPV4_HEADER > room ||
        inner->ttl <= 1 || ecn < 0 || is_martian(inner->source) || !sum20_is_right(outer) ||
        !sum20_is_right(inner) || home_number(f->settings, inner->destination))
        return -1;
    if (!hop_of_packet(f, inner->source, inner->destination, &hop) || largest > hop.mtu)
        return -1;
    struct fm_home_tally *tally = tally_of(&t);
    if (change_room(f, -IPV4_HEADER))
        return -1;
    struct ethhdr *ethernet = f->data;
    inner = (void *)(ethernet + 1);
    if ((void *)(inner + 1) > f->end)
        return XDP_ABORTED;
    put_ethernet(ethernet, &hop);
    __u8 tos = (__u8)((inner->tos & ~ECN_MASK) | ecn);
    if (UNLIKELY(tos != inner->tos)) {
        __u32 sum = (__u16)~inner->checksum + (0xffffu - ((__u32)inner->tos << 8)) +
                    ((__u32)tos << 8);
        inner->checksum = (__u16)~folded(sum);
        inner->tos = tos;
    }
    decrement_ttl(inner);
    TALLY(tally, received, total);
    count(f, FM_DECAPSULATED, total);
    return (int)bpf_redirect(hop.ifindex, 0);
}

#endif
