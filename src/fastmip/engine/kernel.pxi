# The engine with its kernel port and worker threads. Python starts, stops and watches them;
# the threads themselves are C (workers.h) and never come here.

from libc.errno cimport errno

from fastmip.engine.workers cimport *

from os import set_blocking, strerror

_WORKER_STATES = ("ready", "running", "stopped", "failed")
_PORT_DESCRIPTORS = ("", "tun", "tunnel", "icmp", "udp", "packet")


def port_counter_names():
    """Every counter of the kernel port in order: (name, sentence)."""
    return [(_text(port_counter_table[number].name), _text(port_counter_table[number].sentence))
            for number in range(PORT_COUNTER_COUNT)]


cdef class KernelEngine(BindingCache):
    """The binding cache with workers on kernel ports."""

    cdef port_worker *threads[FM_WORKERS_MAX]
    cdef uint32_t attached

    def __dealloc__(self):
        # Workers end before the binding cache they read is freed by the base class.
        cdef uint32_t number
        with nogil:
            for number in range(self.attached):
                worker_ask_stop(self.threads[number])
            for number in range(self.attached):
                worker_join(self.threads[number])
                worker_free(self.threads[number])

    cdef int _send_broadcast(self) except -1:
        """Through the first worker's raw socket, which any thread may send on."""
        if not self.attached:
            return BindingCache._send_broadcast(self)
        return <int>broadcast_send(self.threads[0].port.fds.raw_fd[0], self._broadcast)

    def attach_kernel(self, *, int tun_fd, raw_fds, int udp_fd=-1, int icmp_fd=-1,
                      int packet_fd=-1, bint tun_vnet_hdr=True, bint ring=True):
        """Give the next worker its TUN queue and its sockets."""
        cdef port_worker *thread
        cdef port_descriptors fds
        if self.attached == <uint32_t>self.workers:
            raise ValueError(f"attach_kernel: all {self.attached} workers have their descriptors")
        if not 1 <= len(raw_fds) <= PORT_RAW_MAX:
            raise ValueError(f"attach_kernel: {len(raw_fds)} raw sockets, not 1 to {PORT_RAW_MAX}")
        for fd in (tun_fd, *raw_fds, *(fd for fd in (udp_fd, icmp_fd, packet_fd) if fd != -1)):
            set_blocking(fd, False)
        fds.tun_fd = tun_fd
        fds.udp_fd = udp_fd
        fds.icmp_fd = icmp_fd
        fds.packet_fd = packet_fd
        fds.vnet_hdr = tun_vnet_hdr
        fds.no_ring = not ring
        fds.raw_count = <uint32_t>len(raw_fds)
        for number, fd in enumerate(raw_fds):
            fds.raw_fd[<uint32_t>number] = fd
        thread = worker_new(self.control.e.workers[self.attached], &fds)
        if thread is NULL:
            raise OSError(errno, strerror(errno))
        self.threads[self.attached] = thread
        self.attached += 1

    def allow_packet_sockets(self, bint is_allowed):
        """Let outer packets leave by AF_PACKET where the mirror knows how; or by raw sockets alone.

        It counts from the workers' next batches on.
        """
        cdef uint32_t number
        for number in range(self.attached):
            packet_out_allow(&self.threads[number].port.packet, is_allowed)

    def start(self):
        """Start a thread for every attached worker."""
        cdef uint32_t number
        cdef int error = 0
        if self.attached != <uint32_t>self.workers:
            raise ValueError(f"start: {self.attached} of {self.workers} workers "
                             "have descriptors")
        for number in range(self.attached):
            error = worker_start(self.threads[number], <int>number)
            if error:
                self.stop()
                raise OSError(error, f"starting worker {number}: {strerror(error)}")

    def stop(self):
        """End all threads; returns when the batches in hand are done. May be called again."""
        cdef uint32_t number
        with nogil:
            for number in range(self.attached):
                worker_ask_stop(self.threads[number])
            for number in range(self.attached):
                worker_join(self.threads[number])

    def heartbeats(self):
        """Per worker: a number that grows at least once a second while it lives."""
        return [self.threads[number].heartbeat for number in range(self.attached)]

    def worker_status(self):
        """Per worker: what it is doing, or which descriptor failed and why."""
        cdef uint32_t number
        status = []
        for number in range(self.attached):
            thread = self.threads[number]
            failed = thread.port.failed
            status.append({
                "state": _WORKER_STATES[thread.state],
                "descriptor": _PORT_DESCRIPTORS[failed],
                "error": strerror(thread.port.error) if failed else "",
                "heartbeat": thread.heartbeat,
                "batches": thread.batches,
                "sleeps": thread.sleeps,
                "home_reads": "io_uring" if thread.port.home_ring.usable else "read",
            })
        return status

    def port_counters(self):
        """Counter name -> packets, summed over the kernel ports."""
        cdef uint32_t number
        cdef int counter
        cdef uint64_t total
        result = {}
        for counter in range(PORT_COUNTER_COUNT):
            total = 0
            for number in range(self.attached):
                total += self.threads[number].port.counters[counter]
            result[_text(port_counter_table[counter].name)] = total
        return result
