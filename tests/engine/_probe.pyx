# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Test-only window on the engine's inline functions, and a laboratory for publication.

Built by tests/engine/build_probe.py, never shipped.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "control.h" nogil:
    struct fm_control:
        pass

    uint16_t sum_octets(const uint8_t *p, uint32_t length)
    uint16_t sum_update(uint16_t checksum, uint16_t was, uint16_t value)
    int ipv4_sum20_is_right(const uint8_t *p)
    int ipv4_check(const uint8_t *p, uint32_t length, int checksum_done)
    void ipv4_decrement_ttl(uint8_t *p)
    void ipv4_set_tos(uint8_t *p, uint8_t tos)
    int ipv4_is_martian_source(uint32_t address_be)
    uint32_t mtu_plateau_below(uint32_t total)
    uint32_t swap32(uint32_t v)
    void *control_map(uint64_t octets)
    void control_unmap(void *p, uint64_t octets)

cdef extern from "publication_lab.h" nogil:
    enum:
        LAB_ATOMIC
        LAB_IN_PLACE
        LAB_INDEX_FIRST

    struct lab_result:
        uint64_t packets
        uint64_t broken
        uint64_t missed
        uint64_t backwards

    struct lab:
        int stop
        uint64_t published

    int lab_create(lab *l)
    void lab_destroy(lab *l)
    void lab_churn(lab *l, int how, uint64_t publications)
    uint64_t lab_learn_late(lab *l)
    void lab_watch(lab *l, lab_result *result)
    void lab_stop(lab *l)


def sum_of(bytes data):
    """RFC 1071 sum as it lies in memory."""
    return sum_octets(data, <uint32_t>len(data))


def updated(checksum, was, value):
    """RFC 1624 update."""
    return sum_update(checksum, was, value)


def is_checksum_right(bytes data):
    """The checksum test of the fast loops."""
    assert len(data) == 20
    return bool(ipv4_sum20_is_right(data))


def with_ttl_decremented(bytes data):
    """TTL - 1 with the checksum patched."""
    header = bytearray(data)
    ipv4_decrement_ttl(header)
    return bytes(header)


def with_tos(bytes data, tos):
    """Another TOS with the checksum patched."""
    header = bytearray(data)
    ipv4_set_tos(header, tos)
    return bytes(header)


def is_martian(address):
    """Source that is no unicast host."""
    return bool(ipv4_is_martian_source(swap32(address)))


def plateau_below(total):
    """RFC 1191 7.1."""
    return mtu_plateau_below(total)


cdef class PublicationLab:
    """A binding cache under change on one thread and under packets on another."""

    cdef lab *inside
    HOW = {"atomic": LAB_ATOMIC, "in-place": LAB_IN_PLACE, "index-first": LAB_INDEX_FIRST}

    def __cinit__(self):
        self.inside = <lab *>control_map(sizeof(lab))
        if self.inside == NULL or lab_create(self.inside) != 0:
            raise MemoryError

    def __dealloc__(self):
        if self.inside != NULL:
            lab_destroy(self.inside)
            control_unmap(self.inside, sizeof(lab))

    def churn(self, how, publications):
        """Move nodes so many times, publishing in this way; then stop the watcher."""
        cdef int way = self.HOW[how]
        cdef uint64_t count = publications
        with nogil:
            lab_churn(self.inside, way, count)
            lab_stop(self.inside)

    def learn_late(self):
        """What offload is told by a worker that holds a line no longer published."""
        return lab_learn_late(self.inside)

    def watch(self):
        """Send packets until stopped: packets, broken, missed, backwards."""
        cdef lab_result result
        with nogil:
            lab_watch(self.inside, &result)
        return {"packets": result.packets, "broken": result.broken, "missed": result.missed,
                "backwards": result.backwards}
