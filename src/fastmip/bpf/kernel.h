/* What of the kernel's BPF interface the programs use: helpers by number, maps by their types. */
#ifndef FASTMIP_BPF_KERNEL_H
#define FASTMIP_BPF_KERNEL_H

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Members of a map's definition: libbpf reads them from the type information. */
#define MAP_UINT(name, value) int(*name)[value]
#define MAP_TYPE(name, type) type *name

#define HELPER(type, name, number, ...) static type (*const name)(__VA_ARGS__) = (void *)(number)

HELPER(void *, bpf_map_lookup_elem, BPF_FUNC_map_lookup_elem, void *, const void *);
HELPER(long, bpf_redirect_map, BPF_FUNC_redirect_map, void *, __u64, __u64);
HELPER(long, bpf_redirect, BPF_FUNC_redirect, __u32, __u64);
HELPER(long, bpf_xdp_adjust_head, BPF_FUNC_xdp_adjust_head, void *, int);
HELPER(long, bpf_skb_adjust_room, BPF_FUNC_skb_adjust_room, void *, int, __u32, __u64);
HELPER(long, bpf_skb_pull_data, BPF_FUNC_skb_pull_data, void *, __u32);
HELPER(__u64, bpf_ktime_get_coarse_ns, BPF_FUNC_ktime_get_coarse_ns, void);
HELPER(long, bpf_fib_lookup, BPF_FUNC_fib_lookup, void *, struct bpf_fib_lookup *, int, __u32);
HELPER(__u32, bpf_get_smp_processor_id, BPF_FUNC_get_smp_processor_id, void);

/* Network order without a header of the C library. */
#define BE16(x) ((__u16)__builtin_bswap16(x))
#define BE32(x) ((__u32)__builtin_bswap32(x))

#endif
