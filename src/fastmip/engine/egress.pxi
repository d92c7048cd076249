# Routes, links and neighbours for L2 ports: what runtime.route_mirror fills (egress.h).

cdef class Egress:
    """Next hops of one side's destinations. The control thread is the only caller.

    A way is (gateway or 0, link, mtu or 0, weight): where packets of a route go next.
    """

    cdef BindingCache cache  # owns the table
    cdef fm_egress *table

    def __cinit__(self, BindingCache cache not None, int side):
        if side not in (FM_HOME, FM_TUNNEL):
            raise ValueError(f"side {side}: expected HOME or TUNNEL")
        self.cache = cache
        if cache.control.e.egress[side] is NULL:
            cache.control.e.egress[side] = egress_create()
        self.table = cache.control.e.egress[side]
        if self.table is NULL:
            raise MemoryError("no address space for routes")

    # links

    def set_link(self, number, ifindex, mac, mtu, port=EGRESS_NO_PORT):
        """Make link 1 to 255 usable, or change it: one store."""
        self._check_link(number)
        egress_set_link(self.table, number, ifindex, _mac(mac), _mtu(mtu), port)

    def clear_link(self, number):
        """Nothing leaves by this link any more."""
        self._check_link(number)
        egress_clear_link(self.table, number)

    cdef int _check_link(self, number) except -1:
        if not 1 <= number < EGRESS_LINKS:
            raise ValueError(f"link {number}: expected 1 to {EGRESS_LINKS - 1}")
        return 0

    # sets of next hops

    cdef int _fill(self, number, ways) except -1:
        cdef uint64_t way[EGRESS_WAYS]
        cdef uint32_t weights[EGRESS_WAYS]
        cdef uint32_t count = 0
        for gateway, link, mtu, weight in ways[:EGRESS_WAYS]:
            self._check_link(link)
            if not 1 <= weight <= 0xffff:
                raise ValueError(f"weight {weight}: expected 1 to 65535")
            way[count] = EGRESS_WAY(swap32(gateway), link, _mtu(mtu) if mtu else 0)
            weights[count] = weight
            count += 1
        egress_fill_set(self.table, number, way, weights, count)
        return 0

    cdef int _check_set(self, number) except -1:
        if not EGRESS_KERNEL < number < EGRESS_SETS:
            raise ValueError(f"set {number}: not one of ours")
        return 0

    def add_set(self, ways):
        """A set of next hops; returns its number. Raises EngineFull."""
        number = egress_take_set(self.table, &self.cache.control.e)
        if number == 0:
            raise EngineFull(f"{EGRESS_SETS} sets of next hops are all in use")
        self._fill(number, ways)
        return number

    def change_set(self, number, ways):
        """Other next hops for whatever leads to a set: one store each."""
        self._check_set(number)
        self._fill(number, ways)

    def retire_set(self, number):
        """Give a number back that no route leads to; another set gets it when workers passed."""
        self._check_set(number)
        egress_retire_set(self.table, &self.cache.control.e, number)

    # routes

    cdef int _check_route(self, prefix, length) except -1:
        if not 0 <= length <= 32 or not 0 <= prefix <= 0xffffffff:
            raise ValueError(f"prefix {prefix:#x}/{length}: expected 0 to 32 bits")
        if length < 32 and prefix & (0xffffffff >> length):
            raise ValueError(f"prefix {prefix:#x} has bits beyond length {length}")
        return 0

    def set_route(self, prefix, length, number):
        """Lead a prefix to a set; False if there was no room and the kernel keeps it."""
        cdef fm_egress_change change
        self._check_route(prefix, length)
        if not EGRESS_KERNEL <= number < EGRESS_SETS:
            raise ValueError(f"set {number}: not one of ours")
        change.value = number
        change.length = change.value_length = length
        change.is_clear = 0
        return egress_apply(self.table, prefix, &change) == 0

    def clear_route(self, prefix, length, covering=0, covering_length=0):
        """Forget a prefix; the set of the next shorter one (but the default route's) returns."""
        cdef fm_egress_change change
        self._check_route(prefix, length)
        change.value = covering
        change.length = length
        change.value_length = covering_length
        change.is_clear = 1
        egress_apply(self.table, prefix, &change)

    # neighbours

    def set_neighbour(self, address, link, mac, *, is_stale=False):
        """A neighbour's MAC; ``told`` returns a stale one that is used. False without room."""
        self._check_link(link)
        return egress_set_neighbour(self.table, swap32(address), link, _mac(mac), is_stale) == 0

    def clear_neighbour(self, address, link):
        """A neighbour cannot be reached any more."""
        self._check_link(link)
        egress_clear_neighbour(self.table, swap32(address), link)

    def told(self):
        """Stale neighbours (address, link) that packets went to since the last call."""
        cdef uint64_t keys[64]
        cdef uint32_t start = 0, count
        result = []
        if not self.table.neighbours[EGRESS_SLOTS].told:
            return result
        self.table.neighbours[EGRESS_SLOTS].told = 0
        while start < EGRESS_SLOTS:
            count = egress_told(self.table, &start, keys, 64)
            for number in range(count):
                result.append((swap32(<uint32_t>keys[number]), keys[number] >> 32))
        return result

    # asking

    def lookup(self, address, flow_hash=0):
        """Destination MAC, source MAC, ifindex, MTU, port; None: the kernel has to do it."""
        cdef fm_hop hop
        if egress_lookup(self.table, swap32(address), flow_hash, &hop) != EGRESS_KNOWN:
            return None
        return _hop(&hop)

    def numbers(self, addresses):
        """For 32-bit addresses the numbers of the neighbours their packets go to, 0: none."""
        cdef Py_buffer view
        cdef Py_ssize_t count, at
        cdef uint32_t *found
        PyObject_GetBuffer(addresses, &view, PyBUF_SIMPLE)
        try:
            count = view.len // 4
            result = bytearray(4 * count)
            found = <uint32_t *><char *>result
            with nogil:
                for at in range(count):
                    found[at] = egress_number(self.table, swap32((<uint32_t *>view.buf)[at]), 0)
        finally:
            PyBuffer_Release(&view)
        return bytes(result)

    def entry(self, number):
        """What a number stands for, as ``lookup`` tells it."""
        cdef fm_hop hop
        if not 0 < number < EGRESS_SLOTS or egress_entry(self.table, number, &hop):
            return None
        return _hop(&hop)

    def time_lookups(self, addresses):
        """Look 32-bit addresses up: (ns, known)."""
        cdef Py_buffer view
        cdef uint64_t total = 0, known, start, spent
        cdef uint32_t *keys
        cdef Py_ssize_t at, count
        PyObject_GetBuffer(addresses, &view, PyBUF_SIMPLE)
        try:
            count = view.len // 4
            copied = bytearray(4 * count)
            keys = <uint32_t *><char *>copied
            for at in range(count):
                keys[at] = swap32((<uint32_t *>view.buf)[at])
            with nogil:
                start = replay_clock()
                known = egress_lookup_many(self.table, keys, <uint64_t>count, &total)
                spent = replay_clock() - start
        finally:
            PyBuffer_Release(&view)
        return spent, known


cdef object _hop(const fm_hop *hop):
    return (<bytes>(<const char *>hop.dst)[:6], <bytes>(<const char *>hop.src)[:6],
            hop.ifindex, hop.mtu, hop.port)


cdef const uint8_t *_mac(bytes mac) except NULL:
    if len(mac) != 6:
        raise ValueError(f"{len(mac)} bytes are no MAC address")
    return <const uint8_t *><const char *>mac


cdef uint16_t _mtu(mtu) except? 0:
    if mtu < 68:
        raise ValueError(f"mtu {mtu}: at least 68")
    return min(mtu, 65535)
