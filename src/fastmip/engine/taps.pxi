# Captures and traces as Python sees them; tap.h does the work. The control thread is the only
# caller.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from fastmip.engine.taps cimport *

TAP_POINT_NAMES = ("rx", "decap", "encap", "tx")
TAP_TERM_KINDS = ("address", "protocol", "port", "spi")
_METHODS = {FM_IPIP: "ipip", FM_GRE: "gre", FM_MINIMAL: "minimal"}


def drop_verdicts():
    """Names of the verdicts that are the end of a packet which was expected to go on."""
    return [_text(fm_verdict_table[number].name)
            for number in range(FM_NONE + 1, FM_VERDICT_COUNT) if verdict_is_drop(number)]


cdef class _Tap:
    """Something that looks at an engine's packets until it is closed."""

    cdef BindingCache engine
    cdef fm_tap *tap
    cdef bint _is_open

    cdef int _make(self, BindingCache engine, uint32_t points, uint32_t snap, uint32_t slots,
                   terms, verdicts, count) except -1:
        cdef uint32_t number
        cdef uint32_t kind
        if len(terms) > MATCH_TERMS:
            raise ValueError(f"{len(terms)} terms: at most {MATCH_TERMS}")
        if slots < 1 or slots & (slots - 1):
            raise ValueError(f"slots {slots}: expected a power of two")
        if count < 0:
            raise ValueError(f"count {count}: expected 0 or more")
        self.engine = engine
        self.tap = tap_new(engine.control.e.worker_count, points, snap, slots)
        if self.tap is NULL:
            raise MemoryError("no memory for a tap")
        for name, value, mask in terms:
            kind = <uint32_t>TAP_TERM_KINDS.index(name)
            number = self.tap.match.count
            self.tap.match.terms[number].kind = kind
            self.tap.match.terms[number].value = swap32(value & mask) if kind == 0 else value & mask
            self.tap.match.terms[number].mask = swap32(mask) if kind == 0 else mask
            self.tap.match.count += 1
        for number in range(FM_VERDICT_COUNT):
            self.tap.wanted[number] = (verdicts is None
                                       or _text(fm_verdict_table[number].name) in verdicts)
        if count:
            self.tap.left = count
        if tap_open(&engine.control.e, self.tap) != 0:
            raise EngineFull(f"{FM_TAPS} captures and traces are open already")
        self._is_open = True
        return 0

    def __dealloc__(self):
        if self.tap is not NULL and self._withdraw() == 0:
            tap_free(self.tap)

    cdef int _withdraw(self) noexcept:
        cdef int code = 0
        if self._is_open:
            self._is_open = False
            with nogil:
                code = tap_withdraw(&self.engine.control.e, self.tap)
            if code != 0:
                self.tap = NULL  # a worker that hangs still holds it
        return code

    def close(self):
        """Stop looking; what was seen can still be read. May be called again."""
        self._withdraw()

    def is_done(self):
        """As many packets as were asked for have been seen."""
        return self.tap is NULL or bool(tap_is_done(self.tap))

    def lost(self):
        """Packets that were not taken because nobody read in time."""
        return 0 if self.tap is NULL else tap_lost(self.tap)


cdef class Capture(_Tap):
    """Packets at some points of the engine, as pcapng blocks."""

    cdef readonly uint64_t packets

    def __cinit__(self, BindingCache engine not None, *, points, terms=(), verdicts=None,
                  snap=2048, slots=1024, count=0, first_interface=0):
        cdef uint32_t bits = 0
        cdef uint32_t interface = first_interface
        for point in points:
            bits |= 1u << TAP_POINT_NAMES.index(point)
        if not bits:
            raise ValueError("no point to look at")
        if not 20 <= snap <= 65535:
            raise ValueError(f"snap {snap}: expected 20 to 65535")
        self._make(engine, bits, snap, slots, terms, verdicts, count)
        for number in range(TAP_POINTS):
            self.tap.interfaces[number] = interface
            interface += bits >> number & 1

    def read(self, uint64_t room=1 << 20):
        """Enhanced packet blocks of what was seen since the last call, oldest first; empty when
        there is nothing. At most ``room`` bytes; the points are interfaces, numbered from
        ``first_interface`` in the order of ``TAP_POINT_NAMES``."""
        cdef bytes block
        cdef uint64_t used
        if self.tap is NULL:
            return b""
        if room < PCAPNG_HEAD + PCAPNG_OPTIONS_MAX + self.tap.snap + 4:
            raise ValueError(f"room {room} holds no packet of {self.tap.snap} bytes")
        block = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>room)
        used = pcapng_read(self.tap, <uint8_t *>PyBytes_AS_STRING(block), room, &self.packets)
        return block[:used]


cdef class Trace(_Tap):
    """The walks of single packets through the engine."""

    def __cinit__(self, BindingCache engine not None, *, count, terms=(), verdicts=None,
                  slots=1024):
        if count < 1:
            raise ValueError(f"count {count}: expected 1 or more")
        self._make(engine, 0, 0, slots, terms, verdicts, count)

    def read(self):
        """Walks since the last call, oldest first: see ``_dataplane.pyi``."""
        cdef tap_ring *ring
        cdef const tap_walk *walk
        cdef double ns_per_tick = self.engine._ns_per_tick()
        walks = []
        while self.tap is not NULL:
            ring = tap_earliest(self.tap)
            if ring is NULL:
                break
            walk = <const tap_walk *>tap_oldest(self.tap, ring)
            walks.append(self._tell(ring, walk, ns_per_tick))
            tap_took(ring)
        return walks

    cdef object _tell(self, tap_ring *ring, const tap_walk *walk, double ns_per_tick):
        cdef uint32_t kept = min(walk.out_count, TAP_WALK_OUTS)
        cdef uint32_t worker = 0
        while self.tap.rings[worker] != ring:
            worker += 1
        told = {
            "wall_ns": walk.wall_ns,
            "worker": worker,
            "side": walk.side,
            "port": "memory" if walk.came_by is NULL else _text(walk.came_by),
            "length": walk.came.length,
            "data": (<const char *>walk.came.bytes)[:walk.came.kept],
            "key": swap32(walk.key),
            "line": None,
            "verdict": _text(fm_verdict_table[walk.verdict].name),
            "ns": walk.ns_ticks * ns_per_tick,
            "left": [(walk.out[i].side, walk.out[i].length,
                      (<const char *>walk.out[i].bytes)[:walk.out[i].kept]) for i in range(kept)],
            "left_count": walk.out_count,
        }
        if walk.home:
            told["line"] = {
                "number": walk.number,
                "home": swap32(walk.home),
                "remote": swap32(walk.remote),
                "local": swap32(walk.local),
                "encapsulation": _METHODS.get(walk.method & ~FM_UDP, "?"),
                "udp": bool(walk.method & FM_UDP),
                "reverse": bool(walk.flags & FM_LINE_REVERSE),
                "chain": walk.chain,
                "budget": walk.budget,
                "remaining_ns": <int64_t>(walk.expires_ns - walk.now_ns),
            }
        return told
