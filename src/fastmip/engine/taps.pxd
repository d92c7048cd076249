# What the Cython boundary sees of taps: captures and traces.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastmip.engine.api cimport fm_engine


cdef extern from "pcapng.h" nogil:
    enum:
        FM_IPIP
        FM_GRE
        FM_MINIMAL
        FM_UDP
        FM_LINE_REVERSE
        FM_TAPS
        TAP_POINTS
        TAP_WALK_OUTS
        MATCH_TERMS
        PCAPNG_HEAD
        PCAPNG_OPTIONS_MAX

    struct match_term:
        uint32_t kind
        uint32_t value
        uint32_t mask

    struct match:
        uint32_t count
        match_term *terms

    struct tap_packet:
        uint32_t length
        uint32_t kept
        uint8_t side
        uint8_t *bytes

    struct tap_walk:
        uint64_t wall_ns
        uint64_t ns_ticks
        const char *came_by
        uint32_t key
        uint32_t home
        uint32_t remote
        uint32_t local
        uint32_t number
        uint64_t expires_ns
        uint64_t now_ns
        uint16_t budget
        uint16_t verdict
        uint8_t method
        uint8_t flags
        uint8_t chain
        uint8_t side
        uint32_t out_count
        tap_packet came
        tap_packet *out

    struct tap_ring:
        pass

    struct fm_tap:
        match match
        uint8_t *wanted
        int64_t left
        uint32_t snap
        uint32_t ring_count
        uint32_t *interfaces
        tap_ring **rings

    fm_tap *tap_new(uint32_t workers, uint32_t points, uint32_t snap, uint32_t slots)
    void tap_free(fm_tap *tap)
    int tap_open(fm_engine *e, fm_tap *tap)
    int tap_withdraw(fm_engine *e, fm_tap *tap)
    int tap_is_done(const fm_tap *tap)
    uint64_t tap_lost(const fm_tap *tap)
    tap_ring *tap_earliest(const fm_tap *tap)
    const uint8_t *tap_oldest(const fm_tap *tap, const tap_ring *ring)
    void tap_took(tap_ring *ring)
    uint64_t pcapng_read(fm_tap *tap, uint8_t *to, uint64_t room, uint64_t *packets)
    int verdict_is_drop(int verdict)
