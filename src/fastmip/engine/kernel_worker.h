/* The kernel port as a worker sees it (ports.h). */
#ifndef FASTMIP_KERNEL_WORKER_H
#define FASTMIP_KERNEL_WORKER_H

#include "kernel_port.h"
#include "ports.h"

#define KERNEL_FALSE_WAKES 100 /* poll says "error" this often without one to read: failed */

static uint32_t kernel_receive_home(void *self, struct fm_desc *batch)
{
    struct kernel_port *k = (struct kernel_port *)self;
    int has_more = k->home_ring.left || super_frame_pending(&k->home_super);
    if (!has_more && port_is_silent(k, PORT_IN_TUN)) return 0;
    uint32_t n = kernel_port_receive_home(k, batch);
    if (k->is_home_busy)
        memset(k->skips, 0, sizeof k->skips); /* no sleep is near: the others must get their turn */
    else if (n < FM_BATCH && !super_frame_pending(&k->home_super))
        k->skips[PORT_IN_TUN] = PORT_SKIPS;
    return n;
}

static uint32_t kernel_receive_tunnel(void *self, struct fm_desc *batch)
{
    return kernel_port_receive_tunnel((struct kernel_port *)self, batch);
}

static uint32_t kernel_receive_icmp(void *self, struct fm_desc *batch)
{
    struct kernel_port *k = (struct kernel_port *)self;
    if (port_is_silent(k, PORT_IN_ICMP)) return 0;
    uint32_t n = kernel_port_receive_icmp(k, batch);
    if (n < FM_BATCH) k->skips[PORT_IN_ICMP] = PORT_SKIPS;
    return n;
}

static void kernel_send(void *self, struct fm_out *out, uint64_t now_ns)
{
    struct kernel_port *k = (struct kernel_port *)self;
    k->now_ns = now_ns;
    kernel_port_send_tunnel(k, out->packets[FM_TUNNEL], out->count[FM_TUNNEL]);
    kernel_port_send_home(k, out->packets[FM_HOME], out->count[FM_HOME]);
}

static uint32_t kernel_polled(void *self, struct pollfd *fds)
{
    const struct port_descriptors *d = &((struct kernel_port *)self)->fds;
    uint32_t n = 0;
    fds[n++].fd = d->tun_fd; /* in the order of PORT_IN_... */
    fds[n++].fd = d->icmp_fd; /* -1 is skipped */
    fds[n++].fd = d->udp_fd;
    for (uint32_t i = 0; i < d->raw_count; i++) fds[n++].fd = d->raw_fd[i];
    for (uint32_t i = 0; i < n; i++) fds[i].events = POLLIN;
    return n;
}

static void kernel_woken(void *self, const struct pollfd *fds, uint32_t count)
{
    static const enum port_descriptor kinds[3] = {PORT_TUN, PORT_ICMP, PORT_UDP};
    struct kernel_port *k = (struct kernel_port *)self;
    for (uint32_t i = 0; i < count; i++) k->skips[i] = fds[i].revents ? 0 : PORT_SKIPS;
    for (uint32_t i = 0; i < count; i++) {
        if (!(fds[i].revents & (POLLERR | POLLHUP | POLLNVAL))) continue;
        /* The next read tells which error and fails the port; if it never does, poll would
         * return at once for ever. */
        if (++k->false_wakes > KERNEL_FALSE_WAKES) port_fail(k, i < 3 ? kinds[i] : PORT_RAW, EIO);
        return;
    }
    k->false_wakes = 0;
}

static int kernel_has_left(const void *self)
{
    return ((const struct kernel_port *)self)->home_ring.left != 0;
}

static int kernel_has_failed(const void *self)
{
    return ((const struct kernel_port *)self)->failed != PORT_NONE;
}

static const struct port_functions kernel_functions = {
    .name = "kernel",
    .receive = {kernel_receive_home, kernel_receive_tunnel, kernel_receive_icmp},
    .send = kernel_send,
    .polled = kernel_polled,
    .woken = kernel_woken,
    .has_left = kernel_has_left,
    .has_failed = kernel_has_failed,
};

#endif
