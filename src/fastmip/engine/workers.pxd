# What the Cython boundary sees of the kernel port and the worker threads.
from libc.stdint cimport uint32_t, uint64_t

from fastmip.engine.api cimport fm_worker


cdef extern from "workers.h" nogil:
    enum:
        PORT_COUNTER_COUNT

    struct port_counter_text:
        const char *name
        const char *sentence

    const port_counter_text port_counter_table[]

    enum:
        PORT_RAW_MAX

    struct port_descriptors:
        int tun_fd
        int icmp_fd
        int udp_fd
        int packet_fd
        int *raw_fd
        uint32_t raw_count
        int vnet_hdr
        int no_ring

    struct uring:
        int usable

    struct packet_out:
        int is_open

    void packet_out_allow(packet_out *p, int is_open)

    struct kernel_port:
        port_descriptors fds
        packet_out packet
        uring home_ring
        int failed
        int error
        uint64_t *counters

    enum:
        XDP_COUNTER_COUNT
        XDP_SOCKETS_MAX
        XDP_RING
        XDP_FRAME

    const port_counter_text xdp_counter_table[]

    struct xdp_socket:
        int fd
        uint32_t ifindex
        uint32_t queue
        int is_zero_copy
        int is_gone
        uint32_t receiving
        uint32_t sending

    struct xdp_umem:
        uint32_t frames
        uint32_t free_count

    struct xdp_port:
        xdp_umem umem
        xdp_socket *sockets
        uint32_t *waiting_count
        uint32_t hand_count
        uint64_t *counters

    struct xdp_statistics:
        uint64_t rx_dropped
        uint64_t rx_invalid_descs
        uint64_t tx_invalid_descs
        uint64_t rx_ring_full
        uint64_t rx_fill_ring_empty_descs

    int xdp_port_open(xdp_port *x, uint32_t outlet, uint32_t ifindex, uint32_t queue, int is_copy)
    void xdp_port_close(xdp_port *x, uint32_t number)
    int xdp_read_statistics(const xdp_socket *s, xdp_statistics *told)

    struct port_worker:
        kernel_port port
        xdp_port *xdp
        int joinable
        int state
        uint64_t heartbeat
        uint64_t batches
        uint64_t sleeps

    port_worker *worker_new(fm_worker *pipeline, const port_descriptors *fds)
    int worker_add_xdp(port_worker *p, uint32_t sockets)
    int worker_start(port_worker *p, int number)
    void worker_ask_stop(port_worker *p)
    void worker_join(port_worker *p)
    void worker_free(port_worker *p)
