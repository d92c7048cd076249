# A pool of packets with redrawn addresses: the benchmarks' source and sink.

cdef class Replay:
    """Runs one kind of packet through an engine as fast as it goes, addresses redrawn.

    ``tunnel`` is a record of which only encapsulation, ports, key and local end count;
    ``draws`` holds pairs of native uint32 (home address, remote tunnel end) that are bound in
    the engine, a million or more to be honest; ``size`` is the inner packet's length in bytes;
    ``frames`` the size of the pool (512 stays in L2, 65536 does not). Raises ValueError for
    impossible arguments.
    """

    cdef BindingCache engine
    cdef fm_replay *pool
    cdef uint32_t *keys

    def __cinit__(self, BindingCache engine not None, *, int side, size, frames, draws, tunnel,
                  correspondent, done=0):
        cdef Py_buffer view
        cdef uint32_t number
        cdef const uint32_t *pairs
        if side not in (FM_HOME, FM_TUNNEL) or not 20 <= size <= 1500 or frames < 2 * FM_BATCH:
            raise ValueError("side HOME or TUNNEL, size 20 to 1500, at least 128 frames")
        self.engine = engine
        self.pool = <fm_replay *>calloc(1, sizeof(fm_replay))
        if self.pool == NULL:
            raise MemoryError
        self.pool.e = &engine.control.e
        self.pool.side = side
        self.pool.size = size
        self.pool.frame_count = frames
        self.pool.done = done
        self.pool.correspondent_be = swap32(correspondent)
        PyObject_GetBuffer(tunnel, &view, PyBUF_SIMPLE)
        try:
            if view.len != <Py_ssize_t>sizeof(fm_record):
                raise ValueError(f"{view.len} bytes are no tunnel record")
            replay_use(self.pool, <const fm_record *>view.buf)
        finally:
            PyBuffer_Release(&view)
        self.pool.frames = <uint8_t *>control_map(replay_bytes(self.pool))
        PyObject_GetBuffer(draws, &view, PyBUF_SIMPLE)
        try:
            self.pool.draw_count = <uint32_t>(view.len // 8)
            if self.pool.draw_count < FM_BATCH:
                raise ValueError(f"{self.pool.draw_count} draws: at least {FM_BATCH}")
            pairs = <const uint32_t *>view.buf
            self.pool.draws = <fm_draw *>calloc(self.pool.draw_count, sizeof(fm_draw))
            self.keys = <uint32_t *>calloc(self.pool.draw_count, 4)
            if self.pool.frames == NULL or self.pool.draws == NULL or self.keys == NULL:
                raise MemoryError
            for number in range(self.pool.frame_count):
                replay_write(self.pool, replay_frame(self.pool, number))
            for number in range(self.pool.draw_count):
                self.keys[number] = swap32(pairs[2 * number])
                replay_prepare_draw(self.pool, &self.pool.draws[number], self.keys[number],
                                    swap32(pairs[2 * number + 1]))
        finally:
            PyBuffer_Release(&view)

    def __dealloc__(self):
        if self.pool != NULL:
            control_unmap(self.pool.frames, replay_bytes(self.pool))
            free(self.pool.draws)
        free(self.pool)
        free(self.keys)

    def run(self, *, packets, batch=64):
        """Send about ``packets`` packets; returns (ns, packets sent, packets that came out)."""
        cdef uint64_t left = 0, spent, batches = packets // batch
        cdef uint32_t n = batch
        cdef fm_worker *worker = self.engine.control.e.workers[self.engine.workers]
        _check_batch(batch)
        _claim_port(self.engine)
        try:
            with nogil:
                spent = replay_run(self.pool, worker, batches, n, _boot_ns(), &left)
        finally:
            self.engine._is_port_busy = False
        return spent, batches * n, left

    def run_as(self, int worker, *, packets, batch=64):
        """The same as one of the engine's workers, beside others; no thread may be its."""
        cdef uint64_t left = 0, spent, batches = packets // batch
        cdef uint32_t n = batch
        _check_batch(batch)
        if not 0 <= worker < self.engine.workers:
            raise ValueError(f"worker {worker}: the engine has {self.engine.workers}")
        cdef fm_worker *one = self.engine.control.e.workers[worker]
        if one.epoch != 0:
            raise RuntimeError(f"worker {worker} runs already")
        fm_worker_online(one)
        with nogil:
            spent = replay_run(self.pool, one, batches, n, _boot_ns(), &left)
        return spent, batches * n, left

    def run_empty(self, *, packets, batch=64):
        """Time of source and sink alone: (ns, packets)."""
        cdef uint64_t spent, batches = packets // batch
        cdef uint32_t n = batch
        _check_batch(batch)
        with nogil:
            spent = replay_run_empty(self.pool, batches, n)
        return spent, batches * n

    def memcpy(self, *, rounds, size=64):
        """Time of the reference: the C library's memcpy between the pool's frames, in ns."""
        cdef uint32_t octets = size
        cdef uint64_t spent, count = rounds
        if not 0 <= size <= 1500:
            raise ValueError(f"size {size}: expected 0 to 1500")
        with nogil:
            spent = replay_memcpy(self.pool, count, &octets)
        return spent

    def lookup(self, *, lookups, batch=64):
        """Look the drawn home addresses up, nothing else: (ns, lookups, hits)."""
        cdef uint64_t found = 0, spent, batches = lookups // batch
        cdef uint32_t n = batch
        _check_batch(batch)
        with nogil:
            spent = replay_lookup(self.pool, self.engine.control.find, batches, n, self.keys,
                                  self.pool.draw_count, &found)
        return spent, batches * n, found


cdef int _check_batch(batch) except -1:
    if not 1 <= batch <= FM_BATCH:
        raise ValueError(f"batch {batch}: expected 1 to {FM_BATCH}")
    return 0
