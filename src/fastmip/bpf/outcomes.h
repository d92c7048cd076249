/* What becomes of a frame in the XDP program: every frame ends in exactly one of these, each a
 * counter (packets, bytes). runtime/bpf.py has the same list; a test compares them. */
#ifndef FASTMIP_BPF_OUTCOMES_H
#define FASTMIP_BPF_OUTCOMES_H

#define FM_OUTCOMES(X)                                                                            \
    X(STEERED_HOME, "steered-home")             /* for a home address: to a worker's socket */    \
    X(STEERED_TUNNEL, "steered-tunnel")         /* a tunnel packet to us: to a worker's socket */ \
    X(PASSED_NOT_IPV4, "passed-not-ipv4")       /* ARP, IPv6, VLAN tags: to the kernel */         \
    X(PASSED_OTHER, "passed-other")             /* IPv4, but none of our traffic */               \
    X(PASSED_TRUNCATED, "passed-truncated")     /* ours, not whole in its first buffer */         \
    X(PASSED_OPTIONS, "passed-options")         /* ours, with options or a wrong header length */ \
    X(PASSED_FRAGMENT, "passed-fragment")       /* ours, a fragment: the kernel puts together */  \
    X(PASSED_NO_SOCKET, "passed-no-socket")     /* ours, but no worker serves this queue */

enum fm_outcome {
#define X(name, text) FM_##name,
    FM_OUTCOMES(X)
#undef X
        FM_OUTCOME_COUNT
};

#endif
