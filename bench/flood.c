/* Load for the wire benchmarks: UDP packets that arrive at a device as if from a NIC.
 *
 *   flood DEVICE SOURCE FIRST ADDRESSES SIZE RATE SECONDS
 *
 * BPF_PROG_RUN with live frames hands packets to the stack of this namespace in bursts of 64,
 * the way a driver's poll does, at a cost per packet far below that of any socket. SIZE is the
 * IPv4 total length; destinations are FIRST + random below ADDRESSES; RATE in packets per
 * second, 0 for as fast as it goes. Prints "packets seconds cpu-seconds" when done.
 *
 * One call is expensive to set up, so there is one: the program itself keeps the rate by
 * dropping what comes too early, counts what it let pass, and a timer ends the call.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BURST 64
#define HEADERS 34
#define LIVE_FRAMES (1u << 1)

#define INSN(CODE, DST, SRC, OFF, IMM)                                                            \
    ((struct bpf_insn){.code = (CODE), .dst_reg = (DST), .src_reg = (SRC), .off = (OFF),          \
                       .imm = (int32_t)(IMM)})

#define CATCH_UP_NS 1000000 /* time lost to others is made up for if it was no longer */

struct pace {
    uint64_t next_ns, packets;
};

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static long bpf(int command, union bpf_attr *attr)
{
    return syscall(SYS_bpf, command, attr, sizeof *attr);
}

static uint16_t sum(const uint8_t *p, int len)
{
    uint32_t total = 0;
    for (int i = 0; i < len; i += 2) total += (uint32_t)(p[i] << 8 | p[i + 1]);
    while (total >> 16) total = (total & 0xffff) + (total >> 16);
    return (uint16_t)total;
}

static void build(uint8_t *f, const uint8_t *mac, uint32_t source_be, int size)
{
    uint8_t *ip = f + 14, *udp = ip + 20;
    memcpy(f, mac, 6);
    f[6] = 2; /* a locally administered source */
    f[12] = 8;
    ip[0] = 0x45;
    ip[2] = (uint8_t)(size >> 8);
    ip[3] = (uint8_t)size;
    ip[8] = 64;
    ip[9] = 17;
    memcpy(ip + 12, &source_be, 4);
    udp[1] = udp[3] = 9; /* discard */
    udp[4] = (uint8_t)((size - 20) >> 8);
    udp[5] = (uint8_t)(size - 20);
}

/* Frames are used again and again and forwarding has written to them: set every header byte,
 * with a random destination and the checksum that belongs to it. */
static int load(const uint8_t *frame, uint32_t first, uint32_t addresses, int map,
                double rate)
{
    struct bpf_insn code[80];
    int n = 0;
    uint32_t word;
    code[n++] = INSN(BPF_LDX | BPF_MEM | BPF_W, 7, 1, 0, 0); /* data */
    code[n++] = INSN(BPF_LDX | BPF_MEM | BPF_W, 3, 1, 4, 0); /* data_end */
    code[n++] = INSN(BPF_ALU64 | BPF_MOV | BPF_X, 2, 7, 0, 0);
    code[n++] = INSN(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, HEADERS);
    int check = n++;
    code[n++] = INSN(BPF_LD | BPF_DW | BPF_IMM, 9, BPF_PSEUDO_MAP_VALUE, 0, map);
    code[n++] = INSN(0, 0, 0, 0, 0);
    code[n++] = INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ktime_get_ns);
    code[n++] = INSN(BPF_LDX | BPF_MEM | BPF_DW, 1, 9, 0, 0); /* next_ns */
    int early = n++;
    code[n++] = INSN(BPF_ALU64 | BPF_ADD | BPF_K, 0, 0, 0, -CATCH_UP_NS);
    code[n++] = INSN(BPF_JMP | BPF_JGE | BPF_X, 1, 0, 1, 0);
    code[n++] = INSN(BPF_ALU64 | BPF_MOV | BPF_X, 1, 0, 0, 0);
    code[n++] = INSN(BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, rate > 0 ? 1e9 / rate : 0);
    code[n++] = INSN(BPF_STX | BPF_MEM | BPF_DW, 9, 1, 0, 0);
    code[n++] = INSN(BPF_LDX | BPF_MEM | BPF_DW, 1, 9, 8, 0); /* packets */
    code[n++] = INSN(BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, 1);
    code[n++] = INSN(BPF_STX | BPF_MEM | BPF_DW, 9, 1, 8, 0);
    for (int at = 0; at < HEADERS - 4; at += at == 12 ? 2 : 4) {
        memcpy(&word, frame + at, 4);
        if (at == 12) /* EtherType alone, so that IPv4 words follow */
            code[n++] = INSN(BPF_ST | BPF_MEM | BPF_H, 7, 0, at, word & 0xffff);
        else
            code[n++] = INSN(BPF_ST | BPF_MEM | BPF_W, 7, 0, at, word);
    }
    code[n++] = INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_prandom_u32);
    code[n++] = INSN(BPF_ALU | BPF_MOD | BPF_K, 0, 0, 0, addresses);
    code[n++] = INSN(BPF_ALU | BPF_ADD | BPF_K, 0, 0, 0, first);
    code[n++] = INSN(BPF_ALU | BPF_MOV | BPF_X, 1, 0, 0, 0);
    code[n++] = INSN(BPF_ALU | BPF_RSH | BPF_K, 1, 0, 0, 16);
    code[n++] = INSN(BPF_ALU | BPF_MOV | BPF_X, 2, 0, 0, 0);
    code[n++] = INSN(BPF_ALU | BPF_AND | BPF_K, 2, 0, 0, 0xffff);
    code[n++] = INSN(BPF_ALU | BPF_ADD | BPF_X, 1, 2, 0, 0);
    code[n++] = INSN(BPF_ALU | BPF_ADD | BPF_K, 1, 0, 0, sum(frame + 14, 20));
    for (int fold = 0; fold < 2; fold++) {
        code[n++] = INSN(BPF_ALU | BPF_MOV | BPF_X, 2, 1, 0, 0);
        code[n++] = INSN(BPF_ALU | BPF_RSH | BPF_K, 2, 0, 0, 16);
        code[n++] = INSN(BPF_ALU | BPF_AND | BPF_K, 1, 0, 0, 0xffff);
        code[n++] = INSN(BPF_ALU | BPF_ADD | BPF_X, 1, 2, 0, 0);
    }
    code[n++] = INSN(BPF_ALU | BPF_XOR | BPF_K, 1, 0, 0, 0xffff);
    code[n++] = INSN(BPF_ALU | BPF_END | BPF_TO_BE, 1, 0, 0, 16);
    code[n++] = INSN(BPF_ALU | BPF_END | BPF_TO_BE, 0, 0, 0, 32);
    code[n++] = INSN(BPF_STX | BPF_MEM | BPF_H, 7, 1, 24, 0);
    code[n++] = INSN(BPF_STX | BPF_MEM | BPF_W, 7, 0, 30, 0);
    code[n++] = INSN(BPF_ALU | BPF_MOV | BPF_K, 0, 0, 0, XDP_PASS);
    code[n++] = INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    code[check] = INSN(BPF_JMP | BPF_JGT | BPF_X, 2, 3, n - check - 1, 0);
    code[early] = INSN(BPF_JMP | BPF_JLT | BPF_X, 0, 1, n - early - 1, 0);
    code[n++] = INSN(BPF_ALU | BPF_MOV | BPF_K, 0, 0, 0, XDP_DROP);
    code[n++] = INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    static char log[1 << 16];
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_XDP,
                           .insn_cnt = (uint32_t)n,
                           .insns = (uint64_t)(uintptr_t)code,
                           .license = (uint64_t)(uintptr_t) "GPL",
                           .log_level = 1,
                           .log_size = sizeof log,
                           .log_buf = (uint64_t)(uintptr_t)log};
    int fd = (int)bpf(BPF_PROG_LOAD, &attr);
    if (fd < 0) fprintf(stderr, "BPF_PROG_LOAD: %s\n%s\n", strerror(errno), log);
    return fd;
}

static int device_mac(const char *name, uint8_t *mac)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    int failed = ioctl(fd, SIOCGIFHWADDR, &request);
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    close(fd);
    return failed;
}

static void on_alarm(int number) { (void)number; }

int main(int argc, char **argv)
{
    static uint8_t frame[1600];
    uint8_t mac[6];
    if (argc != 8) {
        fprintf(stderr, "usage: flood DEVICE SOURCE FIRST ADDRESSES SIZE RATE SECONDS\n");
        return 2;
    }
    int size = atoi(argv[5]);
    double rate = atof(argv[6]), seconds = atof(argv[7]);
    uint32_t addresses = (uint32_t)atol(argv[4]);
    if (size < 28 || size > 1500 || !addresses || device_mac(argv[1], mac)) {
        perror(argv[1]);
        return 2;
    }
    build(frame, mac, inet_addr(argv[2]), size);
    union bpf_attr make = {.map_type = BPF_MAP_TYPE_ARRAY,
                           .key_size = 4,
                           .value_size = sizeof(struct pace),
                           .max_entries = 1};
    int map = (int)bpf(BPF_MAP_CREATE, &make);
    int program = map < 0 ? -1 : load(frame, ntohl(inet_addr(argv[3])), addresses, map, rate);
    if (program < 0) return 1;
    struct xdp_md context = {.data_end = (uint32_t)size + 14,
                             .ingress_ifindex = if_nametoindex(argv[1])};
    union bpf_attr attr = {0};
    attr.test.prog_fd = (uint32_t)program;
    attr.test.data_in = (uint64_t)(uintptr_t)frame;
    attr.test.data_size_in = (uint32_t)size + 14;
    attr.test.ctx_in = (uint64_t)(uintptr_t)&context;
    attr.test.ctx_size_in = sizeof context;
    attr.test.flags = LIVE_FRAMES;
    attr.test.batch_size = BURST;
    attr.test.repeat = INT32_MAX;

    struct itimerval timer = {.it_value = {(time_t)seconds,
                                           (suseconds_t)((seconds - (time_t)seconds) * 1e6)}};
    signal(SIGALRM, on_alarm);
    double start = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID);
    setitimer(ITIMER_REAL, &timer, NULL);
    if (bpf(BPF_PROG_TEST_RUN, &attr) && errno != EINTR) {
        perror("BPF_PROG_RUN");
        return 1;
    }
    double end = now(CLOCK_MONOTONIC);
    used = now(CLOCK_PROCESS_CPUTIME_ID) - used;
    uint32_t key = 0;
    struct pace pace = {0};
    union bpf_attr look = {.map_fd = (uint32_t)map,
                           .key = (uint64_t)(uintptr_t)&key,
                           .value = (uint64_t)(uintptr_t)&pace};
    if (bpf(BPF_MAP_LOOKUP_ELEM, &look)) return 1;
    printf("%llu %.6f %.6f\n", (unsigned long long)pace.packets, end - start, used);
    return 0;
}
