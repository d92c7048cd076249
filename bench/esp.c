/* What ESP costs a packet, beside the provider's bare call (bench/esp.py): 1024 associations drawn at
 * random for every packet, batches of 64, all in memory. Ours: headers, padding, sequence number,
 * lifetimes, replay window, counters, and the provider. Bare: the provider alone, on jobs filled
 * before, with keys and frames of its own, drawn alike, so that neither warms the other's cache.
 * Every round measures all four in turn. Prints the median round's nanoseconds a packet: seal, bare
 * seal, open, bare open.
 */
#include <stdio.h>
#include <time.h>

#include "esp_control.h"

#include "crypto_ipsec_mb.h"
#include "crypto_openssl.h"

#define SAS 1024u
#define BATCH 64u
#define FRAME 2304u
#define FRONT 256u

enum { SEAL, BARE_SEAL, OPEN, BARE_OPEN, KINDS };

static struct fm_control control __attribute__((aligned(64)));
static uint8_t frames[2][BATCH * FRAME] __attribute__((aligned(64)));
static struct crypto_job jobs[BATCH];
static struct crypto_job *order[BATCH];
static uint32_t out[SAS], in[SAS], drawn[BATCH];
static uint32_t *taken[KINDS], round_now;
static uint32_t state = 1;

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void draw(void)
{
    for (uint32_t i = 0; i < BATCH; i++) {
        state = state * 1664525u + 1013904223u;
        drawn[i] = state >> 22;
    }
}

/* Pairs of associations with the same key, one sealing what the other opens. */
static int add_all(uint32_t suite)
{
    for (uint32_t i = 0; i < SAS; i++) {
        struct esp_record r;
        memset(&r, 0, sizeof r);
        r.bundle = 1;
        r.spi = 1000 + i;
        r.local = 0x0a000001;
        r.remote = 0x0a000002;
        r.window = 1024;
        r.suite = suite;
        r.first = 1;
        memcpy(r.key, &i, sizeof i);
        out[i] = esp_add(&control, &r);
        r.is_inbound = 1;
        r.local = 0x0a000002;
        r.remote = 0x0a000001;
        in[i] = esp_add(&control, &r);
        if (!out[i] || !in[i])
            return 0;
    }
    return 1;
}

/* IP in IP packets whose inner packet has `len` octets. */
static void write_packets(struct fm_desc *d, uint32_t len)
{
    for (uint32_t i = 0; i < BATCH; i++) {
        uint8_t *p = frames[0] + i * FRAME + FRONT;
        memset(p, 0, 40);
        p[0] = p[20] = 0x45;
        put16(p + OFF_TOTAL, (uint16_t)(len + 20));
        p[8] = 64;
        p[OFF_PROTOCOL] = PROTO_IPIP;
        put32(p + OFF_SOURCE, 0x0a000001);
        put32(p + OFF_DESTINATION, 0x0a000002);
        put16(p + 22, (uint16_t)len);
        ipv4_set_checksum(p);
        memset(&d[i], 0, sizeof d[i]);
        d[i].data = p;
        d[i].len = len + 20;
        d[i].done = FM_DONE_CHECKSUM;
    }
}

static void bare(struct fm_worker *w, uint32_t len, const uint32_t *sas, int is_open)
{
    struct fm_esp *esp = w->engine->esp;
    struct esp_worker *mine = esp->workers[0];
    draw();
    for (uint32_t i = 0; i < BATCH; i++) {
        const struct esp_sa *sa = &esp->sas[sas[drawn[i]]];
        uint32_t text_len = (len + 2 + sa->block - 1) & ~(sa->block - 1u);
        memset(frames[1] + i * FRAME + FRONT, 0, 64);
        memset(&jobs[i], 0, sizeof jobs[i]);
        esp_job(&jobs[i], sa, frames[1] + i * FRAME + FRONT, 1, text_len);
        jobs[i].tag = is_open ? jobs[i].expected : jobs[i].text + text_len;
        order[i] = &jobs[i];
    }
    uint64_t began = clock_ns();
    if (is_open)
        esp->provider->open(mine->state, 0, order, BATCH);
    else
        esp->provider->seal(mine->state, 0, order, BATCH);
    taken[is_open ? BARE_OPEN : BARE_SEAL][round_now] = (uint32_t)(clock_ns() - began);
}

static uint32_t ours(struct fm_worker *w, uint32_t len)
{
    struct fm_esp *esp = w->engine->esp;
    struct fm_desc d[BATCH];
    uint32_t bad = 0;
    draw();
    write_packets(d, len);
    uint64_t began = clock_ns();
    for (uint32_t i = 0; i < BATCH; i++)
        bad += esp_wrap(w, &d[i], &esp->sas[out[drawn[i]]]) != FM_NONE;
    esp_seal(w);
    taken[SEAL][round_now] = (uint32_t)(clock_ns() - began);
    return bad;
}

/* What ours() sealed; the packets stand where they were written. */
static uint32_t ours_again(struct fm_worker *w, uint32_t len)
{
    struct fm_desc d[BATCH];
    const struct esp_sa *sa = &w->engine->esp->sas[out[0]];
    uint32_t front = ESP_HEADER + sa->iv_size;
    uint32_t bad = 0;
    memset(d, 0, sizeof d);
    for (uint32_t i = 0; i < BATCH; i++) {
        d[i].data = frames[0] + i * FRAME + FRONT - front;
        d[i].len = ipv4_total(d[i].data);
        d[i].done = FM_DONE_CHECKSUM;
    }
    uint64_t began = clock_ns();
    uint64_t finished = esp_open(w, d, BATCH);
    taken[OPEN][round_now] = (uint32_t)(clock_ns() - began);
    for (uint32_t i = 0; i < BATCH; i++)
        bad += d[i].len != len + 20;
    return bad + (finished != 0);
}

int main(int argc, char **argv)
{
    uint64_t seed[6] = {0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb,
                        0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db};
    if (argc != 5)
        return 2;
    const struct crypto_provider *p = strcmp(argv[1], "libcrypto") ? crypto_ipsec_mb()
                                                                   : crypto_openssl();
    uint32_t len = (uint32_t)atoi(argv[2]), rounds = (uint32_t)atoi(argv[4]), bad = 0;
    if (!p)
        return 3;
    if (control_create(&control, 16, 0, 2, seed, 100, 50) ||
        esp_create(&control, p, 4 * SAS, seed) || !add_all((uint32_t)atoi(argv[3])))
        return 1;
    struct fm_worker *w = control.e.workers[0];
    w->now_ns = 1;
    for (int kind = 0; kind < KINDS; kind++)
        if (!(taken[kind] = (uint32_t *)calloc(rounds, sizeof(uint32_t))))
            return 1;
    for (round_now = 0; round_now < rounds; round_now++) {
        bad += ours(w, len);
        bare(w, len, out, 0);
        bad += ours_again(w, len);
        bare(w, len, in, 1);
    }
    if (bad)
        return 4;
    for (int kind = 0; kind < KINDS; kind++) {
        qsort(taken[kind], rounds, sizeof(uint32_t), by_size);
        printf("%.2f ", (double)taken[kind][rounds / 2] / BATCH);
    }
    puts(p->version);
    return 0;
}
