/* The one list of outcomes: every packet that enters, is generated or is copied ends in
 * exactly one of these, and each is a counter (packets, bytes).
 *
 * FM_VERDICTS(X): X(NAME, "kebab-name", severity, "sentence")
 * FM_EVENTS(X): things worth counting beside the outcome; not part of the balance.
 */
#ifndef FASTMIP_VERDICTS_H
#define FASTMIP_VERDICTS_H

#include <stdint.h>

enum fm_severity { FM_INFO = 0, FM_WARNING = 1, FM_SECURITY = 2 };

#define FM_VERDICTS(X)                                                                            \
    X(NONE, "undecided", FM_WARNING, "Never seen outside a batch: no outcome yet.")               \
    X(ENCAPSULATED, "encapsulated", FM_INFO, "Sent through the tunnel of its binding.")           \
    X(ENCAPSULATED_FRAGMENTS, "encapsulated-fragments", FM_INFO,                                  \
      "Cut to the tunnel MTU first, each fragment sent through the tunnel.")                      \
    X(ENCAPSULATED_COPY, "encapsulated-copy", FM_INFO,                                            \
      "Copy for another simultaneous binding, sent through its tunnel.")                          \
    X(REENCAPSULATED, "reencapsulated", FM_INFO,                                                  \
      "Came out of one node's tunnel and left through another node's.")                           \
    X(DECAPSULATED, "decapsulated", FM_INFO, "Outer header removed, given to the home side.")     \
    X(RETURNED_NO_BINDING, "returned-no-binding", FM_INFO,                                        \
      "Home side, destination has no binding: returned unchanged for normal routing.")            \
    X(RETURNED_EXPIRED, "returned-expired", FM_INFO,                                              \
      "Home side, binding expired: returned unchanged for normal routing.")                       \
    X(RETURNED_NOT_REVERSE, "returned-not-reverse", FM_INFO,                                      \
      "Visitor's packet that must not be reverse tunnelled: returned for normal routing.")        \
    X(HALF_BOUND_KEEPALIVE, "half-bound-keepalive", FM_INFO,                                      \
      "First keepalive of a UDP tunnel whose port is not known: told to the control plane.")      \
    X(ICMP_SENT, "icmp-sent", FM_INFO, "ICMP error of ours, given to the home side.")             \
    X(ICMP_TUNNELLED, "icmp-tunnelled", FM_INFO,                                                  \
      "ICMP error of ours to a node away from home, sent through its tunnel.")                    \
    X(ICMP_SOFT_STATE, "icmp-soft-state", FM_INFO,                                                \
      "ICMP error about a packet of ours: tunnel soft state updated.")                            \
    X(ICMP_RELAYED, "icmp-relayed", FM_INFO,                                                      \
      "ICMP error about a packet of ours that concerns its sender alone: relayed.")               \
    X(ICMP_NOT_RELAYED, "icmp-not-relayed", FM_INFO,                                              \
      "ICMP about a packet of ours that must not be relayed (quench, redirect, source route).")   \
    X(ICMP_IGNORED, "icmp-ignored", FM_INFO, "ICMP that is no error; the kernel answers it.")     \
    X(ICMP_MALFORMED, "icmp-malformed", FM_WARNING,                                               \
      "ICMP error too short, with a wrong checksum or without a usable quote.")                   \
    X(ICMP_UNRELATED, "icmp-unrelated", FM_SECURITY,                                              \
      "ICMP error whose quote matches no tunnel of ours, or that asks for the impossible.")       \
    X(DROP_TRUNCATED, "drop-truncated", FM_WARNING,                                               \
      "Shorter than an IPv4 header or than its own total length.")                                \
    X(DROP_NOT_IPV4, "drop-not-ipv4", FM_WARNING, "IP version is not 4.")                         \
    X(DROP_HEADER, "drop-header", FM_WARNING,                                                     \
      "Header length below 20 or beyond the total length.")                                       \
    X(DROP_CHECKSUM, "drop-checksum", FM_WARNING, "IPv4 header checksum is wrong.")               \
    X(DROP_TTL, "drop-ttl", FM_INFO, "TTL is used up; time exceeded was due if forwarding.")      \
    X(DROP_TOO_BIG, "drop-too-big", FM_INFO,                                                      \
      "Does not fit the tunnel and must not be fragmented; fragmentation needed was due.")        \
    X(DROP_NO_BINDING, "drop-no-binding", FM_SECURITY,                                            \
      "No binding for the mobile node of this packet.")                                           \
    X(DROP_EXPIRED, "drop-expired", FM_INFO, "The binding of this packet has expired.")           \
    X(DROP_CARE_OF_ADDRESS, "drop-care-of-address", FM_SECURITY,                                  \
      "Tunnel packet not from a registered outer address of this binding.")                       \
    X(DROP_TUNNEL_END, "drop-tunnel-end", FM_SECURITY,                                            \
      "Tunnel packet to another of our addresses than the one registered.")                       \
    X(DROP_NOT_REVERSE, "drop-not-reverse", FM_SECURITY,                                          \
      "Tunnel packet from a node that registered without reverse tunnelling.")                    \
    X(DROP_NOT_GRANTED, "drop-not-granted", FM_INFO,                                              \
      "Mobile node's packet before a registration with a reverse tunnel was accepted.")           \
    X(DROP_ENCAPSULATION, "drop-encapsulation", FM_SECURITY,                                      \
      "Tunnel packet with an encapsulation that was not negotiated.")                             \
    X(DROP_UDP_PORT, "drop-udp-port", FM_SECURITY,                                                \
      "UDP tunnel packet from or to other ports than this binding's.")                            \
    X(DROP_HALF_BOUND, "drop-half-bound", FM_INFO,                                                \
      "UDP tunnel whose port is not known yet: only a keepalive may pass.")                       \
    X(DROP_GRE_KEY, "drop-gre-key", FM_SECURITY,                                                  \
      "GRE key missing, not negotiated or another one (RFC 2890 2.1).")                           \
    X(DROP_GRE_SEQUENCE, "drop-gre-sequence", FM_INFO,                                            \
      "GRE sequence number not ahead of the last one (RFC 2890 2.2).")                            \
    X(DROP_GRE_TRUNCATED, "drop-gre-truncated", FM_WARNING, "GRE header is cut short.")           \
    X(DROP_GRE_VERSION, "drop-gre-version", FM_WARNING, "GRE version is not 0.")                  \
    X(DROP_GRE_RESERVED, "drop-gre-reserved", FM_WARNING,                                         \
      "GRE routing, source route or recursion bits are set (RFC 2784 2.3).")                      \
    X(DROP_GRE_PROTOCOL, "drop-gre-protocol", FM_WARNING, "GRE payload is not IPv4.")             \
    X(DROP_GRE_CHECKSUM, "drop-gre-checksum", FM_WARNING, "GRE checksum is wrong.")               \
    X(DROP_MINIMAL_TRUNCATED, "drop-minimal-truncated", FM_WARNING,                               \
      "Minimal forwarding header is cut short.")                                                  \
    X(DROP_MINIMAL_CHECKSUM, "drop-minimal-checksum", FM_WARNING,                                 \
      "Minimal forwarding header checksum is wrong.")                                             \
    X(DROP_UDP_TRUNCATED, "drop-udp-truncated", FM_WARNING,                                       \
      "UDP datagram shorter than its headers or than its own length.")                            \
    X(DROP_UDP_CHECKSUM, "drop-udp-checksum", FM_WARNING, "UDP checksum is wrong.")               \
    X(DROP_NOT_TUNNEL, "drop-not-tunnel", FM_INFO, "Tunnel side, but no tunnel protocol.")        \
    X(DROP_OUTER_FRAGMENT, "drop-outer-fragment", FM_WARNING,                                     \
      "Fragment of a tunnel packet where the port does not reassemble.")                          \
    X(DROP_INNER_TRUNCATED, "drop-inner-truncated", FM_WARNING,                                   \
      "Inner packet shorter than an IPv4 header or than its own total length.")                   \
    X(DROP_INNER_NOT_IPV4, "drop-inner-not-ipv4", FM_WARNING, "Inner IP version is not 4.")       \
    X(DROP_INNER_HEADER, "drop-inner-header", FM_WARNING,                                         \
      "Inner header length below 20 or beyond the inner total length.")                           \
    X(DROP_INNER_CHECKSUM, "drop-inner-checksum", FM_WARNING,                                     \
      "Inner IPv4 header checksum is wrong.")                                                     \
    X(DROP_INNER_TTL, "drop-inner-ttl", FM_INFO, "Inner TTL is 0 after decapsulation.")           \
    X(DROP_MARTIAN, "drop-martian", FM_SECURITY,                                                  \
      "Source is no unicast host address (0/8, 127/8, multicast, reserved).")                     \
    X(DROP_ECN, "drop-ecn", FM_INFO,                                                              \
      "Congestion marked outside, not ECN-capable inside (RFC 6040 4.2).")                        \
    X(DROP_LOOP_OWN_SOURCE, "drop-loop-own-source", FM_WARNING,                                   \
      "Forwarded packet from one of our own addresses: a routing loop (RFC 2003 3.2).")           \
    X(DROP_LOOP_TUNNEL, "drop-loop-tunnel", FM_WARNING,                                           \
      "Packet from the far end of the tunnel it would enter: a loop (RFC 2003 3.2).")             \
    X(DROP_LOOP_INTERCEPTED, "drop-loop-intercepted", FM_WARNING,                                 \
      "Already tunnelled to the node from its care-of address (RFC 5944 4.2.3).")                 \
    X(DROP_LOOP_ENCAPSULATOR, "drop-loop-encapsulator", FM_WARNING,                               \
      "GRE payload addressed to its encapsulator: a loop (RFC 2784 3.1).")                        \
    X(DROP_NESTING, "drop-nesting", FM_WARNING, "More nested headers than allowed (10).")         \
    X(DROP_BUFFER, "drop-buffer", FM_WARNING, "No scratch buffer left for a copy or fragments.")  \
    X(ESP_DUMMY, "esp-dummy", FM_INFO, "ESP dummy packet (next header 59): nothing inside.")      \
    X(DROP_ESP_TRUNCATED, "drop-esp-truncated", FM_WARNING,                                       \
      "ESP packet shorter than its header, IV, trailer and tag.")                                 \
    X(DROP_ESP_SPI, "drop-esp-spi", FM_WARNING, "ESP with a reserved SPI, 0 to 255.")             \
    X(DROP_ESP_NO_SA, "drop-esp-no-sa", FM_WARNING, "ESP with an SPI that is nobody's.")          \
    X(DROP_ESP_ADDRESS, "drop-esp-address", FM_SECURITY,                                          \
      "ESP between other addresses or ports than those of its SA.")                               \
    X(DROP_ESP_LENGTH, "drop-esp-length", FM_WARNING,                                             \
      "ESP payload that is no whole number of its cipher's blocks.")                              \
    X(DROP_ESP_SEQUENCE_ZERO, "drop-esp-sequence-zero", FM_SECURITY,                              \
      "ESP with sequence number 0, which is never sent.")                                         \
    X(DROP_ESP_REPLAY, "drop-esp-replay", FM_SECURITY,                                            \
      "ESP sequence number taken before, or behind the window.")                                  \
    X(DROP_ESP_ICV, "drop-esp-icv", FM_SECURITY, "ESP tag is wrong.")                             \
    X(DROP_ESP_PADDING, "drop-esp-padding", FM_SECURITY,                                          \
      "ESP padding longer than the payload, or not 1, 2, 3 and so on.")                           \
    X(DROP_ESP_NEXT_HEADER, "drop-esp-next-header", FM_SECURITY,                                  \
      "ESP carried something that is no tunnel packet.")                                          \
    X(DROP_ESP_NESTED, "drop-esp-nested", FM_SECURITY, "ESP inside ESP, deeper than allowed.")    \
    X(DROP_ESP_SELECTOR, "drop-esp-selector", FM_SECURITY,                                        \
      "Addresses of the packet that came out of ESP do not belong to its SA.")                    \
    X(DROP_ESP_POLICY, "drop-esp-policy", FM_SECURITY,                                            \
      "Came out of ESP, but not out of its binding's.")                                           \
    X(DROP_ESP_REQUIRED, "drop-esp-required", FM_SECURITY,                                        \
      "Clear text from a binding that must use ESP.")                                             \
    X(DROP_ESP_NO_KEY, "drop-esp-no-key", FM_WARNING,                                             \
      "Binding must use ESP, and has no key to send with (yet).")                                 \
    X(DROP_ESP_LIFETIME, "drop-esp-lifetime", FM_WARNING,                                         \
      "ESP association at the end of its life: time, bytes or packets.")                          \
    X(DROP_ESP_SEQUENCE, "drop-esp-sequence", FM_WARNING,                                         \
      "ESP association without sequence numbers left to send: rekey, or the next block.")

#define FM_EVENTS(X)                                                                              \
    X(FRAGMENTS, "fragments-sent", FM_INFO, "Fragments made before encapsulation.")               \
    X(ECN_UNUSUAL, "ecn-unusual", FM_WARNING,                                                     \
      "Unused combination of inner and outer ECN (marked in RFC 6040 figure 4).")                 \
    X(ICMP_SUPPRESSED, "icmp-suppressed", FM_INFO, "ICMP error not sent: rate limit.")            \
    X(ICMP_FORBIDDEN, "icmp-forbidden", FM_INFO,                                                  \
      "ICMP error not sent: RFC 1122 3.2.2 forbids it for such a packet.")                        \
    X(MTU_LEARNT, "mtu-learnt", FM_INFO,                                                          \
      "A tunnel's MTU was lowered by ICMP or our own kernel.")                                    \
    X(UNREACHABLE_LEARNT, "unreachable-learnt", FM_WARNING,                                       \
      "A tunnel's far end was reported unreachable by ICMP or our own kernel.")

enum fm_verdict {
#define X(name, text, severity, sentence) FM_##name,
    FM_VERDICTS(X)
#undef X
        FM_VERDICT_COUNT
};

enum fm_event {
#define X(name, text, severity, sentence) FM_EVENT_##name,
    FM_EVENTS(X)
#undef X
        FM_EVENT_COUNT
};

struct fm_outcome {
    const char *name;
    const char *sentence;
    int severity;
};

#define X(name, text, severity, sentence) {text, sentence, severity},
static const struct fm_outcome fm_verdict_table[FM_VERDICT_COUNT] = {FM_VERDICTS(X)};
static const struct fm_outcome fm_event_table[FM_EVENT_COUNT] = {FM_EVENTS(X)};
#undef X

#endif
