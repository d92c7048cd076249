/* Super-frames and partial checksums: what a kernel leaves to whoever asked for offloads.
 *
 * A packet read from a TUN device opened with IFF_VNET_HDR is preceded by a virtio_net_hdr
 * (linux/virtio_net.h). It may be a super-frame: one TCP segment or UDP datagram of up to 64 kB
 * that must leave as packets of at most gso_size payload bytes, as a NIC would cut it
 * (TSO, USO). Its checksum, and that of any packet marked NEEDS_CSUM, covers only the
 * pseudo-header so far.
 *
 *   vnet_complete(h, data, len)        finishes the checksum of a packet that is whole
 *   super_frame_open(f, h, data, len)  checks a super-frame once
 *   super_frame_next(f, room)          writes the next packet to `room`, returns its length
 *
 * The same splitter serves tunnel packets: GRO of a NIC merges TCP inside IP-in-IP and GRE before
 * a raw socket sees it, without telling it. The mark it leaves is the partial checksum:
 * transport_partial() finds it, super_frame_adopt() takes such a packet up with the outer headers
 * as a prefix repeated on each part.
 *
 * Pure functions on bytes: no I/O, no Python, nothing allocated. Lengths are checked here even
 * though the kernel is trusted: a bug in either must not read past a frame.
 */
#ifndef FASTMIP_VNET_H
#define FASTMIP_VNET_H

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

/* linux/virtio_net.h, repeated because UDP_L4 is younger than Debian 12's headers. */
enum { VNET_NEEDS_CSUM = 1, VNET_DATA_VALID = 2 };
enum {
    VNET_GSO_NONE = 0,
    VNET_GSO_TCPV4 = 1,
    VNET_GSO_UDP_L4 = 5,
    VNET_GSO_ECN = 0x80
};

/* Native byte order: what TUN uses unless told otherwise. */
struct vnet_hdr {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
};
#define VNET_HDR_LEN 10

enum { VNET_IP_TOTAL = 2, VNET_IP_ID = 4, VNET_IP_FRAGMENT = 6, VNET_IP_PROTOCOL = 9,
       VNET_IP_CHECKSUM = 10, VNET_IP_SOURCE = 12, VNET_IP_DESTINATION = 16 };
enum { VNET_TCP_SEQ = 4, VNET_TCP_OFFSET = 12, VNET_TCP_FLAGS = 13, VNET_TCP_CHECKSUM = 16,
       VNET_TCP_MIN = 20 };
enum { VNET_UDP_LENGTH = 4, VNET_UDP_CHECKSUM = 6, VNET_UDP_LEN = 8 };
enum { VNET_FIN = 0x01, VNET_PSH = 0x08, VNET_CWR = 0x80 };
enum { VNET_PROTO_IPIP = 4, VNET_PROTO_TCP = 6, VNET_PROTO_UDP = 17, VNET_PROTO_GRE = 47 };
enum { VNET_GRE_CHECKSUM = 0x80, VNET_GRE_KEY = 0x20, VNET_GRE_SEQUENCE = 0x10 };

static inline uint16_t vnet_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline void vnet_put16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static inline uint32_t vnet_get32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, 4);
    return ntohl(value);
}

static inline void vnet_put32(uint8_t *p, uint32_t value)
{
    value = htonl(value);
    memcpy(p, &value, 4);
}

/* RFC 1071 sum of `len` bytes in memory order, not folded. 32-bit words into 64-bit sums
 * cannot overflow below 2^34 bytes and are what the compiler vectorises. */
static inline uint64_t vnet_sum(const uint8_t *p, uint32_t len)
{
    uint64_t a = 0, b = 0, c = 0, d = 0;
    uint32_t w[4];
    for (; len >= 16; p += 16, len -= 16) {
        memcpy(w, p, 16);
        a += w[0];
        b += w[1];
        c += w[2];
        d += w[3];
    }
    a += b + c + d;
    for (; len >= 4; p += 4, len -= 4) {
        memcpy(w, p, 4);
        a += w[0];
    }
    if (len) { /* the missing bytes count as zero */
        w[0] = 0;
        memcpy(w, p, len);
        a += w[0];
    }
    return a;
}

static inline uint16_t vnet_fold(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* Sums are kept in memory order: store and load without swapping. */
static inline void vnet_store(uint8_t *p, uint16_t checksum)
{
    memcpy(p, &checksum, 2);
}

static inline uint64_t vnet_pseudo(const uint8_t *ip, uint8_t protocol, uint32_t length)
{
    return vnet_sum(ip + VNET_IP_SOURCE, 8) + htons(protocol) + htons((uint16_t)length);
}

/* Checksum of a transport header and all after it; the checksum field must be zero. */
static inline uint16_t vnet_transport(const uint8_t *ip, uint32_t ip_len, uint8_t protocol,
                                      uint32_t length)
{
    return (uint16_t)~vnet_fold(vnet_pseudo(ip, protocol, length) + vnet_sum(ip + ip_len, length));
}

static inline void vnet_ip_checksum(uint8_t *ip, uint32_t ip_len)
{
    vnet_store(ip + VNET_IP_CHECKSUM, 0);
    vnet_store(ip + VNET_IP_CHECKSUM, (uint16_t)~vnet_fold(vnet_sum(ip, ip_len)));
}

/* Finish a checksum that covers the pseudo-header only. 0, or -1 if the offsets lie outside. */
static inline int vnet_complete(const struct vnet_hdr *h, uint8_t *data, uint32_t len)
{
    uint32_t at = (uint32_t)h->csum_start + h->csum_offset;
    if (!(h->flags & VNET_NEEDS_CSUM)) return 0;
    if (h->csum_start >= len || at + 2 > len) return -1;
    uint16_t sum = (uint16_t)~vnet_fold(vnet_sum(data + h->csum_start, len - h->csum_start));
    /* Zero would say "no checksum" in UDP; the two are the same number in one's complement. */
    vnet_store(data + at, sum ? sum : 0xffff);
    return 0;
}

struct super_frame {
    const uint8_t *data; /* outer headers if prefix > 0, else the IPv4 header */
    uint32_t len;
    uint32_t at;         /* first payload byte not yet sent; len when done */
    uint32_t headers;    /* prefix + IPv4 header + transport header */
    uint32_t prefix;     /* bytes of outer headers repeated on each packet */
    uint32_t ip_len;
    uint32_t gso_size;
    uint32_t index;      /* packets written so far */
    uint8_t protocol;
    uint8_t bare;        /* UDP without checksum stays so */
};

static inline int super_frame_pending(const struct super_frame *f)
{
    return f->at < f->len;
}

/* Check headers of a super-frame at data + prefix; 0 when it can be split, else -1. */
static inline int super_frame_adopt(struct super_frame *f, uint8_t protocol, const uint8_t *data,
                                    uint32_t len, uint32_t prefix, uint32_t gso_size)
{
    const uint8_t *ip = data + prefix;
    f->at = f->len = 0;
    if (len < prefix + 20 || ip[0] >> 4 != 4 || gso_size == 0) return -1;
    uint32_t ip_len = (uint32_t)(ip[0] & 15) * 4;
    if (ip_len < 20 || ip[VNET_IP_PROTOCOL] != protocol) return -1;
    if (vnet_get16(ip + VNET_IP_FRAGMENT) & 0x3fff) return -1;
    uint32_t transport = prefix + ip_len;
    uint32_t headers = transport + VNET_UDP_LEN;
    if (protocol == VNET_PROTO_TCP) {
        if (len < transport + VNET_TCP_MIN) return -1;
        uint32_t tcp_len = (uint32_t)(data[transport + VNET_TCP_OFFSET] >> 4) * 4;
        if (tcp_len < VNET_TCP_MIN) return -1;
        headers = transport + tcp_len;
    } else if (protocol != VNET_PROTO_UDP) {
        return -1;
    }
    if (len <= headers || headers + gso_size - prefix > 65535) return -1;
    f->data = data;
    f->len = len;
    f->at = headers;
    f->headers = headers;
    f->prefix = prefix;
    f->ip_len = ip_len;
    f->gso_size = gso_size;
    f->index = 0;
    f->protocol = protocol;
    f->bare = protocol == VNET_PROTO_UDP && vnet_get16(data + transport + VNET_UDP_CHECKSUM) == 0;
    return 0;
}

static inline int super_frame_open(struct super_frame *f, const struct vnet_hdr *h,
                                   const uint8_t *data, uint32_t len)
{
    uint8_t type = (uint8_t)(h->gso_type & ~VNET_GSO_ECN);
    uint8_t protocol = type == VNET_GSO_TCPV4 ? VNET_PROTO_TCP
                     : type == VNET_GSO_UDP_L4 ? VNET_PROTO_UDP : 0;
    if (super_frame_adopt(f, protocol, data, len, 0, h->gso_size)) return -1;
    /* NEEDS_CSUM: a zero that is the sum of the pseudo-header is no "no checksum". */
    if (h->flags & VNET_NEEDS_CSUM) f->bare = 0;
    return 0;
}

/* Length of the next packet, without writing it; 0 when done. */
static inline uint32_t super_frame_peek(const struct super_frame *f)
{
    uint32_t left = f->len - f->at;
    if (!left) return 0;
    return f->headers + (left < f->gso_size ? left : f->gso_size);
}

static inline void super_frame_tcp(const struct super_frame *f, uint8_t *ip, uint32_t payload_at,
                                   int last, uint32_t length)
{
    uint8_t *tcp = ip + f->ip_len;
    vnet_put32(tcp + VNET_TCP_SEQ, vnet_get32(tcp + VNET_TCP_SEQ) + payload_at);
    /* Once per super-frame: CWR at its start (RFC 3168 6.1.2), FIN and PSH at its end. */
    if (f->index) tcp[VNET_TCP_FLAGS] &= (uint8_t)~VNET_CWR;
    if (!last) tcp[VNET_TCP_FLAGS] &= (uint8_t) ~(VNET_FIN | VNET_PSH);
    vnet_store(tcp + VNET_TCP_CHECKSUM, 0);
    vnet_store(tcp + VNET_TCP_CHECKSUM, vnet_transport(ip, f->ip_len, VNET_PROTO_TCP, length));
}

static inline void super_frame_udp(const struct super_frame *f, uint8_t *ip, uint32_t length)
{
    uint8_t *udp = ip + f->ip_len;
    vnet_put16(udp + VNET_UDP_LENGTH, length);
    vnet_store(udp + VNET_UDP_CHECKSUM, 0);
    if (f->bare) return;
    uint16_t sum = vnet_transport(ip, f->ip_len, VNET_PROTO_UDP, length);
    vnet_store(udp + VNET_UDP_CHECKSUM, sum ? sum : 0xffff);
}

/* Finish outer headers around an inner packet that is whole. */
static inline void super_frame_outer(const struct super_frame *f, uint8_t *room, uint32_t size)
{
    uint32_t ip_len = (uint32_t)(room[0] & 15) * 4;
    uint8_t *gre = room + ip_len;
    vnet_put16(room + VNET_IP_TOTAL, size);
    vnet_ip_checksum(room, ip_len);
    if (f->prefix == ip_len || !(gre[0] & VNET_GRE_CHECKSUM)) return;
    vnet_store(gre + 4, 0); /* covers the inner packet, too (RFC 2784 2.3) */
    vnet_store(gre + 4, (uint16_t)~vnet_fold(vnet_sum(gre, size - ip_len)));
}

/* Write the next packet to `room`, which holds super_frame_peek() bytes; its length, 0 if done. */
static inline uint32_t super_frame_next(struct super_frame *f, uint8_t *room)
{
    uint32_t size = super_frame_peek(f);
    if (!size) return 0;
    uint32_t payload = size - f->headers;
    uint32_t inner = size - f->prefix;
    uint8_t *ip = room + f->prefix;
    memcpy(room, f->data, f->headers);
    memcpy(room + f->headers, f->data + f->at, payload);
    vnet_put16(ip + VNET_IP_TOTAL, inner);
    vnet_put16(ip + VNET_IP_ID, vnet_get16(ip + VNET_IP_ID) + f->index);
    vnet_ip_checksum(ip, f->ip_len);
    if (f->protocol == VNET_PROTO_TCP)
        super_frame_tcp(f, ip, f->at - f->headers, f->at + payload == f->len, inner - f->ip_len);
    else
        super_frame_udp(f, ip, inner - f->ip_len);
    if (f->prefix) super_frame_outer(f, room, size);
    f->at += payload;
    f->index++;
    return size;
}

/* Offset of the checksum field from the IPv4 header at `ip` if the TCP or UDP packet there still
 * has the bare pseudo-header sum in it, else 0. `len` bytes are present. A packet whose full
 * checksum holds is never reported, so completing what is reported cannot spoil a good one. */
static inline uint32_t transport_partial(const uint8_t *ip, uint32_t len)
{
    if (len < 20 || ip[0] >> 4 != 4) return 0;
    uint32_t ip_len = (uint32_t)(ip[0] & 15) * 4;
    uint32_t total = vnet_get16(ip + VNET_IP_TOTAL);
    if (ip_len < 20 || total > len || vnet_get16(ip + VNET_IP_FRAGMENT) & 0x3fff) return 0;
    uint8_t protocol = ip[VNET_IP_PROTOCOL];
    uint32_t field;
    if (protocol == VNET_PROTO_TCP && total >= ip_len + VNET_TCP_MIN)
        field = ip_len + VNET_TCP_CHECKSUM;
    else if (protocol == VNET_PROTO_UDP && total >= ip_len + VNET_UDP_LEN)
        field = ip_len + VNET_UDP_CHECKSUM;
    else
        return 0;
    uint16_t found;
    memcpy(&found, ip + field, 2);
    uint64_t pseudo = vnet_pseudo(ip, protocol, total - ip_len);
    if (found != vnet_fold(pseudo)) return 0;
    return vnet_fold(pseudo + vnet_sum(ip + ip_len, total - ip_len)) == 0xffff ? 0 : field;
}

/* Octets of outer headers in front of the IPv4 packet inside an IP-in-IP or GRE packet; 0 if
 * there is none. `len` bytes are present, those of the inner packet not yet looked at. */
static inline uint32_t tunnel_prefix(const uint8_t *data, uint32_t len)
{
    if (len < 20) return 0;
    uint32_t prefix = (uint32_t)(data[0] & 15) * 4;
    if (data[VNET_IP_PROTOCOL] == VNET_PROTO_GRE) {
        if (len < prefix + 4 || vnet_get16(data + prefix + 2) != 0x0800) return 0;
        uint8_t flags = data[prefix];
        prefix += 4 + (flags & VNET_GRE_CHECKSUM ? 4 : 0) + (flags & VNET_GRE_KEY ? 4 : 0) +
                  (flags & VNET_GRE_SEQUENCE ? 4 : 0);
    } else if (data[VNET_IP_PROTOCOL] != VNET_PROTO_IPIP) {
        return 0;
    }
    return len < prefix + 20 ? 0 : prefix;
}

/* A GRE checksum that the sender's kernel left to its NIC, and nobody made (a guest or container
 * on this machine): zero is all that tells it. True if it was made here. One that holds is left
 * alone, zero or not. */
static inline int gre_complete(uint8_t *data, uint32_t len)
{
    uint32_t ip_len = (uint32_t)(data[0] & 15) * 4, total = vnet_get16(data + VNET_IP_TOTAL);
    uint8_t *gre = data + ip_len;
    if (data[VNET_IP_PROTOCOL] != VNET_PROTO_GRE || total > len || total < ip_len + 8) return 0;
    if (!(gre[0] & VNET_GRE_CHECKSUM) || gre[4] || gre[5]) return 0;
    uint16_t sum = vnet_fold(vnet_sum(gre, total - ip_len));
    if (sum == 0xffff) return 0;
    vnet_store(gre + 4, (uint16_t)~sum);
    return 1;
}

#endif
