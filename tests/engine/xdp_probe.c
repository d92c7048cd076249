/* An XDP port whose kernel is this file: rings in memory, for tests, loaded by ctypes.
 *
 * One home agent (10.1.0.1) with one binding, two sockets on two interfaces, a mirror with a
 * default route out of each socket's interface. The kernel port beneath works on socket pairs. */
#include <fcntl.h>
#include <stdlib.h>

#include "control.h"
#include "egress_writer.h"
#include "xdp_port.h"

#define SOCKETS 2u

struct fake {
    uint32_t pointers[4][3]; /* producer, consumer, flags of fill, completion, rx, tx */
    uint64_t addresses[2][XDP_RING];
    struct xdp_desc frames[2][XDP_RING];
    uint32_t filled, completed, received, taken; /* the kernel's own ends */
};

static struct fm_control control;
static struct kernel_port kernel;
static struct xdp_port port;
static struct fake fakes[SOCKETS];
static struct fm_desc batch[FM_BATCH];
static struct fm_out out;

static void fake_ring(struct xdp_ring *r, uint32_t pointers[3], void *entries)
{
    r->producer = &pointers[0];
    r->consumer = &pointers[1];
    r->flags = &pointers[2];
    r->entries = entries;
}

static void fake_open(uint32_t number)
{
    struct fake *f = &fakes[number];
    struct xdp_socket *s = &port.sockets[number];
    memset(f, 0, sizeof *f);
    memset(s, 0, sizeof *s);
    s->fd = open("/dev/null", O_RDWR); /* no socket: kicks move nothing */
    s->ifindex = number + 10;
    fake_ring(&s->fill, f->pointers[0], f->addresses[0]);
    fake_ring(&s->completion, f->pointers[1], f->addresses[1]);
    fake_ring(&s->rx, f->pointers[2], f->frames[0]);
    fake_ring(&s->tx, f->pointers[3], f->frames[1]);
    s->tx.flags[0] = XDP_RING_NEED_WAKEUP;
    xdp_fill(&port.umem, s, number);
    port.outlet[number] = (uint8_t)number;
    if (port.used <= number) port.used = number + 1;
}

/* `home`, `remote`, `own`: addresses in network order. 0 on success. */
int probe_open(int home_fd, int raw_fd, uint32_t home, uint32_t remote, uint32_t own)
{
    const uint64_t seed[6] = {1, 2, 3, 4, 5, 6};
    struct port_descriptors fds = {.tun_fd = home_fd, .icmp_fd = -1, .udp_fd = -1, .packet_fd = -1,
                                   .raw_fd = {raw_fd}, .raw_count = 1, .vnet_hdr = 1,
                                   .no_ring = 1};
    struct fm_record r = {.home = swap32(home), .remote = swap32(remote), .local = swap32(own),
                          .mtu = 1500, .encapsulation = PROTO_IPIP, .flags = FM_RECORD_REVERSE,
                          .expires = ~(uint64_t)0};
    memset(&control, 0, sizeof control);
    if (control_create(&control, 64, FM_HOME_AGENT, 1, seed, 1000000, 1000000)) return 1;
    control.e.local_be[control.e.local_count++] = own;
    int64_t head = control_prepare_patiently(&control, &r, 1, 0);
    if (head < 0) return 2;
    control_publish(&control, (uint32_t)head);
    for (int side = 0; side < FM_SIDES; side++)
        if (!(control.e.egress[side] = egress_create())) return 3;
    if (kernel_port_init(&kernel, &fds)) return 4;
    if (xdp_port_init(&port, &kernel, &control.e, SOCKETS)) return 5;
    for (uint32_t i = 0; i < SOCKETS; i++) fake_open(i);
    fm_worker_online(control.e.workers[0]);
    return 0;
}

void probe_close(void)
{
    for (uint32_t i = 0; i < SOCKETS; i++) close(port.sockets[i].fd);
    xdp_umem_destroy(&port.umem);
    kernel_port_free(&kernel);
    for (int side = 0; side < FM_SIDES; side++) egress_destroy(control.e.egress[side]);
    fm_worker_offline(control.e.workers[0]);
    control_destroy(&control);
}

/* Everything leaves by the interface of a socket, to a gateway whose MAC is 02 and then zeros. */
int probe_route(int side, uint32_t number, uint16_t mtu)
{
    static const uint8_t gateway[6] = {2}, own[6] = {6};
    struct fm_egress *e = control.e.egress[side];
    uint64_t way = EGRESS_WAY(swap32(0x0a0a0a0a), number + 1, 0);
    uint32_t weight = 1, set = egress_take_set(e, &control.e);
    struct fm_egress_change c = {.value = set};
    egress_set_link(e, number + 1, number + 10, own, mtu, (uint16_t)number);
    egress_fill_set(e, set, &way, &weight, 1);
    return egress_set_neighbour(e, swap32(0x0a0a0a0a), number + 1, gateway, 0) ||
           egress_apply(e, 0, &c);
}

void probe_unroute(int side)
{
    struct fm_egress_change c = {.value = 0};
    egress_apply(control.e.egress[side], 0, &c);
}

/* A frame arrives; false if the kernel had no frame to put it into. */
int probe_arrive(uint32_t number, const uint8_t *frame, uint32_t len)
{
    struct fake *f = &fakes[number];
    if (f->filled == f->pointers[0][0]) return 0;
    uint64_t at = f->addresses[0][f->filled++ & (XDP_RING - 1)] + 256 + XDP_HEADROOM;
    memcpy(port.umem.memory + at, frame, len);
    f->frames[0][f->received++ & (XDP_RING - 1)] = (struct xdp_desc){.addr = at, .len = len};
    xdp_store(&f->pointers[2][0], f->received);
    return 1;
}

static void fake_complete(struct fake *f, uint64_t address)
{
    f->addresses[1][f->completed++ & (XDP_RING - 1)] = address;
    xdp_store(&f->pointers[1][0], f->completed);
}

/* The kernel takes one frame from a tx ring, its bytes to `into`; its length, 0 if there is none. */
uint32_t probe_sent(uint32_t number, uint8_t *into)
{
    struct fake *f = &fakes[number];
    if (f->taken == xdp_load(&f->pointers[3][0])) return 0;
    struct xdp_desc e = f->frames[1][f->taken++ & (XDP_RING - 1)];
    xdp_store(&f->pointers[3][1], f->taken);
    memcpy(into, port.umem.memory + e.addr, e.len);
    fake_complete(f, e.addr);
    return e.len;
}

/* The kernel gives back what it does not have, and receives into what it was not given. */
void probe_lie(uint32_t number, uint64_t address)
{
    struct fake *f = &fakes[number];
    fake_complete(f, address);
    f->frames[0][f->received++ & (XDP_RING - 1)] = (struct xdp_desc){.addr = address, .len = 60};
    xdp_store(&f->pointers[2][0], f->received);
}

void probe_gone(uint32_t number) { port.sockets[number].is_gone = 1; }

/* An interface comes back: its socket is closed, another is opened. */
void probe_reopen(uint32_t number)
{
    xdp_port_close(&port, number); /* these rings are not mapped: it leaves them alone */
    fake_open(number);
}

/* One turn of a worker; packets received. */
uint32_t probe_turn(void)
{
    uint32_t moved = 0;
    for (int side = 0; side < FM_SIDES; side++) {
        uint32_t n = xdp_functions.receive[side](&port, batch);
        if (!n) continue;
        fm_run_batch(control.e.workers[0], batch, n, side, 1, &out);
        xdp_functions.send(&port, &out, 1);
        out.count[FM_HOME] = out.count[FM_TUNNEL] = 0;
        moved += n;
    }
    return moved;
}

/* A packet of the kernel port's batch leaves. */
void probe_send(int side, uint8_t *data, uint32_t len)
{
    struct fm_desc d = {.data = data, .len = len, .verdict = FM_ENCAPSULATED, .done = FM_DONE_TTL};
    out.packets[side][0] = &d;
    out.count[side] = 1;
    xdp_functions.send(&port, &out, 1);
    out.count[side] = 0;
}

/* Nothing leaves, but frames that were sent come back. */
void probe_flush(void) { xdp_functions.send(&port, &out, 1); }

/* frames, free, engine, receiving, sending; and whether each frame's owner agrees. */
int probe_books(uint32_t books[5])
{
    uint32_t engine = port.waiting_count[0] + port.waiting_count[1] + port.hand_count;
    uint32_t owned[4] = {0};
    memset(books, 0, 5 * sizeof *books);
    books[0] = port.umem.frames;
    books[1] = port.umem.free_count;
    books[2] = engine;
    for (uint32_t i = 0; i < SOCKETS; i++) {
        books[3] += port.sockets[i].receiving;
        books[4] += port.sockets[i].sending;
    }
    for (uint32_t i = 0; i < port.umem.frames; i++) {
        uint8_t owner = port.umem.owner[i];
        owned[owner >= XDP_SENDING ? 3 : owner >= XDP_RECEIVING ? 2 : owner]++;
    }
    return !memcmp(owned, books + 1, sizeof owned);
}

uint64_t probe_counter(const char *name)
{
    for (int i = 0; i < XDP_COUNTER_COUNT; i++)
        if (!strcmp(name, xdp_counter_table[i].name)) return port.counters[i];
    return ~(uint64_t)0;
}

uint64_t probe_verdict(const char *name)
{
    for (int i = 0; i < FM_VERDICT_COUNT; i++)
        if (!strcmp(name, fm_verdict_table[i].name)) return control.e.workers[0]->verdicts[i].packets;
    return ~(uint64_t)0;
}
