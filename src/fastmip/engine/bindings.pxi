# The binding cache and its counters as Python sees them. The control thread is the only
# caller; nothing here is called by a worker. Bodies are thin: control.h does the work.

cdef object _text(const char *chars):
    return chars.decode("ascii")


cdef uint64_t _boot_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <uint64_t>now.tv_sec * 1000000000u + <uint64_t>now.tv_nsec


cdef object _cost_told(fm_cost *cost, double ns_per_tick):
    spent = <double>cost.sampled_ticks * ns_per_tick
    return {"calls": cost.calls, "packets": cost.packets,
            "ns_per_packet": spent / cost.sampled_packets if cost.sampled_packets else 0.0}


cdef class BindingCache(ProtectedCache):
    """The binding cache, its workers and its counters.

    ``max_bindings`` is fixed for life: memory is reserved for it here and touched as bindings
    come. ``icmp_per_second`` and ``icmp_burst`` bound our own ICMP errors per worker
    (RFC 1812 4.3.2.8). Raises ValueError for bad arguments, MemoryError when the system
    refuses the address space.
    """

    cdef dict _prepared  # ticket -> home address
    cdef dict _reserved  # home address -> prepared chains
    cdef dict _prefixes  # (prefix, length) -> home address
    cdef dict _routers  # home address -> number
    cdef dict _router_uses  # home address -> prefixes
    cdef object _free_routers  # numbers, the one that is free for the longest time first
    cdef bint _is_port_busy
    cdef dict _listeners  # home addresses with a tunnel that wants broadcasts, oldest turn first
    cdef fm_out *_broadcast
    cdef list _sent  # broadcasts that a memory port hands out
    cdef Py_buffer _offload_homes

    def __cinit__(self, *, max_bindings, role="home-agent", workers=1, local_addresses=(),
                  icmp_per_second=100, icmp_burst=50):
        cdef uint64_t seed[6]
        if not 1 <= max_bindings <= 1 << 27:
            raise ValueError(f"max_bindings {max_bindings}: expected 1 to {1 << 27}")
        if role not in _ROLES:
            raise ValueError(f"role {role!r}: expected one of {', '.join(_ROLES)}")
        if not 1 <= workers < FM_WORKERS_MAX:
            raise ValueError(f"workers {workers}: expected 1 to {FM_WORKERS_MAX - 1}")
        if len(local_addresses) > FM_LOCAL_MAX:
            raise ValueError(f"{len(local_addresses)} local addresses: at most {FM_LOCAL_MAX}")
        random = urandom(sizeof(seed))
        memcpy(seed, <const char *>random, sizeof(seed))
        self.workers = workers
        self._prepared = {}
        self._reserved = {}
        self._prefixes = {}
        self._routers = {}
        self._router_uses = {}
        self._free_routers = deque()
        self._listeners = {}
        self._sent = []
        self._broadcast = NULL
        # Not inside the Python object: its members are aligned to cache lines.
        self.control = <fm_control *>aligned_alloc(64, sizeof(fm_control))
        if self.control is NULL:
            raise MemoryError("no memory for an engine")
        memset(self.control, 0, sizeof(fm_control))
        cdef int code = control_create(
            self.control, max_bindings, _ROLES.index(role), workers + 1, seed, icmp_per_second,
            icmp_burst)
        if code != 0:
            raise MemoryError(f"no address space for {max_bindings} bindings")
        for number, address in enumerate(local_addresses):
            self.control.e.local_be[number] = swap32(address)
        self.control.e.local_count = len(local_addresses)
        self.control.started_ticks = fm_ticks()
        self.control.started_ns = _boot_ns()

    def __dealloc__(self):
        if self.control is not NULL:
            if self.control.e.half_bound_fd >= 0:
                close(self.control.e.half_bound_fd)
            egress_destroy(self.control.e.egress[FM_HOME])
            egress_destroy(self.control.e.egress[FM_TUNNEL])
            self._leave_offload()
            esp_destroy(self.control)
            control_destroy(self.control)
            free(self.control)
        free(self._broadcast)

    # binding cache

    cdef int _keeps_slot(self, home_address):
        return 1 if home_address in self._reserved else 0

    cdef object _settle(self, ticket):
        home_address = self._prepared.pop(ticket)
        left = self._reserved.pop(home_address) - 1
        if left:
            self._reserved[home_address] = left
        return home_address

    def prepare(self, tunnels):
        """Allocate the chain of one home address; returns a ticket.

        ``tunnels`` is 1 to 8 records (``TUNNEL_RECORD_SIZE``). Nothing a worker sees changes.
        Raises EngineFull without room, ValueError for records that cannot be a tunnel.
        """
        cdef Py_buffer view
        cdef int64_t ticket
        cdef const char *reason
        cdef Py_ssize_t count
        cdef int keep_slot
        cdef const fm_record *records
        PyObject_GetBuffer(tunnels, &view, PyBUF_SIMPLE)
        try:
            count = view.len // <Py_ssize_t>sizeof(fm_record)
            if view.len != count * <Py_ssize_t>sizeof(fm_record) or not 1 <= count <= FM_MAX_COPIES:
                raise ValueError(f"{view.len} bytes are no 1 to {FM_MAX_COPIES} tunnel records")
            records = <const fm_record *>view.buf
            for number in range(count):
                reason = control_reject(&records[number])
                if reason != NULL:
                    raise ValueError(f"tunnel record {number}: {_text(reason)}")
                self._check_bundle(number, &records[number])
                if records[number].home != records[0].home:
                    raise ValueError(f"tunnel record {number}: another home address")
            home_address = records[0].home
            keep_slot = self._keeps_slot(home_address)
            with nogil:
                ticket = control_prepare_patiently(self.control, records, <uint32_t>count,
                                                   keep_slot)
        finally:
            PyBuffer_Release(&view)
        if ticket < 0:
            raise EngineFull(f"no room for {count} more of {self.control.max_bindings} bindings")
        self._prepared[ticket] = home_address
        self._reserved[home_address] = self._reserved.get(home_address, 0) + 1
        return ticket

    def publish(self, ticket):
        """Make a prepared chain visible to workers with one store; retires the old one.

        Raises KeyError for a ticket that is not prepared; cannot fail otherwise.
        """
        home_address = self._settle(ticket)
        control_publish_router(self.control, ticket, self._routers.get(home_address, 0))
        self._listen(home_address)

    def abandon(self, ticket):
        """Give a prepared chain back. Raises KeyError for a ticket that is not prepared."""
        home_address = self._settle(ticket)
        control_abandon(self.control, ticket, self._keeps_slot(home_address))

    def remove(self, home_address):
        """Withdraw a home address; False if it was not there."""
        self._listeners.pop(home_address, None)
        return bool(control_remove_router(self.control, swap32(home_address),
                                          self._keeps_slot(home_address),
                                          self._routers.get(home_address, 0)))

    def extend(self, home_address, remote, expires_ns):
        """Refresh one tunnel: a single atomic store. False if there is no such tunnel."""
        return bool(control_extend(self.control, swap32(home_address), swap32(remote),
                                   expires_ns))

    def restore(self, tunnels):
        """Prepare and publish many records, chains adjacent; returns records installed.

        Raises EngineFull or ValueError at the first record that cannot be installed; the
        records before it stay installed.
        """
        cdef Py_buffer view
        cdef int64_t installed, count
        cdef uint64_t at = 0
        cdef const char *reason = NULL
        PyObject_GetBuffer(tunnels, &view, PyBUF_SIMPLE)
        try:
            count = view.len // <Py_ssize_t>sizeof(fm_record)
            if view.len % <Py_ssize_t>sizeof(fm_record):
                raise ValueError(f"{view.len} bytes are no whole tunnel records")
            with nogil:
                installed = control_restore(self.control, <const fm_record *>view.buf,
                                            <uint64_t>count, &at, &reason)
            self._listen_all(<const fm_record *>view.buf, installed)
            self._lead_all()
        finally:
            PyBuffer_Release(&view)
        if reason != NULL:
            raise ValueError(f"tunnel record {at}: {_text(reason)}")
        if installed != count:
            raise EngineFull(f"no room for record {installed} of {count}: "
                             f"{self.control.max_bindings} bindings")
        return installed

    def bindings(self):
        """Published bindings; simultaneous bindings count each."""
        return self.control.published

    def memory_bytes(self):
        """Bytes in memory (not merely reserved) for bindings, indexes, counters and scratch."""
        return control_memory(self.control)

    # home addresses for the offload programs

    def use_offload(self, networks, homes):
        """Keep the entries of home addresses that the BPF programs read.

        ``networks``: (first, last) of each home network, in order; ``homes``: their entries,
        128 bytes each, the memory of a BPF map, in use until ``leave_offload``. Call it before
        anything is published and before workers start. Raises ValueError for what does not fit.
        """
        cdef fm_offload *offload
        cdef uint64_t count = sum([last - first + 1 for first, last in networks])
        if self.control.e.offload != NULL or self.control.published:
            raise ValueError("offload comes before bindings, and once")
        if not 1 <= len(networks) <= FM_OFFLOAD_NETWORKS or not 1 <= count < 1 << 31:
            raise ValueError(f"{len(networks)} home networks of {count} addresses")
        PyObject_GetBuffer(homes, &self._offload_homes, PyBUF_WRITABLE)
        offload = <fm_offload *>calloc(1, sizeof(fm_offload))
        if offload == NULL or <uint64_t>self._offload_homes.len < count * sizeof(fm_home):
            free(offload)
            PyBuffer_Release(&self._offload_homes)
            raise ValueError(f"no room for {count} home addresses")
        offload.cleared = <fm_home_tally *>control_map(count * sizeof(fm_home_tally))
        offload.home_count = <uint32_t>count
        offload.homes = <fm_home *>self._offload_homes.buf
        count = 0
        for number, (first, last) in enumerate(networks):
            offload.network[number].first = first
            offload.network[number].last = last
            offload.network[number].home = <uint32_t>count
            count += last - first + 1
        offload.network_count = len(networks)
        self.control.e.offload = offload
        if offload.cleared == NULL:
            self._leave_offload()
            raise MemoryError("no memory for the counters of offload")

    cdef _leave_offload(self):
        cdef fm_offload *offload = self.control.e.offload
        if offload == NULL:
            return
        self.control.e.offload = NULL
        control_unmap(offload.cleared, offload.home_count * sizeof(fm_home_tally))
        free(offload)
        PyBuffer_Release(&self._offload_homes)

    def leave_offload(self):
        """Give the memory of ``use_offload`` back; when workers have stopped."""
        self._leave_offload()

    # broadcasts of the home network

    cdef int _listen(self, home_address) except -1:
        """Note whether a home address wants broadcasts."""
        cdef uint32_t number = control_head(self.control, swap32(home_address))
        self._listeners.pop(home_address, None)
        while number:
            if self.control.e.lines[number].flags & FM_LINE_BROADCAST:
                self._listeners[home_address] = None
                return 0
            number = self.control.e.lines[number].next
        return 0

    cdef int _listen_all(self, const fm_record *records, int64_t count) except -1:
        cdef int64_t number
        for number in range(count):
            if records[number].flags & FM_RECORD_BROADCAST:
                self._listen(records[number].home)
        return 0

    def listeners(self):
        """Home addresses that want broadcasts."""
        return len(self._listeners)

    def broadcast(self, packet):
        """Copy an IPv4 packet to every tunnel that wants broadcasts; returns the copies sent.

        Nested in a packet to the home address where the record says so; the TTL stays, as on
        the link. At most 1024 home addresses are served by one call; the next call goes on with
        the others, so that all have their share. Raises ValueError for what is no whole IPv4
        packet of at most 1500 bytes.
        """
        cdef fm_worker *worker = self.control.e.workers[self.workers]
        packet = bytes(packet)
        cdef const uint8_t *octets = <const uint8_t *><const char *>packet
        cdef uint32_t length = <uint32_t>len(packet), home, copies = 0
        if length > FM_BROADCAST_PACKET_MAX or ipv4_check(octets, length, 0) != FM_NONE:
            raise ValueError(f"{length} bytes are no IPv4 packet to broadcast")
        length = ipv4_total(octets)
        if not self._listeners:
            return 0
        if self._broadcast == NULL:
            self._broadcast = <fm_out *>calloc(1, sizeof(fm_out))
            if self._broadcast == NULL:
                raise MemoryError
        turn = list(islice(self._listeners, FM_BROADCAST_MAX))
        _claim_port(self)
        try:
            broadcast_start(worker, _boot_ns())
            for home_address in turn:
                del self._listeners[home_address]
                self._listeners[home_address] = None
                home = home_address
                copies += broadcast_to(self.control, worker, swap32(home), octets, length,
                                       self._broadcast)
            copies -= min(copies, self._send_broadcast())
        finally:
            self._broadcast.count[FM_HOME] = self._broadcast.count[FM_TUNNEL] = 0
            fm_worker_offline(worker)
            self._is_port_busy = False
        return copies

    cdef int _send_broadcast(self) except -1:
        """Send what ``_broadcast`` holds; how many were refused. Without a kernel port a memory
        port's ``take`` finds them."""
        cdef fm_desc *d
        for number in range(self._broadcast.count[FM_TUNNEL]):
            d = self._broadcast.packets[FM_TUNNEL][number]
            self._sent.append((<const char *>d.data)[:d.len])
        return 0

    # half bound UDP tunnels

    def take_half_bound(self):
        """Keepalives through half bound UDP tunnels since the last call: home address, source,
        port. Publish the tunnel anew with that port; packets are dropped until then."""
        cdef fm_half_bound told
        cdef uint64_t woken
        result = []
        if self.control.e.half_bound_fd >= 0:
            eventfd_read(self.control.e.half_bound_fd, &woken)
        for worker in range(self.control.e.worker_count):
            while half_bound_take(self.control.e.workers[worker], &told):
                result.append((told.home, told.source, told.port))
        return result

    def half_bound_fd(self):
        """A descriptor that becomes readable when ``take_half_bound`` has something; it belongs
        to the engine. Ask for it before workers start. Raises OSError when there is none."""
        if self.control.e.half_bound_fd < 0:
            self.control.e.half_bound_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
            if self.control.e.half_bound_fd < 0:
                raise OSError("no descriptor for half bound tunnels")
        return self.control.e.half_bound_fd

    # mobile networks

    def reserve_prefix(self, prefix, length):
        """Make room for a prefix, so that ``set_prefix`` of it cannot fail any more.

        Nothing a worker sees changes. Raises as ``set_prefix`` does.
        """
        self._check_prefix(prefix, length)
        if prefixes_reserve(&self.control.e.prefixes, prefix, length) != 0:
            raise EngineFull("no room for another prefix longer than 24 bits")

    def set_prefix(self, prefix, length, home_address):
        """Lead a prefix of 1 to 32 bits to the chain of a home address (longest match wins).

        Raises ValueError for a prefix with host bits or a bad length, EngineFull when more
        than 65536 /24s hold longer prefixes.
        """
        self._check_prefix(prefix, length)
        if not 0 < home_address < 0xe0000000:
            raise ValueError("home address is no unicast address")
        self.reserve_prefix(prefix, length)
        number = self._router(home_address)
        prefixes_apply(&self.control.e.prefixes, prefix, length, 0, number, length)
        before = self._prefixes.get((prefix, length))
        if before is None:
            prefixes_note(&self.control.e.prefixes, prefix, length, 0)
        self._prefixes[prefix, length] = home_address
        self._router_uses[home_address] += 1
        if before is not None:
            self._use_no_more(before)

    cdef object _router(self, home_address):
        """Number of a router, one that is free for a long time if it is a new one."""
        cdef uint32_t number
        known = self._routers.get(home_address)
        if known is not None:
            return known
        fresh = len(self._routers) + len(self._free_routers) + 1
        if fresh < self.control.e.prefixes.router_max:
            number = fresh
        elif self._free_routers:
            number = self._free_routers.popleft()
        else:
            raise EngineFull("no room for another mobile router")
        control_lead(self.control, number, 0)
        self.control.e.prefixes.routers[number].home = swap32(home_address)
        control_lead(self.control, number, control_head(self.control, swap32(home_address)))
        self._routers[home_address] = number
        self._router_uses[home_address] = 0
        return number

    cdef int _use_no_more(self, home_address) except -1:
        """A router lost a prefix; with the last one its number."""
        self._router_uses[home_address] -= 1
        if not self._router_uses[home_address]:
            del self._router_uses[home_address]
            self._free_routers.append(self._routers.pop(home_address))
        return 0

    cdef int _lead_all(self) except -1:
        """Lead all mobile networks to the chains their routers have now."""
        for home_address, number in self._routers.items():
            control_lead(self.control, number, control_head(self.control, swap32(home_address)))
        return 0

    def clear_prefix(self, prefix, length):
        """Forget a prefix; False if it was not set."""
        self._check_prefix(prefix, length)
        home_address = self._prefixes.pop((prefix, length), None)
        if home_address is None:
            return False
        value, value_length = 0, 0
        for shorter in range(length - 1, 0, -1):
            covering = prefix & ~(0xffffffff >> shorter) & 0xffffffff
            if (covering, shorter) in self._prefixes:
                value = self._routers[self._prefixes[covering, shorter]]
                value_length = shorter
                break
        prefixes_apply(&self.control.e.prefixes, prefix, length, 1, value, value_length)
        prefixes_note(&self.control.e.prefixes, prefix, length, 1)
        self._use_no_more(home_address)
        return True

    def prefixes(self):
        """(prefix, length) -> home address of its router."""
        return dict(self._prefixes)

    cdef int _check_prefix(self, prefix, length) except -1:
        if not 1 <= length <= 32:
            raise ValueError(f"prefix length {length}: expected 1 to 32")
        if not 0 <= prefix <= 0xffffffff or (length < 32 and prefix & (0xffffffff >> length)):
            raise ValueError(f"prefix {prefix:#x} has bits beyond length {length}")
        return 0

    # L2 ports

    def egress(self, int side):
        """Where packets leave to on a side by L2 ports. Ask before workers start."""
        return Egress(self, side)

    # seeing it

    def counters(self):
        """Verdict name -> (packets, bytes), summed over workers."""
        cdef fm_counts counts = control_counts(self.control)
        return {_text(fm_verdict_table[verdict].name):
                (counts.verdicts[verdict].packets, counts.verdicts[verdict].bytes)
                for verdict in range(FM_NONE + 1, FM_VERDICT_COUNT)}

    def events(self):
        """Event name -> count: things beside the outcome (fragments made, errors withheld)."""
        cdef fm_counts counts = control_counts(self.control)
        return {_text(fm_event_table[event].name): counts.events[event]
                for event in range(FM_EVENT_COUNT)}

    def balance(self):
        """inputs, generated, copies, verdicts: inputs + generated + copies == verdicts.

        Exact when no worker is inside a batch.
        """
        cdef fm_counts counts = control_counts(self.control)
        verdicts = sum([counts.verdicts[number].packets
                        for number in range(FM_NONE + 1, FM_VERDICT_COUNT)])
        return {"inputs": counts.inputs, "generated": counts.generated,
                "copies": counts.copies, "verdicts": verdicts}

    def traffic(self, home_address):
        """Per tunnel: remote, packets and bytes in each direction, and its soft state."""
        result = []
        cdef uint32_t number = control_head(self.control, swap32(home_address))
        cdef fm_line *line
        cdef fm_soft soft
        cdef uint64_t now_ns = _boot_ns()
        cdef fm_home_tally offloaded = offload_traffic(&self.control.e, swap32(home_address))
        while number:
            line = &self.control.e.lines[number]
            soft = line_soft(line)
            row = {
                "remote": swap32(line.remote),
                "local": swap32(line.local),
                "expires_ns": line.expires,
                "mtu": line_budget(line, soft, now_ns) + line_overhead(line),
                "overhead": line_overhead(line),
                "unreachable": int(soft.unreachable != 0
                                   and now_ns // 1000000000u - soft.learnt_s < FM_SOFT_LIFE_S),
                "sent_packets": 0, "sent_bytes": 0, "received_packets": 0, "received_bytes": 0,
            }
            for worker in range(self.control.e.worker_count):
                row["sent_packets"] += self.control.e.workers[worker].sent[number].packets
                row["sent_bytes"] += self.control.e.workers[worker].sent[number].bytes
                row["received_packets"] += self.control.e.workers[worker].received[number].packets
                row["received_bytes"] += self.control.e.workers[worker].received[number].bytes
            row["sent_packets"] += offloaded.sent_packets
            row["sent_bytes"] += offloaded.sent_bytes
            row["received_packets"] += offloaded.received_packets
            row["received_bytes"] += offloaded.received_bytes
            memset(&offloaded, 0, sizeof(offloaded))  # it has one tunnel
            result.append(row)
            number = line.next
        return result

    cdef double _ns_per_tick(self):
        ticks = fm_ticks() - self.control.started_ticks
        cdef double elapsed_ns = <double>(_boot_ns() - self.control.started_ns)
        return elapsed_ns / <double>(ticks + 1)

    def stages(self):
        """Stage name -> calls, packets, ns_per_packet (sampled; 0.0 before the first sample)."""
        cdef double ns_per_tick = self._ns_per_tick()
        cdef fm_counts counts = control_counts(self.control)
        return {_STAGES[stage]: _cost_told(&counts.costs[stage], ns_per_tick)
                for stage in range(FM_STAGES)}

    def worker_stages(self):
        """The same for each worker by itself, and last for the control thread's own packets."""
        cdef fm_cost cost
        cdef double ns_per_tick = self._ns_per_tick()
        result = []
        for worker in range(self.control.e.worker_count):
            stages = {}
            for stage in range(FM_STAGES):
                cost = control_cost(self.control, worker, stage)
                stages[_STAGES[stage]] = _cost_told(&cost, ns_per_tick)
            result.append(stages)
        return result

    def clear_counters(self):
        """Count verdicts, events and stage costs from zero; per-tunnel traffic stays.

        May be called at any time: the balance holds afterwards, too.
        """
        control_clear_counters(self.control)

    def loops(self):
        """Instruction set of the fast loops: ``avx2`` or ``scalar``."""
        return _text(self.control.loops)

    def use_scalar_loops(self, bint is_scalar):
        """Choose the scalar twin of the fast loops, for tests and comparison."""
        self.control.loops = fm_choose_loops(&self.control.e, &self.control.find, is_scalar)
        tap_engage(&self.control.e)
