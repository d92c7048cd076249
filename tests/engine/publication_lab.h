/* One thread moves nodes from care-of address to care-of address, another sends them packets
 * through the real pipeline and looks at every outer header that comes out.
 *
 * Every version of a binding is recognisable: the care-of address holds node and version, the
 * outer TTL is a function of the version, and each chain has two lines of the same version.
 * A header that mixes versions or nodes, or has a wrong checksum, is `broken`; a bound node
 * that was not found is `missed`; a version older than one already seen is `backwards`.
 */
#ifndef FASTMIP_PUBLICATION_LAB_H
#define FASTMIP_PUBLICATION_LAB_H

#include <stdlib.h>

#include "control.h"

#define LAB_NODES 16u
#define LAB_VERSIONS (1u << 18)
#define LAB_HOME 0x0a000001u
#define LAB_REMOTE 0x64000000u
#define LAB_LOCAL 0x0b010101u
#define LAB_CORRESPONDENT 0x09090909u

enum { LAB_ATOMIC, LAB_IN_PLACE, LAB_INDEX_FIRST };

struct lab {
    struct fm_control c;
    int stop;
    uint64_t published;
    uint32_t version[LAB_NODES];
};

struct lab_result {
    uint64_t packets, broken, missed, backwards;
};

FM_INLINE uint8_t lab_ttl(uint32_t version) { return (uint8_t)(1 + version % 250); }

FM_FN void lab_record(struct fm_record *r, uint32_t node, uint32_t version, uint32_t second)
{
    memset(r, 0, sizeof *r);
    r->home = LAB_HOME + node;
    r->remote = LAB_REMOTE + (node << 20 | version << 1 | second);
    r->local = LAB_LOCAL;
    r->encapsulation = PROTO_IPIP;
    r->flags = FM_RECORD_REVERSE;
    r->expires = ~(uint64_t)0;
    r->ttl = lab_ttl(version);
}

FM_FN void lab_pause(void)
{
    for (volatile int i = 0; i < 400; i++)
        ;
}

FM_FN void lab_publish(struct lab *l, int how, uint32_t node, uint32_t version)
{
    struct fm_control *c = &l->c;
    struct fm_record pair[2];
    lab_record(&pair[0], node, version, 0);
    lab_record(&pair[1], node, version, 1);
    if (how == LAB_IN_PLACE) { /* what the architecture forbids: a published line is changed */
        uint32_t head = control_head(c, swap32(pair[0].home));
        struct fm_line *line = &c->e.lines[head];
        line->remote = swap32(pair[0].remote);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        lab_pause();
        line->outer = ipip_constant_middle(line->local, pair[0].ttl, PROTO_IPIP);
        line->constant_sum =
            ipip_constant_sum(line->local, line->remote, pair[0].ttl, PROTO_IPIP);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        return;
    }
    int64_t head;
    while ((head = control_prepare(c, pair, 2, 0)) < 0)
        ; /* full: workers have to pass first */
    if (how == LAB_INDEX_FIRST) { /* forbidden too: visible before it is filled */
        struct fm_line kept = c->e.lines[head];
        c->e.lines[head].outer++;
        control_publish(c, (uint32_t)head);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        lab_pause();
        c->e.lines[head].outer = kept.outer;
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        return;
    }
    control_publish(c, (uint32_t)head);
}

FM_FN int lab_create(struct lab *l)
{
    const uint64_t seed[6] = {1, 0x9e3779b97f4a7c15u, 3, 4, 0xc2b2ae3d27d4eb4fu, 6};
    if (control_create(&l->c, 2 * LAB_NODES, FM_HOME_AGENT, 1, seed, 1, 1))
        return -1;
    for (uint32_t node = 0; node < LAB_NODES; node++)
        lab_publish(l, LAB_ATOMIC, node, 0);
    return 0;
}

FM_FN void lab_destroy(struct lab *l) { control_destroy(&l->c); }
FM_FN void lab_stop(struct lab *l) { __atomic_store_n(&l->stop, 1, __ATOMIC_RELEASE); }

FM_FN void lab_churn(struct lab *l, int how, uint64_t publications)
{
    while (publications-- && !__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE)) {
        uint32_t node = (uint32_t)(l->published++ % LAB_NODES);
        l->version[node] = (l->version[node] + 1) % LAB_VERSIONS;
        lab_publish(l, how, node, l->version[node]);
    }
}

/* What the offload programs hear when a worker learns something about a line that was replaced
 * while it held it; all ones without memory. */
FM_FN uint64_t lab_learn_late(struct lab *l)
{
    struct fm_engine *e = &l->c.e;
    struct fm_offload offload = {.network_count = 1,
                                 .home_count = LAB_NODES,
                                 .network = {{LAB_HOME, LAB_HOME + LAB_NODES - 1, 0}}};
    size_t size = LAB_NODES * sizeof(struct fm_home);
    uint64_t told = ~(uint64_t)0;
    offload.homes = (struct fm_home *)aligned_alloc(128, size);
    offload.cleared = (struct fm_home_tally *)calloc(LAB_NODES, sizeof *offload.cleared);
    if (offload.homes && offload.cleared) {
        struct fm_line *line = &e->lines[control_head(&l->c, swap32(LAB_HOME))];
        memset(offload.homes, 0, size);
        e->offload = &offload;
        lab_publish(l, LAB_ATOMIC, 0, 1);
        __atomic_store_n(&line->soft, 1300, __ATOMIC_RELAXED);
        offload_learn(e, line);
        told = offload.homes[0].soft;
        e->offload = NULL;
    }
    free(offload.homes);
    free(offload.cleared);
    return told;
}

FM_FN void lab_judge(const uint8_t *p, uint32_t *last, struct lab_result *result)
{
    uint32_t remote = get32(p + OFF_DESTINATION) - LAB_REMOTE;
    uint32_t node = remote >> 20, version = remote >> 1 & (LAB_VERSIONS - 1);
    uint32_t home = get32(p + 20 + OFF_DESTINATION);
    result->packets++;
    if (sum_octets(p, 20) != 0xffff || node != home - LAB_HOME || p[OFF_TTL] != lab_ttl(version))
        result->broken++;
    else if ((version - last[node]) % LAB_VERSIONS > LAB_VERSIONS / 2)
        result->backwards++;
    else
        last[node] = version;
}

FM_FN void lab_watch(struct lab *l, struct lab_result *result)
{
    struct fm_worker *w = l->c.e.workers[0];
    struct fm_out *out = (struct fm_out *)calloc(1, sizeof *out);
    uint8_t(*frames)[256] = (uint8_t(*)[256])calloc(FM_BATCH, 256);
    struct fm_desc batch[FM_BATCH];
    uint32_t last[LAB_NODES] = {0};
    memset(result, 0, sizeof *result);
    while (!__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE) && !result->broken) {
        for (uint32_t i = 0; i < FM_BATCH; i++) {
            uint8_t *p = frames[i] + 84;
            memset(p, 0, 20);
            p[0] = 0x45;
            put16(p + OFF_TOTAL, 20);
            p[OFF_TTL] = 64;
            p[OFF_PROTOCOL] = 17;
            put32(p + OFF_SOURCE, LAB_CORRESPONDENT);
            put32(p + OFF_DESTINATION, LAB_HOME + i % LAB_NODES);
            ipv4_set_checksum(p);
            memset(&batch[i], 0, sizeof batch[i]);
            batch[i].data = p;
            batch[i].len = 20;
        }
        fm_run_batch(w, batch, FM_BATCH, FM_HOME, 1, out);
        for (uint32_t i = 0; i < out->count[FM_TUNNEL]; i++)
            lab_judge(out->packets[FM_TUNNEL][i]->data, last, result);
        result->missed += out->count[FM_HOME];
        out->count[FM_HOME] = out->count[FM_TUNNEL] = 0;
    }
    fm_worker_offline(w);
    lab_stop(l);
    free(frames);
    free(out);
}

#endif
