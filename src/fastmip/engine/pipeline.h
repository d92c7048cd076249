/* The pipeline's entry for ports; see README.md for a packet's walk.
 *
 * A worker thread's life, written by a port:
 *
 *     fm_worker_online(w);
 *     while (running) {
 *         fill batch[] from a side;          (done bits: what the kernel did already)
 *         fm_run_batch(w, batch, n, side, now_ns, &out);
 *         send out.packets[FM_HOME], out.packets[FM_TUNNEL]; set both counts to 0;
 *         if nothing arrived: fm_worker_offline(w); poll(); fm_worker_online(w);
 *     }
 *     fm_worker_offline(w);
 *
 * fm_run_batch announces the worker's epoch itself. Frames of out may lie in the worker's
 * scratch arena, which the next fm_run_batch of the same worker empties. ICMP packets of the
 * tunnel side's ICMP socket (whole, with their IPv4 header) are handed in as side FM_TUNNEL.
 * now_ns is CLOCK_BOOTTIME. n <= FM_BATCH.
 */
#ifndef FASTMIP_PIPELINE_H
#define FASTMIP_PIPELINE_H

#include "frames.h"
#include "verdicts.h"
#include "worker.h"

static void fm_run_batch(struct fm_worker *w, struct fm_desc *batch, uint32_t n, int side,
                         uint64_t now_ns, struct fm_out *out);

#endif
