/* A mobile node's end of its tunnel, in its kernel and with super-frames whole: in a benchmark of
 * the home agent the node should cost as little as a machine of its own. Addresses: bench/tcp.py. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define ETH 14
#define OUTER 20

static long (*store)(struct __sk_buff *, unsigned, const void *, unsigned,
                     unsigned long long) = (void *)BPF_FUNC_skb_store_bytes;
static long (*load)(const struct __sk_buff *, unsigned, void *,
                    unsigned) = (void *)BPF_FUNC_skb_load_bytes;
static long (*adjust)(struct __sk_buff *, int, unsigned,
                      unsigned long long) = (void *)BPF_FUNC_skb_adjust_room;

__attribute__((section("tc/in"), used)) int opened(struct __sk_buff *skb)
{
    unsigned char h[10];
    if (load(skb, ETH, h, sizeof h) || h[0] != 0x45 || h[9] != 4) return TC_ACT_OK;
    adjust(skb, -OUTER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
    return TC_ACT_OK;
}

__attribute__((section("tc/out"), used)) int wrapped(struct __sk_buff *skb)
{
    /* 10.1.0.5 goes in a packet from 10.3.0.5 to 10.3.0.1. */
    unsigned short h[10] = {0x0045, 0, 0, 0x0040, 0x0440, 0, 0x030a, 0x0500, 0x030a, 0x0100};
    unsigned source, sum = 0;
    if (skb->protocol != 0x0008 || load(skb, ETH + 12, &source, 4) || source != 0x0500010a)
        return TC_ACT_OK;
    if (adjust(skb, OUTER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4))
        return TC_ACT_SHOT;
    h[1] = __builtin_bswap16((unsigned short)(skb->len - ETH));
#pragma unroll
    for (int i = 0; i < 10; i++) sum += h[i];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    h[5] = (unsigned short)~sum;
    store(skb, ETH, h, OUTER, 0);
    return TC_ACT_OK;
}
char _license[] __attribute__((section("license"), used)) = "GPL";
