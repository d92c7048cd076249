# AF_XDP sockets of an engine's workers: opened and closed while the workers stand still.


def xdp_counter_names():
    """Every counter of the XDP port in order: (name, sentence)."""
    return [(_text(xdp_counter_table[number].name), _text(xdp_counter_table[number].sentence))
            for number in range(XDP_COUNTER_COUNT)]


cdef class Engine(KernelEngine):
    """The binding cache, its workers and its counters."""

    def attach_xdp(self, int worker, int sockets):
        """Let up to so many AF_XDP sockets feed a worker beside its kernel port."""
        if not 1 <= sockets <= <int>XDP_SOCKETS_MAX:
            raise ValueError(f"attach_xdp: {sockets} sockets, not 1 to {XDP_SOCKETS_MAX}")
        if not 0 <= worker < <int>self.attached:
            raise ValueError(f"attach_xdp: worker {worker} has no kernel port yet")
        if worker_add_xdp(self.threads[worker], <uint32_t>sockets):
            raise OSError(errno, strerror(errno))

    def open_xdp(self, int worker, *, int outlet, int ifindex, int queue, bint copy=False):
        """Open a socket on one queue of an interface; returns its descriptor for the XSKMAP."""
        cdef xdp_port *port = self._standing(worker)
        cdef int number = xdp_port_open(port, <uint32_t>outlet, <uint32_t>ifindex,
                                        <uint32_t>queue, copy)
        if number < 0:
            raise OSError(errno, strerror(errno))
        return port.sockets[number].fd

    def close_xdp(self, int ifindex):
        """Close all sockets on an interface; returns how many there were."""
        cdef xdp_port *port
        cdef uint32_t worker, number
        closed = 0
        for worker in range(self.attached):
            if self.threads[worker].xdp == NULL:
                continue
            port = self._standing(<int>worker)
            for number in range(XDP_SOCKETS_MAX):
                if port.sockets[number].fd < 0:
                    continue
                if port.sockets[number].ifindex == <uint32_t>ifindex:
                    xdp_port_close(port, number)
                    closed += 1
        return closed

    cdef xdp_port *_standing(self, int worker) except NULL:
        if not 0 <= worker < <int>self.attached or self.threads[worker].xdp == NULL:
            raise ValueError(f"worker {worker} has no AF_XDP sockets: attach_xdp first")
        if self.threads[worker].joinable:
            raise ValueError(f"worker {worker} runs: stop it first")
        return self.threads[worker].xdp

    def xdp_sockets(self):
        """One row per AF_XDP socket: where it is, how frames pass, what the kernel dropped."""
        cdef uint32_t worker, number
        cdef xdp_port *port
        cdef xdp_socket *each
        cdef xdp_statistics told
        rows = []
        for worker in range(self.attached):
            port = self.threads[worker].xdp
            for number in range(XDP_SOCKETS_MAX if port != NULL else 0):
                each = &port.sockets[number]
                if each.fd < 0:
                    continue
                xdp_read_statistics(each, &told)
                rows.append({
                    "worker": worker,
                    "ifindex": each.ifindex,
                    "queue": each.queue,
                    "mode": "zero-copy" if each.is_zero_copy else "copy",
                    "state": "gone" if each.is_gone else "open",
                    "receiving": each.receiving,
                    "sending": each.sending,
                    "dropped": told.rx_dropped,
                    "ring_full": told.rx_ring_full,
                    "no_frame": told.rx_fill_ring_empty_descs,
                    "invalid": told.rx_invalid_descs + told.tx_invalid_descs,
                })
        return rows

    def xdp_frames(self):
        """Per worker: where its frames are; the parts make up ``frames``, exactly so only while
        the worker stands still."""
        cdef uint32_t worker, number
        cdef xdp_port *port
        rows = []
        for worker in range(self.attached):
            port = self.threads[worker].xdp
            if port == NULL:
                continue
            books = {
                "frames": port.umem.frames,
                "free": port.umem.free_count,
                "engine": port.waiting_count[0] + port.waiting_count[1] + port.hand_count,
                "receiving": 0,
                "sending": 0,
            }
            for number in range(XDP_SOCKETS_MAX):
                books["receiving"] += port.sockets[number].receiving
                books["sending"] += port.sockets[number].sending
            rows.append(books)
        return rows

    def xdp_counters(self):
        """Counter name -> packets, summed over workers; empty without AF_XDP sockets."""
        cdef uint32_t worker
        cdef int counter
        result = {}
        for worker in range(self.attached):
            if self.threads[worker].xdp == NULL:
                continue
            for counter in range(XDP_COUNTER_COUNT):
                name = _text(xdp_counter_table[counter].name)
                result[name] = result.get(name, 0) + self.threads[worker].xdp.counters[counter]
        return result
