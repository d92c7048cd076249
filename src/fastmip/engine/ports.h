/* What a worker asks of its ports: one table of functions per kind of port.
 *
 * A worker reads from one or several ports, the quickest first, and sends through one of them,
 * which may know of the others. Every function is called once per batch or less often, never per
 * packet. `port` is what the table's owner made; see kernel_port.h and xdp_port.h.
 */
#ifndef FASTMIP_PORTS_H
#define FASTMIP_PORTS_H

#include <poll.h>

#include "frames.h"

#define PORTS_MAX 2     /* that one worker reads from */
#define PORT_POLLED 40 /* descriptors of one port */

/* PORT_OTHER is asked seldom under load; its packets are of the tunnel side. */
enum port_input { PORT_HOME, PORT_TUNNEL, PORT_OTHER, PORT_INPUTS };

typedef uint32_t (*port_receive_fn)(void *port, struct fm_desc *batch);

struct port_functions {
    const char *name;
    /* Fill a batch; the number of packets. Their frames are the port's until `send`. */
    port_receive_fn receive[PORT_INPUTS];
    /* Everything a batch became leaves, whichever port it came from, in the batch's epoch; then
     * its frames are the port's again. */
    void (*send)(void *port, struct fm_out *out, uint64_t now_ns);
    /* Descriptors to wait for; their number, at most PORT_POLLED. */
    uint32_t (*polled)(void *port, struct pollfd *fds);
    /* Poll is over and said something; `fds` are those of `polled`. */
    void (*woken)(void *port, const struct pollfd *fds, uint32_t count);
    /* Packets taken from the kernel and not yet handed to the worker. */
    int (*has_left)(const void *port);
    int (*has_failed)(const void *port);
};

struct port {
    const struct port_functions *does;
    void *self;
};

#endif
