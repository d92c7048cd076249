/* A kernel port on sockets instead of a TUN device, for tests, loaded by ctypes. */
#include <stdlib.h>

#include "kernel_port.h"

static struct kernel_port port;

/* Up to three tunnel sockets; the first sends. udp_fd -1: none. */
int probe_open(int home_fd, const int *raw_fds, uint32_t raw_count, int udp_fd, int ring)
{
    struct port_descriptors fds = {.tun_fd = home_fd, .icmp_fd = -1, .udp_fd = udp_fd, .packet_fd = -1,
                                   .raw_count = raw_count, .vnet_hdr = 1, .no_ring = !ring};
    memcpy(fds.raw_fd, raw_fds, raw_count * sizeof *raw_fds);
    int error = kernel_port_init(&port, &fds);
    if (!error) port_open_ring(&port);
    return error;
}

int probe_has_ring(void) { return port.home_ring.usable; }

int probe_failed(void) { return port.failed ? port.error : 0; }

void probe_close(void) { kernel_port_free(&port); }

uint64_t probe_counter(int which) { return port.counters[which]; }

const char *probe_counter_name(int which)
{
    return which < PORT_COUNTER_COUNT ? port_counter_table[which].name : NULL;
}

/* Send one batch to a side. Input and output: 4 bytes length (native), packet, repeated.
 * Each packet lies in a buffer of its own with the headroom the pipeline promises. */
void probe_send(int side, const uint8_t *in, uint32_t bytes, int verdict)
{
    static struct fm_desc descs[FM_BATCH];
    static struct fm_desc *list[FM_BATCH];
    uint8_t *buffers[FM_BATCH];
    uint32_t n = 0;
    for (uint32_t at = 0, len; at < bytes; at += 4 + len, n++) {
        memcpy(&len, in + at, 4);
        buffers[n] = malloc(FM_HEADROOM_MIN + len);
        descs[n].data = memcpy(buffers[n] + FM_HEADROOM_MIN, in + at + 4, len);
        descs[n].len = len;
        descs[n].verdict = (uint16_t)verdict;
        descs[n].line = n + 1;
        list[n] = &descs[n];
    }
    if (side == FM_HOME)
        kernel_port_send_home(&port, list, n);
    else
        kernel_port_send_tunnel(&port, list, n);
    while (n--) free(buffers[n]);
}

/* Receive one batch; its packets to `out`, their bytes returned. */
uint32_t probe_receive(int side, uint8_t *out)
{
    static struct fm_desc batch[FM_BATCH];
    uint32_t used = 0;
    uint32_t n = side == FM_HOME ? kernel_port_receive_home(&port, batch)
                                 : kernel_port_receive_tunnel(&port, batch);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(out + used, &batch[i].len, 4);
        memcpy(out + used + 4, batch[i].data, batch[i].len);
        used += 4 + batch[i].len;
        memset(batch[i].data - FM_HEADROOM_MIN, 0xa5, FM_HEADROOM_MIN + batch[i].len);
    }
    return used;
}
