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
        int *raw_fd
        uint32_t raw_count
        int vnet_hdr
        int no_ring

    struct uring:
        int usable

    struct kernel_port:
        port_descriptors fds
        uring home_ring
        int failed
        int error
        uint64_t *counters

    struct port_worker:
        kernel_port port
        int state
        uint64_t heartbeat
        uint64_t batches
        uint64_t sleeps

    port_worker *worker_new(fm_worker *pipeline, const port_descriptors *fds)
    int worker_start(port_worker *p, int number)
    void worker_ask_stop(port_worker *p)
    void worker_join(port_worker *p)
    void worker_free(port_worker *p)
