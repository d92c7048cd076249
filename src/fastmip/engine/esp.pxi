# ESP's security associations as Python sees them: esp_control.h does the work. Keys come in as
# bytes, are copied once, and zeroed in every place of ours; nothing here gives one back.

_ESP_SUITES = ("aes128-gcm16", "aes256-gcm16", "aes128-cbc-sha256", "aes256-cbc-sha256")
_ESP_EVENTS = ("confirmed", "soft", "hard", "block")


cdef const crypto_provider *_esp_provider(provider) except? NULL:
    cdef const crypto_provider *chosen = NULL
    if provider in ("auto", "ipsec-mb"):
        chosen = crypto_ipsec_mb()
    if chosen == NULL and provider in ("auto", "libcrypto"):
        chosen = crypto_openssl()
    if chosen == NULL:
        raise ValueError(f"ESP provider {provider!r}: not on this machine")
    return chosen


cdef class ProtectedCache:
    """What a binding cache has with ESP: its security associations (SAs) and bundles."""

    cdef fm_control *control  # apart: Python objects are not aligned to cache lines
    cdef readonly int workers

    cdef fm_esp *_esp(self) except NULL:
        if self.control.e.esp == NULL:
            raise ValueError("use_esp comes first")
        return self.control.e.esp

    cdef esp_sa *_sa(self, sa) except NULL:
        cdef fm_esp *esp = self._esp()
        if not 0 < sa <= esp.max or not esp_is_sa(esp, sa):
            raise KeyError(sa)
        return &esp.sas[<uint32_t>sa]

    def use_esp(self, *, max_sas=4096, provider="auto"):
        """Make room for ESP, once, before workers start; returns who computes it.

        ``provider`` is ``ipsec-mb``, ``libcrypto`` or ``auto``, the first of them that is here.
        """
        cdef uint64_t seed[3]
        if self.control.e.esp != NULL:
            raise ValueError("ESP is in use already")
        if not 1 <= max_sas <= 1 << 20:
            raise ValueError(f"max_sas {max_sas}: expected 1 to {1 << 20}")
        cdef const crypto_provider *chosen = _esp_provider(provider)
        random = urandom(sizeof(seed))
        memcpy(seed, <const char *>random, sizeof(seed))
        if esp_create(self.control, chosen, max_sas, seed) != 0:
            raise MemoryError(f"no memory for {max_sas} SAs")
        tap_engage(&self.control.e)
        return self.esp_provider()

    def esp_provider(self):
        """Who computes ESP, with its version; empty without ``use_esp``."""
        if self.control.e.esp == NULL:
            return ""
        return (f"{_text(self.control.e.esp.provider.name)} "
                f"{_text(self.control.e.esp.provider.version)}")

    def new_bundle(self):
        """A bundle of SAs, both directions, for tunnel records to name."""
        cdef fm_esp *esp = self._esp()
        cdef uint32_t number
        for number in range(1, esp.max + 1):
            if not esp.bundles[number].is_used:
                esp.bundles[number].is_used = 1
                esp.bundles[number].out = 0
                return number
        raise EngineFull(f"no room for more of {esp.max} bundles")

    def drop_bundle(self, bundle):
        """Give a bundle back: when its SAs are removed and no tunnel record names it."""
        cdef fm_esp *esp = self._esp()
        if not self._is_bundle(bundle):
            raise KeyError(bundle)
        esp.bundles[<uint32_t>bundle].is_used = 0

    cdef bint _is_bundle(self, bundle) except -1:
        cdef fm_esp *esp = self._esp()
        return 0 < bundle <= esp.max and esp.bundles[<uint32_t>bundle].is_used != 0

    cdef int _check_bundle(self, number, const fm_record *record) except -1:
        if record.bundle and (self.control.e.esp == NULL or not self._is_bundle(record.bundle)):
            raise ValueError(f"tunnel record {number}: no bundle {record.bundle}")
        return 0

    def new_spi(self):
        """A random SPI no inbound SA has."""
        cdef fm_esp *esp = self._esp()
        while True:
            spi = int.from_bytes(urandom(4), "big")
            if spi >= ESP_SPI_MIN and index_slot(&esp.by_spi, swap32(spi)) < 0:
                return spi

    def sa_add(self, *, bundle, bint inbound, spi, suite, key, local, remote, bint esn=False,
               window=1024, first=1, last=0, udp_ports=(0, 0), selectors=None, soft_packets=0,
               hard_packets=0, soft_bytes=0, hard_bytes=0, soft_ns=0, hard_ns=0):
        """Install an SA; returns its number. An outbound one sends after ``sa_send``."""
        cdef esp_record r
        cdef fm_esp *esp = self._esp()
        cdef uint32_t number
        memset(&r, 0, sizeof(r))
        if not self._is_bundle(bundle):
            raise ValueError(f"no bundle {bundle}")
        if suite not in _ESP_SUITES:
            raise ValueError(f"suite {suite!r}: expected one of {', '.join(_ESP_SUITES)}")
        if not ESP_SPI_MIN <= spi <= 0xffffffff:
            raise ValueError(f"SPI {spi}: expected 256 to 4294967295")
        if not ESP_WINDOW_MIN <= window <= ESP_WINDOW_MAX:
            raise ValueError(f"window {window}: expected {ESP_WINDOW_MIN} to {ESP_WINDOW_MAX}")
        if first < 1:
            raise ValueError("the first sequence number is 1")
        if inbound and index_slot(&esp.by_spi, swap32(spi)) >= 0:
            raise ValueError(f"SPI {spi} is in use")
        r.suite = _ESP_SUITES.index(suite)
        if len(key) != crypto_key_size(r.suite):
            raise ValueError(f"{len(key)} bytes are no key for {suite}: "
                             f"{crypto_key_size(r.suite)} are")
        r.bundle = bundle
        r.spi = spi
        r.local = local
        r.remote = remote
        r.window = window
        r.remote_port, r.local_port = udp_ports
        r.is_inbound = inbound
        r.is_esn = esn
        r.is_shared = self.workers > 1
        r.first = first
        r.last = last
        r.soft_packets = soft_packets
        r.hard_packets = hard_packets
        r.soft_bytes = soft_bytes
        r.hard_bytes = hard_bytes
        r.soft_ns = soft_ns
        r.hard_ns = hard_ns
        if selectors is not None:
            r.has_selectors = 1
            r.remote_first, r.remote_last, r.local_first, r.local_last = selectors
        key = bytes(key)
        memcpy(r.key, <const char *>key, len(key))
        number = esp_add(self.control, &r)
        crypto_wipe(&r, sizeof(r))
        if not number:
            raise EngineFull(f"no room for more of {esp.max} SAs")
        return number

    def sa_send(self, sa):
        """Let its bundle send by this outbound SA from now on."""
        if self._sa(sa).flags & ESP_INBOUND:
            raise ValueError(f"SA {sa} is inbound")
        esp_send_by(self._esp(), sa)

    def sa_reserve(self, sa, last):
        """Sequence numbers up to ``last`` may be sent."""
        cdef esp_sa *found = self._sa(sa)
        esp_set_block(found, last, found.sequence)

    def sa_remove(self, sa):
        """Withdraw an SA; its key is zeroed when no worker can hold it any more."""
        self._sa(sa)
        esp_remove(self.control, sa)

    def sa_dummy(self, sa):
        """A sealed dummy packet (RFC 4303 2.6) with its IPv4 header, for the caller to send."""
        cdef uint8_t room[ESP_DUMMY_MAX]
        cdef uint8_t *packet = NULL
        cdef uint32_t length
        if self._sa(sa).flags & ESP_INBOUND:
            raise ValueError(f"SA {sa} is inbound")
        length = esp_dummy(self.control.e.workers[self.workers], sa, _boot_ns(), room, &packet)
        if not length:
            raise EngineFull(f"SA {sa} may send no more")
        return (<const char *>packet)[:length]

    def sa_state(self, sa):
        """Its direction, bundle, packets, bytes, and the highest sequence number so far."""
        cdef esp_sa *found = self._sa(sa)
        is_inbound = bool(found.flags & ESP_INBOUND)
        return {
            "inbound": is_inbound, "bundle": found.bundle, "packets": found.packets,
            "bytes": found.bytes, "last": found.last,
            "sequence": found.window.highest if is_inbound else found.sequence,
            "told": [_ESP_EVENTS[bit] for bit in range(4) if found.told >> bit & 1],
        }

    def take_sa_events(self):
        """What workers told since the last call: (SA, what)."""
        cdef esp_told told
        cdef uint64_t value
        cdef fm_esp *esp = self._esp()
        events = []
        eventfd_read(esp.event_fd, &value)
        while esp_take_told(esp, &told):
            events.append((told.sa, _ESP_EVENTS[told.event]))
        return events

    def esp_events_fd(self):
        """Readable when there are some; never close it."""
        return self._esp().event_fd
