# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The packet engine: what Python sees of it. See engine/README.md for a packet's walk."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_BOOTTIME, clock_gettime, timespec

from fastmip.engine.api cimport *


cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from "sys/eventfd.h" nogil:
    enum:
        EFD_NONBLOCK
        EFD_CLOEXEC
    int eventfd(unsigned int start, int flags)
    int eventfd_read(int fd, uint64_t *value)

cdef extern from "unistd.h" nogil:
    int close(int fd)

from collections import deque
from itertools import islice
from os import devnull, urandom
from pathlib import Path

from fastmip.errors import EngineFull

HOME = FM_HOME
TUNNEL = FM_TUNNEL
TUNNEL_RECORD_SIZE = sizeof(fm_record)
FLAG_REVERSE = FM_RECORD_REVERSE
FLAG_FIRST_ONLY = FM_RECORD_FIRST_ONLY
FLAG_BROADCAST = FM_RECORD_BROADCAST
FLAG_NESTED = FM_RECORD_NESTED
FLAG_GRE_KEY = FM_RECORD_GRE_KEY
TOS_NORMAL = 0
TOS_COMPATIBILITY = 1
DONE_TTL = 1
DONE_CHECKSUM = 2
DONE_REASSEMBLY = 4
DONE_MARTIAN = 8
EGRESS_PORTLESS = EGRESS_NO_PORT
EGRESS_TO_KERNEL = EGRESS_KERNEL

_ROLES = ("home-agent", "mobile-node", "foreign-agent")
_STAGES = ("rx", "check", "lookup", "encapsulate", "decapsulate", "tx")

cdef enum:
    _MEMORY_FRAME = 66048  # a whole IPv4 packet with headroom, aligned to cache lines


def verdicts():
    """Every verdict in order: (name, severity, sentence)."""
    return [_outcome(fm_verdict_table[number]) for number in range(FM_NONE + 1, FM_VERDICT_COUNT)]


def event_names():
    """Every event in order: (name, severity, sentence)."""
    return [_outcome(fm_event_table[number]) for number in range(FM_EVENT_COUNT)]


cdef object _outcome(fm_outcome outcome):
    severity = ("info", "warning", "security")[outcome.severity]
    return _text(outcome.name), severity, _text(outcome.sentence)


include "engine/esp.pxi"
include "engine/bindings.pxi"
include "engine/egress.pxi"
include "engine/kernel.pxi"
include "engine/xdp.pxi"
include "engine/memory.pxi"
include "engine/replay.pxi"
include "engine/pcap.pxi"
include "engine/taps.pxi"
