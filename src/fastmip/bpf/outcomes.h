/* What becomes of a frame in the XDP program: every frame ends in exactly one of these, each a
 * counter (packets, bytes). runtime/bpf.py has the same list; a test compares them.
 * The first two are the engine's verdicts and count what the engine would: inner packets. */
#ifndef FASTMIP_BPF_OUTCOMES_H
#define FASTMIP_BPF_OUTCOMES_H

#define FM_OUTCOMES(X)                                                                            \
    X(ENCAPSULATED, "encapsulated")         /* offload: sent through the tunnel */                \
    X(DECAPSULATED, "decapsulated")         /* offload: outer header removed, sent on */          \
    X(STEERED_HOME, "steered-home")         /* for a home address: to a worker's socket */        \
    X(STEERED_TUNNEL, "steered-tunnel")     /* a tunnel packet to us: to a worker's socket */     \
    X(PASSED_NOT_IPV4, "passed-not-ipv4")   /* ARP, IPv6, VLAN tags: to the kernel */             \
    X(PASSED_OTHER, "passed-other")         /* IPv4, but none of our traffic */                   \
    X(PASSED_NOT_TO_US, "passed-not-to-us") /* ours by its addresses, but to another MAC */       \
    X(PASSED_UNBOUND, "passed-unbound")     /* to a home address that is not bound */             \
    X(PASSED_TRUNCATED, "passed-truncated") /* ours, not whole in its first buffer */             \
    X(PASSED_OPTIONS, "passed-options")     /* ours, with options or a wrong header length */     \
    X(PASSED_FRAGMENT, "passed-fragment")   /* ours, a fragment: the kernel puts together */      \
    X(PASSED_NO_SOCKET, "passed-no-socket") /* ours, to the kernel and the engine behind it */

enum fm_outcome {
#define X(name, text) FM_##name,
    FM_OUTCOMES(X)
#undef X
        FM_OUTCOME_COUNT
};

#endif
