/* What workers counted, as the control thread sees it: summed, and cleared without touching
 * what belongs to the workers.
 */
#ifndef FASTMIP_COUNTS_H
#define FASTMIP_COUNTS_H

#include "space.h"

/* Counts of all workers since they were made. */
FM_FN struct fm_counts control_sum(const struct fm_control *c)
{
    struct fm_counts sum;
    memset(&sum, 0, sizeof sum);
    for (uint32_t i = 0; i < c->e.worker_count; i++) {
        const struct fm_worker *w = c->e.workers[i];
        for (int k = 0; k < FM_VERDICT_COUNT; k++) {
            sum.verdicts[k].packets += w->verdicts[k].packets;
            sum.verdicts[k].bytes += w->verdicts[k].bytes;
        }
        for (int k = 0; k < FM_EVENT_COUNT; k++)
            sum.events[k] += w->events[k];
        for (int k = 0; k < FM_STAGES; k++) {
            sum.costs[k].calls += w->costs[k].calls;
            sum.costs[k].packets += w->costs[k].packets;
            sum.costs[k].sampled_packets += w->costs[k].sampled_packets;
            sum.costs[k].sampled_ticks += w->costs[k].sampled_ticks;
        }
        sum.copies += w->copies;
        sum.generated += w->generated;
        sum.inputs += w->inputs;
    }
    return sum;
}

/* The same since they were cleared. */
FM_FN struct fm_counts control_counts(const struct fm_control *c)
{
    struct fm_counts now = control_sum(c);
    const struct fm_counts *was = &c->cleared;
    for (int k = 0; k < FM_VERDICT_COUNT; k++) {
        now.verdicts[k].packets -= was->verdicts[k].packets;
        now.verdicts[k].bytes -= was->verdicts[k].bytes;
    }
    for (int k = 0; k < FM_EVENT_COUNT; k++)
        now.events[k] -= was->events[k];
    for (int k = 0; k < FM_STAGES; k++) {
        now.costs[k].calls -= was->costs[k].calls;
        now.costs[k].packets -= was->costs[k].packets;
        now.costs[k].sampled_packets -= was->costs[k].sampled_packets;
        now.costs[k].sampled_ticks -= was->costs[k].sampled_ticks;
    }
    now.copies -= was->copies;
    now.generated -= was->generated;
    now.inputs -= was->inputs;
    return now;
}

/* What one worker spent in a stage since then. */
FM_FN struct fm_cost control_cost(const struct fm_control *c, uint32_t worker, uint32_t stage)
{
    struct fm_cost now = c->e.workers[worker]->costs[stage];
    const struct fm_cost *was = &c->cleared_costs[worker][stage];
    now.calls -= was->calls;
    now.packets -= was->packets;
    now.sampled_packets -= was->sampled_packets;
    now.sampled_ticks -= was->sampled_ticks;
    return now;
}

/* Verdicts, events and costs count from zero again. Workers own their counters, so the control
 * thread only remembers where they stood. A batch in hand has counted its inputs, but not all
 * verdicts yet: inputs are taken from the verdicts, or the balance would be off for ever. */
FM_FN void control_clear_counters(struct fm_control *c)
{
    c->cleared = control_sum(c);
    for (uint32_t i = 0; i < c->e.worker_count; i++)
        memcpy(c->cleared_costs[i], c->e.workers[i]->costs, sizeof c->cleared_costs[i]);
    uint64_t verdicts = 0;
    for (int k = 0; k < FM_VERDICT_COUNT; k++)
        verdicts += c->cleared.verdicts[k].packets;
    c->cleared.inputs = verdicts - c->cleared.generated - c->cleared.copies;
}

#endif
