/* What an XDP port counts beside the verdicts. Each counter has one writer, the port's worker. */
#ifndef FASTMIP_XDP_COUNTERS_H
#define FASTMIP_XDP_COUNTERS_H

#define XDP_COUNTERS(X)                                                                           \
    X(READ_HOME, "xdp-read-home", "Packets for home addresses, read from AF_XDP sockets.")        \
    X(READ_TUNNEL, "xdp-read-tunnel", "Tunnel packets to us, read from AF_XDP sockets.")          \
    X(NOT_IPV4, "xdp-not-ipv4", "Dropped: a frame of another protocol, or with a VLAN tag.")      \
    X(TRUNCATED, "xdp-truncated", "Dropped: a frame shorter than an Ethernet header.")            \
    X(HANDED_BACK, "xdp-handed-back", "Given to the kernel: to us, but not ours to open.")        \
    X(COMPLETED, "xdp-checksums-completed", "Packets whose checksum the sender had left undone.") \
    X(SENT, "xdp-sent", "Packets sent through AF_XDP sockets.")                                   \
    X(SENT_COPIED, "xdp-sent-copied", "Packets among them that had to be copied first.")          \
    X(TO_KERNEL, "xdp-to-kernel", "Left to the kernel: it knows the next hop, or must ask.")      \
    X(RING_FULL, "xdp-ring-full", "Lost: the interface does not send fast enough.")               \
    X(NO_FRAME, "xdp-no-frame", "Left to the kernel: no frame was free to copy into.")            \
    X(SEND_ERRORS, "xdp-send-errors", "Kicks of an interface that is down or gone.")              \
    X(STRANGE, "xdp-strange-frames", "From the kernel, but not where the books have them.")

enum xdp_counter {
#define X(name, text, sentence) XDP_COUNT_##name,
    XDP_COUNTERS(X)
#undef X
        XDP_COUNTER_COUNT
};

#define X(name, text, sentence) {text, sentence},
static const struct port_counter_text xdp_counter_table[XDP_COUNTER_COUNT] = {XDP_COUNTERS(X)};
#undef X

#endif
