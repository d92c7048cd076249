/* Instructions per packet: runs each loop of the engine under callgrind, a dump for each.
 *
 * Source and sink alone are dumped, too, so that they can be taken off. The pool is warm, the
 * packets are the usual ones; what is counted does not depend on the machine's speed or load.
 */
#include <stdio.h>
#include <stdlib.h>
#include <valgrind/callgrind.h>

#include "replay.h"

#define BINDINGS 1024u
#define HOME_AGENT 0x0b010101u
#define FIRST_NODE 0x0a000001u
#define FIRST_CARE_OF 0xc0000200u
#define WARM 32
#define BATCHES 200

static struct fm_record tunnel_to(uint32_t node, uint8_t encapsulation, int is_udp)
{
    struct fm_record r = {0};
    r.home = FIRST_NODE + node;
    r.remote = FIRST_CARE_OF + node;
    r.local = HOME_AGENT;
    r.encapsulation = encapsulation;
    r.flags = FM_RECORD_REVERSE;
    r.expires = ~(uint64_t)0;
    if (is_udp) {
        r.remote_port = 4434;
        r.local_port = 434;
    }
    return r;
}

static void count(struct fm_control *c, const char *name, int side, uint8_t encapsulation,
                  int is_udp)
{
    static struct fm_replay pool;
    static struct fm_draw draws[BINDINGS];
    static uint32_t keys[BINDINGS];
    char title[64];
    uint64_t left = 0;
    struct fm_record shape = tunnel_to(0, encapsulation, is_udp);
    struct fm_worker *w = c->e.workers[0];
    memset(&pool, 0, sizeof pool);
    pool.e = &c->e;
    pool.side = side;
    pool.size = 64;
    pool.frame_count = 2 * FM_BATCH;
    pool.correspondent_be = swap32(0x09090909);
    replay_use(&pool, &shape);
    pool.frames = (uint8_t *)control_map(replay_bytes(&pool));
    pool.draws = draws;
    pool.draw_count = BINDINGS;
    for (uint32_t i = 0; i < pool.frame_count; i++) replay_write(&pool, replay_frame(&pool, i));
    for (uint32_t i = 0; i < BINDINGS; i++) {
        uint32_t node = i * 7u % BINDINGS;
        keys[i] = swap32(FIRST_NODE + node);
        replay_prepare_draw(&pool, &draws[i], keys[i], swap32(FIRST_CARE_OF + node));
    }
    replay_run(&pool, w, WARM, FM_BATCH, 1, &left);
    if (left != WARM * FM_BATCH) {
        fprintf(stderr, "%s: %llu packets left\n", name, (unsigned long long)left);
        exit(1);
    }
    CALLGRIND_ZERO_STATS;
    replay_run(&pool, w, BATCHES, FM_BATCH, 1, &left);
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_ZERO_STATS;
    replay_run_empty(&pool, BATCHES, FM_BATCH);
    snprintf(title, sizeof title, "%s empty", name);
    CALLGRIND_DUMP_STATS_AT(title);
    if (side == FM_HOME && encapsulation == PROTO_IPIP && !is_udp) {
        CALLGRIND_ZERO_STATS;
        replay_lookup(&pool, c->find, BATCHES, FM_BATCH, keys, BINDINGS, &left);
        CALLGRIND_DUMP_STATS_AT("lookup");
    }
    control_unmap(pool.frames, replay_bytes(&pool));
}

int main(void)
{
    static const struct {
        const char *encap, *decap;
        uint8_t encapsulation;
        int is_udp;
    } kinds[] = {{"encap", "decap", PROTO_IPIP, 0},
                 {"encap gre", "decap gre", PROTO_GRE, 0},
                 {"encap minimal", "decap minimal", PROTO_MINIMAL, 0},
                 {"encap udp", "decap udp", PROTO_IPIP, 1}};
    const uint64_t seed[6] = {1, 0x9e3779b97f4a7c15u, 3, 4, 0xc2b2ae3d27d4eb4fu, 6};
    for (unsigned kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        static struct fm_control c;
        memset(&c, 0, sizeof c);
        if (control_create(&c, BINDINGS, 0, 1, seed, 1000000, 1000000)) return 1;
        c.e.local_be[0] = swap32(HOME_AGENT);
        c.e.local_count = 1;
        for (uint32_t node = 0; node < BINDINGS; node++) {
            struct fm_record r = tunnel_to(node, kinds[kind].encapsulation, kinds[kind].is_udp);
            control_publish(&c, (uint32_t)control_prepare(&c, &r, 1, 0));
        }
        count(&c, kinds[kind].encap, FM_HOME, kinds[kind].encapsulation, kinds[kind].is_udp);
        count(&c, kinds[kind].decap, FM_TUNNEL, kinds[kind].encapsulation, kinds[kind].is_udp);
        control_destroy(&c);
    }
    return 0;
}
