/* UDP tunnels (RFC 3519): IPv4, UDP, a four-octet Mobile IP header of type 4, and then what
 * would follow the outer header of IP in IP, GRE or minimal encapsulation.
 *
 * RFC 3519 leaves the UDP checksum to RFC 768. Ours is 0, "none": every header inside has a sum
 * of its own and so has the payload. Received ones are verified unless they are 0.
 */
#ifndef FASTMIP_UDP_TUNNEL_H
#define FASTMIP_UDP_TUNNEL_H

#include "ipv4.h"

#define PROTO_UDP 17
#define UDP_HEADER_LEN 8u
#define UDP_SHIM_LEN 12u /* UDP and Mobile IP header */
#define MIP_TUNNEL_DATA 4
#define UDP_PORT_UNKNOWN 0xffffu /* remote port of a half bound tunnel (RFC 3519 4.11) */

/* Ports in the order of a packet to us, as they lie in memory: source (theirs), destination. */
FM_INLINE uint32_t udp_ports_to_us(uint16_t remote_port, uint16_t local_port)
{
    return swap16(remote_port) | (uint32_t)swap16(local_port) << 16;
}

FM_INLINE uint32_t udp_ports_swapped(uint32_t ports) { return ports << 16 | ports >> 16; }

/* Write both headers at p; `carried` octets follow them. */
FM_INLINE void udp_tunnel_write(uint8_t *p, uint32_t ports_to_us, uint32_t carried, uint8_t next)
{
    uint32_t len = swap16((uint16_t)(carried + UDP_SHIM_LEN));
    store64(p, udp_ports_swapped(ports_to_us) | (uint64_t)len << 32);
    store32(p + UDP_HEADER_LEN, MIP_TUNNEL_DATA | (uint32_t)next << 8);
}

/* Check a UDP packet with its IPv4 header of `header` octets; *end becomes that of the datagram. */
FM_FN int udp_tunnel_check(const uint8_t *p, uint32_t header, uint32_t *end)
{
    const uint8_t *udp = p + header;
    uint32_t room = *end - header;
    if (room < UDP_SHIM_LEN)
        return FM_DROP_UDP_TRUNCATED;
    uint32_t len = get16(udp + 4);
    if (len < UDP_SHIM_LEN || len > room)
        return FM_DROP_UDP_TRUNCATED;
    if (load16(udp + 6) != 0) {
        uint64_t sum = (uint64_t)ipv4_source_be(p) + ipv4_destination_be(p) +
                       swap16((uint16_t)len) + swap16(PROTO_UDP);
        if (sum_fold(sum + sum_octets(udp, len)) != 0xffff)
            return FM_DROP_UDP_CHECKSUM;
    }
    if (udp[UDP_HEADER_LEN] != MIP_TUNNEL_DATA)
        return FM_DROP_NOT_TUNNEL;
    *end = header + len;
    return FM_NONE;
}

#endif
