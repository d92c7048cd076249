/* Frames and batches: the one currency between ports and the pipeline.
 *
 * A frame is a buffer with headroom in front of the packet so that outer headers are put on
 * without moving it. A descriptor names a packet inside a frame. Ports fill descriptors with
 * packets that start at the IPv4 header; the pipeline rewrites data/len, and appends pointers
 * to what must leave to one list per side. Descriptors belong to the batch; frames belong to
 * the port (received) or to the worker's scratch arena (copies, fragments, generated ICMP),
 * which is emptied when the next batch starts: send before that.
 */
#ifndef FASTMIP_FRAMES_H
#define FASTMIP_FRAMES_H

#include <stdint.h>

#define FM_BATCH 64        /* descriptors a port hands over at once */
#define FM_FRAME_SIZE 2048 /* wire-size frames; aligned to 64 bytes */
/* Distance of frames in an array: not a power of two, or their headers would share two cache
 * sets and evict each other within one batch. */
#define FM_FRAME_STRIDE (FM_FRAME_SIZE + 64)
#define FM_TAILROOM 192
/* Where a port puts the first byte of the IPv4 header, so that outer and inner header share
 * one cache line: cold encapsulation is a third faster than with a split pair. */
#define FM_HEADROOM_HOME 276   /* inner header; the outer one goes to 256 */
#define FM_HEADROOM_TUNNEL 256 /* outer header */
#define FM_HEADROOM_MIN 128    /* the pipeline needs this much in front of every packet */
#define FM_SCRATCH_TAIL 40     /* and this behind: ESP's padding, trailer and tag */
#define FM_MAX_COPIES 8        /* simultaneous bindings of one node */
#define FM_OUT_MAX 4096        /* packets of one side leaving one batch, fragments included */

enum fm_side { FM_HOME = 0, FM_TUNNEL = 1, FM_SIDES = 2 };

/* What the kernel already did to a packet before the port got it. TTL drops exactly once per
 * path: the pipeline only does what the port does not declare done. */
enum fm_done {
    FM_DONE_TTL = 1,        /* TTL was (home in) or will be (home out) decremented by the kernel,
                             * or the packet is local: the pipeline leaves it alone */
    FM_DONE_CHECKSUM = 2,   /* the outermost IPv4 header checksum was verified */
    FM_DONE_REASSEMBLY = 4, /* never a fragment of an outer packet */
    FM_DONE_MARTIAN = 8,    /* sources that are our own addresses were refused or are local */
    FM_DONE_QUIET = 16,     /* a broadcast of the home network: no ICMP error about it (RFC 1122
                             * 3.2.2), whatever its destination looks like */
    FM_DONE_WHOLE = 32,     /* a TCP super-frame with a partial checksum: the port lets it leave as
                             * such on the home side, and takes none that could leave elsewhere */
    FM_DONE_ESP = 64,       /* the pipeline's own: opened by the ESP of bundle `line` */
};

struct fm_desc {
    uint8_t *data;    /* first byte of the IPv4 header */
    uint32_t len;     /* bytes present from data on (may exceed the IP total length) */
    uint32_t line;    /* binding line found, pipeline's use */
    uint32_t hash;    /* port's use, left alone */
    uint16_t verdict; /* set exactly once by the pipeline */
    uint8_t done;     /* fm_done bits */
    uint8_t side;     /* side the packet came from */
};

/* What leaves, in order. packets[FM_HOME] includes misses written back (for the kernel to
 * route) and ICMP to inner sources. The pipeline appends; the port sends and resets counts. */
struct fm_out {
    uint32_t count[FM_SIDES];
    struct fm_desc *packets[FM_SIDES][FM_OUT_MAX];
};

#endif
