/* What a kernel port counts beside the verdicts: what it did for or to packets before and after
 * the pipeline. Each counter has one writer, the port's worker.
 */
#ifndef FASTMIP_PORT_COUNTERS_H
#define FASTMIP_PORT_COUNTERS_H

#define PORT_COUNTERS(X)                                                                          \
    X(HOME_READ, "home-read", "Packets and super-frames read from the TUN device.")               \
    X(HOME_RING_READ, "home-ring-read", "Those among them read by io_uring, a batch at a time.")  \
    X(HOME_SUPER_FRAMES, "home-super-frames", "TCP and UDP super-frames among them.")             \
    X(HOME_SEGMENTS, "home-segments", "Wire-size packets cut from super-frames.")                 \
    X(HOME_COMPLETED, "home-checksums-completed", "Whole packets whose checksum was partial.")    \
    X(HOME_BAD_OFFLOAD, "home-bad-offload", "Offload header that does not fit its packet.")       \
    X(HOME_READ_ERRORS, "home-read-errors", "Reads of the TUN device that failed.")               \
    X(HOME_WRITTEN, "home-written", "Packets written to the TUN device.")                         \
    X(HOME_MERGED, "home-merged", "Packets among them written as parts of super-frames.")         \
    X(HOME_HOPS_RETURNED, "home-hops-returned", "Packets written back with their hop put back.")  \
    X(HOME_CIRCLING, "home-circling", "Packets written back that were so before: routing loop?")  \
    X(HOME_DOWN, "home-device-down", "Lost on writing: the TUN device is down.")                  \
    X(HOME_REFUSED, "home-refused", "Lost on writing: the kernel refused the packet.")            \
    X(HOME_NO_BUFFER, "home-no-buffer", "Lost on writing: no kernel memory.")                     \
    X(TUNNEL_READ, "tunnel-read", "Packets read from the tunnel sockets, UDP apart.")             \
    X(TUNNEL_LARGE, "tunnel-large", "Larger than a slot: reassembled or merged by GRO.")          \
    X(TUNNEL_MERGED, "tunnel-merged", "Merged by GRO, cut again: GRO should be off.")             \
    X(TUNNEL_WHOLE, "tunnel-whole", "Merged by GRO, decapsulated and passed on as they were.")    \
    X(TUNNEL_SEGMENTS, "tunnel-segments", "Wire-size packets cut from merged ones, UDP too.")     \
    X(TUNNEL_COMPLETED, "tunnel-checksums-completed", "Inner or GRE checksums that were partial.") \
    X(TUNNEL_READ_ERRORS, "tunnel-read-errors", "Reads of a tunnel socket that failed.")          \
    X(TUNNEL_SENT, "tunnel-sent", "Packets sent through the tunnel socket, UDP apart.")           \
    X(PACKET_SENT, "packet-sent", "Outer packets sent past the IP stack (engine.transmit).")      \
    X(PACKET_STALE, "packet-stale", "Refused there (link down, gone, MTU): sent by the stack.")   \
    X(TUNNEL_TOO_BIG, "tunnel-too-big", "Not sent (EMSGSIZE): beyond the MTU of the interface.")  \
    X(TUNNEL_NO_BUFFER, "tunnel-no-buffer", "Not sent (ENOBUFS, ENOMEM): queue full.")            \
    X(TUNNEL_FORBIDDEN, "tunnel-forbidden", "Not sent (EPERM, EACCES): firewall or policy.")      \
    X(TUNNEL_WOULD_BLOCK, "tunnel-would-block", "Not sent (EAGAIN): socket buffer full.")         \
    X(TUNNEL_UNREACHABLE, "tunnel-unreachable", "Not sent: no route, or the link is down.")       \
    X(TUNNEL_REFUSED, "tunnel-refused", "Not sent for another reason, such as a bad address.")    \
    X(UDP_READ, "udp-read", "Datagrams read from the UDP tunnel socket, merged ones once.")       \
    X(UDP_MERGED, "udp-merged", "Merged datagrams among them, cut again.")                        \
    X(UDP_NOT_DATA, "udp-not-data", "Dropped: not tunnel data (type 4), or not told where to.")   \
    X(UDP_HANDED_BACK, "udp-handed-back", "Merged with data, yet registration: given to it.")     \
    X(UDP_READ_ERRORS, "udp-read-errors", "Reads of the UDP tunnel socket that failed.")          \
    X(UDP_SENT, "udp-sent", "Packets sent through the UDP tunnel socket.")                        \
    X(UDP_SENT_MERGED, "udp-sent-merged", "Packets among them sent as parts of larger messages.") \
    X(ICMP_READ, "icmp-read", "ICMP errors read from the ICMP socket.")                           \
    X(ICMP_READ_ERRORS, "icmp-read-errors", "Reads of the ICMP socket that failed.")

enum port_counter {
#define X(name, text, sentence) PORT_##name,
    PORT_COUNTERS(X)
#undef X
        PORT_COUNTER_COUNT
};

struct port_counter_text {
    const char *name;
    const char *sentence;
};

#define X(name, text, sentence) {text, sentence},
static const struct port_counter_text port_counter_table[PORT_COUNTER_COUNT] = {PORT_COUNTERS(X)};
#undef X

#endif
