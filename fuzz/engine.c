/* Invariant: any bytes as packets of any side end in exactly one verdict each, nothing is read
 * or written outside their frames, and what leaves is a well-formed IPv4 packet.
 *
 * libFuzzer:   clang -O1 -g -fsanitize=fuzzer,address,undefined -Isrc/fastmip/engine fuzz/engine.c
 * standalone:  gcc -O1 -g -fsanitize=address,undefined -DFUZZ_STANDALONE -Isrc/fastmip/engine ...
 *              then ./engine SECONDS [SEED]: mutates built-in packets, deterministic by seed.
 */
#include <stdio.h>
#include <stdlib.h>

#include "broadcast.h"
#include "pcap.h"
#include "replay.h"

#define NODE 0x0a010005u
#define OTHER_NODE 0x0a010006u
#define CARE_OF 0x0a030114u
#define OTHER_CARE_OF 0x0a030214u
#define HOME_AGENT 0x0a010001u
#define CORRESPONDENT 0x0a090007u
#define NODES 0x0a010100u

#define ROLES 3
#define PORT 4434
#define KEY 7

static struct fm_control engines[ROLES];
static struct fm_out out;

#define CLAIM(what)                                                                               \
    do {                                                                                          \
        if (!(what)) {                                                                            \
            fprintf(stderr, "violated: %s (line %d)\n", #what, __LINE__);                         \
            abort();                                                                              \
        }                                                                                         \
    } while (0)

/* `kind` of the first line and the next ones in the chain: every encapsulation, with and without
 * key and UDP; the last is half bound. */
#define KINDS 9

static void set_kind(struct fm_record *r, uint32_t kind)
{
    static const uint8_t encapsulations[KINDS] = {4, 47, 47, 55, 4, 47, 47, 55, 4};
    r->encapsulation = encapsulations[kind];
    if (kind == 2 || kind == 6) {
        r->flags |= FM_RECORD_GRE_KEY;
        r->gre_key = KEY;
    }
    if (kind >= 4) {
        r->remote_port = kind == 8 ? UDP_PORT_UNKNOWN : PORT;
        r->local_port = 434;
    }
}

static void bind_node(struct fm_control *c, uint32_t home, uint32_t remote, uint32_t local,
                      uint16_t mtu, uint32_t count, uint32_t kind, uint8_t flags)
{
    struct fm_record chain[FM_MAX_COPIES];
    memset(chain, 0, sizeof chain);
    for (uint32_t i = 0; i < count; i++) {
        chain[i].home = home;
        chain[i].remote = remote + i;
        chain[i].local = local;
        chain[i].mtu = mtu;
        chain[i].flags = flags;
        set_kind(&chain[i], (kind + i) % KINDS);
        chain[i].expires = ~(uint64_t)0;
    }
    control_publish(c, (uint32_t)control_prepare(c, chain, count, 0));
}

static void set_up(void)
{
    const uint64_t seed[6] = {1, 0x9e3779b97f4a7c15u, 3, 4, 0xc2b2ae3d27d4eb4fu, 6};
    const uint8_t back = FM_RECORD_REVERSE;
    for (int role = 0; role < ROLES; role++) {
        struct fm_control *c = &engines[role];
        CLAIM(control_create(c, 64, role, 1, seed, 1000000, 1000000) == 0);
        c->e.local_be[0] = swap32(role ? CARE_OF : HOME_AGENT);
        c->e.local_count = 1;
    }
    /* One node for each encapsulation: NODES + kind; the first two have names. */
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        uint32_t node = kind < 2 ? NODE + kind : NODES + kind;
        bind_node(&engines[0], node, CARE_OF + kind, HOME_AGENT, kind & 1 ? 576 : 1500,
                  kind & 1 ? 3 : 1, kind, back | FM_RECORD_BROADCAST | (kind & 2 ? 8 : 0));
        bind_node(&engines[1], node, HOME_AGENT, CARE_OF, 68, 1, kind, back);
        bind_node(&engines[2], node, HOME_AGENT, CARE_OF, 1500, 1, kind,
                  kind & 1 ? back | FM_RECORD_NESTED : back);
    }
    engines[0].e.prefixes.routers[1].home = swap32(NODE);
    control_lead(&engines[0], 1, control_head(&engines[0], swap32(NODE)));
    CLAIM(prefixes_apply(&engines[0].e.prefixes, 0x0a020800, 25, 0, 1, 25) == 0);
    prefixes_note(&engines[0].e.prefixes, 0x0a020800, 25, 0);
}

static void judge(const struct fm_desc *d, int done)
{
    CLAIM(d->verdict != FM_NONE);
    if (!(done & FM_DONE_CHECKSUM))
        CLAIM(ipv4_check(d->data, d->len, 0) == FM_NONE);
    CLAIM(ipv4_total(d->data) == d->len || d->verdict == FM_RETURNED_NO_BINDING);
}

static void balance(const struct fm_worker *w)
{
    uint64_t verdicts = 0;
    for (int i = 0; i < FM_VERDICT_COUNT; i++)
        verdicts += w->verdicts[i].packets;
    CLAIM(w->verdicts[FM_NONE].packets == 0);
    CLAIM(w->inputs + w->generated + w->copies == verdicts);
}

static void run_broadcast(struct fm_control *c, struct fm_worker *w, const uint8_t *packet,
                          uint32_t len)
{
    if (ipv4_check(packet, len, 0) != FM_NONE || ipv4_total(packet) > FM_BROADCAST_PACKET_MAX)
        return;
    broadcast_start(w, 1000000000000u);
    for (uint32_t kind = 0; kind < KINDS; kind++)
        (void)broadcast_to(c, w, swap32(kind < 2 ? NODE + kind : NODES + kind), packet,
                           ipv4_total(packet), &out);
    for (uint32_t i = 0; i < out.count[FM_TUNNEL]; i++)
        judge(out.packets[FM_TUNNEL][i], 0);
    out.count[FM_HOME] = out.count[FM_TUNNEL] = 0;
}

/* First octet: side, done bits, loops; second: role, packets per batch; third on: packets, each
 * of equal share. */
static void run_packets(const uint8_t *data, size_t size)
{
    if (size < 3)
        return;
    int side = data[0] & 1, done = data[0] >> 2 & 15;
    struct fm_control *c = &engines[data[1] % ROLES];
    uint32_t n = data[1] / ROLES % 4 + 1;
    fm_choose_loops(&c->e, &c->find, data[0] >> 6 & 1);
    struct fm_desc batch[4];
    uint8_t *frames[4];
    memset(batch, 0, sizeof batch);
    data += 2;
    size -= 2;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len = (uint32_t)(size / n);
        /* The frame ends with the packet: a read past it is a read past the allocation. */
        frames[i] = (uint8_t *)malloc(FM_HEADROOM_MIN + len);
        CLAIM(frames[i]);
        batch[i].data = frames[i] + FM_HEADROOM_MIN;
        batch[i].len = len;
        batch[i].done = (uint8_t)done;
        batch[i].side = (uint8_t)side;
        memcpy(batch[i].data, data + i * len, len);
    }
    struct fm_worker *w = c->e.workers[0];
    fm_run_batch(w, batch, n, side, 1000000000000u, &out);
    for (uint32_t i = 0; i < n; i++)
        CLAIM(batch[i].verdict != FM_NONE);
    for (int to = 0; to < FM_SIDES; to++) {
        CLAIM(out.count[to] <= FM_OUT_MAX);
        for (uint32_t i = 0; i < out.count[to]; i++)
            judge(out.packets[to][i], done);
        out.count[to] = 0;
    }
    if (c == &engines[0])
        run_broadcast(c, w, data, (uint32_t)(size / n));
    balance(w);
    fm_worker_offline(w);
    struct fm_half_bound told;
    while (half_bound_take(w, &told))
        CLAIM(told.port != 0 || told.source != 0);
    for (uint32_t i = 0; i < n; i++)
        free(frames[i]);
}

static void run_pcap(const uint8_t *data, size_t size)
{
    struct pcap_reader reader;
    struct pcap_packet packet;
    uint8_t *copy = (uint8_t *)malloc(size ? size : 1);
    memcpy(copy, data, size);
    if (pcap_open(&reader, copy, size) == 0)
        while (pcap_next(&reader, &packet))
            CLAIM(packet.data >= copy && packet.data + packet.len <= copy + size);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_ready;
    if (!is_ready) {
        set_up();
        is_ready = 1;
    }
    if (size && data[0] == 0xff)
        run_pcap(data + 1, size - 1);
    else
        run_packets(data, size);
    return 0;
}

#ifdef FUZZ_STANDALONE
static uint64_t state;

static uint32_t dice(uint32_t sides)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 32) % sides);
}

static uint32_t any_address(void)
{
    static const uint32_t known[] = {NODE,       OTHER_NODE,    CARE_OF,    OTHER_CARE_OF,
                                     HOME_AGENT, CORRESPONDENT, 0x0a020801, 0xe0000001};
    uint32_t kind = dice(KINDS);
    switch (dice(4)) {
    case 0: return NODES + kind;
    case 1: return CARE_OF + kind;
    default: return known[dice(8)];
    }
}

/* GRE, minimal and UDP headers in front of the octets at p; their length. */
static uint32_t plausible_shim(uint8_t *p, uint32_t room, uint8_t *protocol)
{
    uint32_t len = 0;
    if (room < 64)
        return 0;
    if (*protocol == PROTO_UDP) {
        put16(p, (uint16_t)(dice(8) ? PORT : dice(65536)));
        put16(p + 2, 434);
        put16(p + 6, 0); /* the length comes later */
        p[8] = dice(8) ? 4 : (uint8_t)dice(256);
        *protocol = (uint8_t)(dice(3) == 0 ? 4 : dice(2) ? 47 : 55);
        p[9] = *protocol;
        put16(p + 10, 0);
        len = UDP_SHIM_LEN;
    }
    if (*protocol == PROTO_GRE) {
        static const uint16_t flags[] = {0, 0, 0x2000, 0x2000, 0x1000, 0x3000, 0x8000, 0xb000};
        uint16_t chosen = flags[dice(8)];
        put16(p + len, dice(16) ? chosen : (uint16_t)dice(65536));
        put16(p + len + 2, 0x0800);
        len += 4;
        if (chosen & GRE_CHECKSUM) {
            memset(p + len, 0, 4);
            len += 4;
        }
        if (chosen & GRE_KEY) {
            put32(p + len, KEY);
            len += 4;
        }
        if (chosen & GRE_SEQUENCE) {
            put32(p + len, dice(5) ? dice(100) : 0x80000000u + dice(3));
            len += 4;
        }
    } else if (*protocol == PROTO_MINIMAL) {
        uint8_t *m = p + len;
        m[0] = (uint8_t)(dice(3) ? 17 : 4);
        m[1] = (uint8_t)(dice(3) ? MINIMAL_SOURCE : 0);
        put16(m + 2, 0);
        put32(m + 4, any_address());
        put32(m + 8, any_address());
        store16(m + 2, (uint16_t)~sum_octets(m, minimal_len(m)));
        len += minimal_len(m);
    }
    return len;
}

/* A packet of nested headers with right checksums, for the mutations to spoil. */
static uint32_t plausible(uint8_t *p, uint32_t room, int depth)
{
    static const uint8_t protocols[] = {17, 4, 4, 17, 47, 55, 1, 6};
    uint32_t header = 20 + (dice(4) ? 0 : 4 * dice(11)), inside = dice(200);
    if (room < header + 8)
        return 0;
    memset(p, 1, header);
    p[0] = (uint8_t)(0x40 | header / 4);
    p[1] = (uint8_t)dice(256);
    put16(p + OFF_ID, (uint16_t)dice(65536));
    put16(p + OFF_FRAGMENT, dice(4) ? 0 : (uint16_t)dice(65536));
    p[OFF_TTL] = (uint8_t)(dice(4) ? 64 : dice(3));
    p[OFF_PROTOCOL] = protocols[dice(8)];
    put32(p + OFF_SOURCE, any_address());
    put32(p + OFF_DESTINATION, any_address());
    if (p[OFF_PROTOCOL] == 1) { /* an ICMP error about one of our packets, perhaps */
        memset(p + header, 0, 8);
        p[header] = (uint8_t)dice(14);
        p[header + 1] = (uint8_t)dice(6);
        put16(p + header + 6, (uint16_t)dice(1600));
        inside = 8 + plausible(p + header + 8, room - header - 8, depth + 1);
        store16(p + header + 2, (uint16_t)~sum_octets(p + header, inside));
    } else if (depth < 12 && dice(3)) {
        uint8_t protocol = p[OFF_PROTOCOL];
        uint32_t shim = plausible_shim(p + header, room - header, &protocol);
        inside = shim;
        if (protocol == PROTO_MINIMAL)
            inside += dice(200);
        else
            inside += plausible(p + header + shim, room - header - shim, depth + 1);
        if (p[OFF_PROTOCOL] == PROTO_UDP && shim)
            put16(p + header + 4, (uint16_t)inside);
    } else if (!dice(8)) {
        inside = dice(3000);
    }
    if (inside > room - header)
        inside = room - header;
    put16(p + OFF_TOTAL, (uint16_t)(header + inside));
    ipv4_set_checksum(p);
    return header + inside;
}

int main(int argc, char **argv)
{
    static uint8_t input[8192];
    uint64_t runs = 0, seconds = argc > 1 ? strtoull(argv[1], 0, 10) : 10;
    state = (argc > 2 ? strtoull(argv[2], 0, 10) : 1) * 0x9e3779b97f4a7c15u + 1;
    time_t end = time(0) + (time_t)seconds;
    while (time(0) < end) {
        for (int burst = 0; burst < 500; burst++, runs++) {
            input[0] = (uint8_t)dice(255);
            input[1] = (uint8_t)dice(ROLES);
            uint32_t size = 2 + plausible(input + 2, sizeof input - 2, 0);
            for (uint32_t spoil = dice(4); spoil; spoil--)
                input[2 + dice(size > 102 ? 100 : size)] = (uint8_t)dice(256);
            if (!dice(8))
                size = dice(size + 1);
            LLVMFuzzerTestOneInput(input, size);
        }
    }
    uint64_t outcomes = 0;
    for (int verdict = 0; verdict < FM_VERDICT_COUNT; verdict++)
        outcomes += (engines[0].e.workers[0]->verdicts[verdict].packets ||
                     engines[1].e.workers[0]->verdicts[verdict].packets ||
                     engines[2].e.workers[0]->verdicts[verdict].packets);
    printf("%llu inputs, %llu verdicts seen\n", (unsigned long long)runs,
           (unsigned long long)outcomes);
    return 0;
}
#endif
