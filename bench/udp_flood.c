/* Load for the wire benchmarks: UDP packets from an AF_PACKET socket at a given rate.
 *
 *   udp_flood DEVICE DESTINATION-MAC SOURCE-ADDRESS FIRST-ADDRESS ADDRESSES SIZE RATE SECONDS
 *
 * SIZE is the IPv4 total length. Destinations are FIRST-ADDRESS + random below ADDRESSES.
 * RATE in packets per second, 0 for as fast as it goes. Prints "packets seconds" when done.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BURST 64
#define MAX_FRAME 1600

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint16_t checksum(const uint8_t *p, int len)
{
    uint32_t sum = 0;
    for (int i = 0; i < len; i += 2) sum += (uint32_t)(p[i] << 8 | p[i + 1]);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void build(uint8_t *f, const uint8_t *mac, uint32_t source, int size)
{
    uint8_t *ip = f + 14, *udp = ip + 20;
    memset(f, 0, MAX_FRAME);
    memcpy(f, mac, 6);
    f[6] = 2; /* locally administered source */
    f[12] = 8;
    ip[0] = 0x45;
    ip[2] = (uint8_t)(size >> 8);
    ip[3] = (uint8_t)size;
    ip[8] = 64;
    ip[9] = 17;
    memcpy(ip + 12, &source, 4);
    udp[1] = 9, udp[3] = 9; /* discard */
    udp[4] = (uint8_t)((size - 20) >> 8);
    udp[5] = (uint8_t)(size - 20);
}

static void aim(uint8_t *f, uint32_t destination_be)
{
    uint8_t *ip = f + 14;
    memcpy(ip + 16, &destination_be, 4);
    ip[10] = ip[11] = 0;
    uint16_t sum = checksum(ip, 20);
    ip[10] = (uint8_t)(sum >> 8);
    ip[11] = (uint8_t)sum;
}

int main(int argc, char **argv)
{
    static uint8_t frames[BURST][MAX_FRAME];
    static struct mmsghdr messages[BURST];
    static struct iovec iov[BURST];
    if (argc != 9) {
        fprintf(stderr, "usage: see the head of udp_flood.c\n");
        return 2;
    }
    uint8_t mac[6];
    unsigned m[6];
    if (sscanf(argv[2], "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6) return 2;
    for (int i = 0; i < 6; i++) mac[i] = (uint8_t)m[i];
    uint32_t source = inet_addr(argv[3]), first = ntohl(inet_addr(argv[4]));
    uint32_t addresses = (uint32_t)atol(argv[5]);
    int size = atoi(argv[6]);
    double rate = atof(argv[7]), seconds = atof(argv[8]);
    if (size < 28 || size > 1500 || !addresses) return 2;

    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll to = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(ETH_P_IP),
                             .sll_ifindex = (int)if_nametoindex(argv[1])};
    if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof to)) {
        perror(argv[1]);
        return 1;
    }
    for (int i = 0; i < BURST; i++) {
        build(frames[i], mac, source, size);
        iov[i] = (struct iovec){frames[i], (size_t)size + 14};
        messages[i].msg_hdr.msg_iov = &iov[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    uint64_t sent = 0, random = 88172645463325252u;
    double start = now(), t = start;
    while ((t = now()) - start < seconds) {
        uint64_t due = rate > 0 ? (uint64_t)((t - start) * rate) : sent + BURST;
        unsigned burst = due > sent ? (due - sent < BURST ? (unsigned)(due - sent) : BURST) : 0;
        for (unsigned i = 0; i < burst; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            aim(frames[i], htonl(first + (uint32_t)(random >> 33) % addresses));
        }
        int done = burst ? sendmmsg(fd, messages, burst, 0) : 0;
        if (done > 0) sent += (uint64_t)done;
        else if (done < 0 && errno != ENOBUFS && errno != EAGAIN) {
            perror("sendmmsg");
            return 1;
        }
    }
    printf("%llu %.6f\n", (unsigned long long)sent, now() - start);
    return 0;
}
