# The memory port: packets in as bytes, packets out as bytes, the same pipeline in between.

cdef class MemoryPort:
    """Feeds an engine from memory, for tests, profiling and benchmarks.

    ``done`` are bits of what a kernel would already have done (``DONE_*``). The engine has
    one in-process worker for such ports: two ports must not run at the same moment.
    """

    cdef BindingCache engine
    cdef fm_worker *worker
    cdef fm_out *out
    cdef fm_desc batch[64]
    cdef uint8_t *frames
    cdef list _taken
    cdef public int done

    def __cinit__(self, BindingCache engine not None, *, done=0):
        self.engine = engine
        self.worker = engine.control.e.workers[engine.workers]
        self.done = done
        self._taken = [[], []]
        self.out = <fm_out *>calloc(1, sizeof(fm_out))
        self.frames = <uint8_t *>aligned_alloc(64, FM_BATCH * _MEMORY_FRAME)
        if self.out == NULL or self.frames == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.out)
        free(self.frames)

    def inject(self, int side, packets, *, now_ns=None):
        """Run packets through the pipeline as if they came from a side.

        Returns the verdict name of each; what left is kept for ``take``. ``now_ns`` is
        CLOCK_BOOTTIME, read when absent. Raises ValueError for an unknown side or a packet
        above 65535 bytes.
        """
        if side not in (FM_HOME, FM_TUNNEL):
            raise ValueError(f"side {side}: expected HOME or TUNNEL")
        cdef uint64_t now = _boot_ns() if now_ns is None else now_ns
        cdef uint32_t count = 0
        verdicts = []
        for packet in packets:
            packet = bytes(packet)
            if len(packet) > 65535:
                raise ValueError(f"packet of {len(packet)} bytes: at most 65535")
            self._fill_from(count, side, <const uint8_t *><const char *>packet, len(packet))
            count += 1
            if count == FM_BATCH:
                self._flush(count, side, now, verdicts)
                count = 0
        if count:
            self._flush(count, side, now, verdicts)
        return verdicts

    def take(self, int side):
        """Packets that left on a side since the last call, in order."""
        taken, self._taken[side] = self._taken[side], []
        if side == FM_TUNNEL:
            taken += self.engine._sent
            self.engine._sent = []
        return taken

    cdef void _fill_from(self, uint32_t number, int side, const uint8_t *packet,
                         uint32_t length) noexcept:
        cdef fm_desc *d = &self.batch[number]
        cdef Py_ssize_t headroom = FM_HEADROOM_HOME if side == FM_HOME else FM_HEADROOM_TUNNEL
        memset(d, 0, sizeof(fm_desc))
        d.data = self.frames + number * _MEMORY_FRAME + headroom
        d.len = length
        d.done = <uint8_t>self.done
        d.side = <uint8_t>side
        memcpy(d.data, packet, length)

    cdef int _flush(self, uint32_t count, int side, uint64_t now, list verdicts) except -1:
        cdef uint32_t i
        cdef int to
        cdef fm_desc *d
        _claim_port(self.engine)
        try:
            with nogil:
                fm_run_batch(self.worker, self.batch, count, side, now, self.out)
            for to in range(2):
                for i in range(self.out.count[to]):
                    d = self.out.packets[to][i]
                    self._taken[to].append((<const char *>d.data)[:d.len])
                self.out.count[to] = 0
            for i in range(count):
                verdicts.append(_text(fm_verdict_table[self.batch[i].verdict].name))
        finally:
            fm_worker_offline(self.worker)
            self.engine._is_port_busy = False
        return 0


cdef int _claim_port(BindingCache engine) except -1:
    if engine._is_port_busy:
        raise RuntimeError("another memory or pcap port of this engine is running")
    engine._is_port_busy = True
    return 0
