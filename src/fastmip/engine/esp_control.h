/* The control thread's half of ESP: memory, SAs in and out, bundles, what workers told. */
#ifndef FASTMIP_ESP_CONTROL_H
#define FASTMIP_ESP_CONTROL_H

#include <sys/eventfd.h>

#include "control.h"

#define ESP_FREE 1u       /* in `retired`: never used, or clean again */
#define ESP_WAITS 500     /* of 100 us, for workers that may still hold an SA */

/* A security association as it comes in; host order, 0 for "none" where there can be none. */
struct esp_record {
    uint32_t bundle, spi, local, remote, window, suite;
    uint16_t remote_port, local_port;
    uint8_t is_inbound, is_esn, is_shared, has_selectors;
    uint64_t first, last;
    uint64_t soft_packets, hard_packets, soft_bytes, hard_bytes, soft_ns, hard_ns;
    uint32_t remote_first, remote_last, local_first, local_last;
    uint8_t key[CRYPTO_KEY_MAX];
};

FM_INLINE uint64_t esp_sas_bytes(const struct fm_esp *esp)
{
    return (uint64_t)(esp->max + 1) * sizeof(struct esp_sa);
}
FM_INLINE uint64_t esp_rings_bytes(const struct fm_esp *esp)
{
    return (uint64_t)(esp->max + 1) * ESP_RING_WORDS_MAX * 8;
}

FM_FN void esp_clean(struct fm_esp *esp, uint32_t number)
{
    struct esp_sa *sa = &esp->sas[number];
    esp->provider->key_free(sa->key);
    crypto_wipe(sa, sizeof *sa);
    esp->retired[number] = ESP_FREE;
    esp->sa_count--;
}

/* Keys of SAs that no worker can hold any more are zeroed, their numbers free. */
FM_FN void esp_reclaim(struct fm_control *c)
{
    struct fm_esp *esp = c->e.esp;
    for (uint32_t i = 1; i < esp->fresh; i++)
        if (esp->retired[i] > ESP_FREE && fm_epoch_is_over(&c->e, esp->retired[i]))
            esp_clean(esp, i);
}

FM_FN void esp_destroy(struct fm_control *c)
{
    struct fm_esp *esp = c->e.esp;
    if (!esp)
        return;
    for (uint32_t i = 1; esp->retired && i < esp->fresh; i++)
        if (esp->retired[i] != ESP_FREE)
            esp_clean(esp, i);
    for (uint32_t i = 0; i < esp->worker_count; i++) {
        esp->provider->worker_free(esp->states[i]);
        if (esp->workers[i])
            crypto_wipe(esp->workers[i], sizeof(struct esp_worker));
        control_unmap(esp->workers[i], sizeof(struct esp_worker));
    }
    if (esp->event_fd >= 0)
        close(esp->event_fd);
    control_unmap(esp->sas, esp_sas_bytes(esp));
    control_unmap(esp->rings, esp_rings_bytes(esp));
    control_unmap(esp->bundles, (uint64_t)(esp->max + 1) * sizeof(struct esp_bundle));
    control_unmap(esp->retired, (uint64_t)(esp->max + 1) * 8);
    control_unmap(esp->line_bundle, (uint64_t)c->line_count * 4);
    control_unmap(esp->by_spi.buckets, index_bytes(&esp->by_spi));
    control_unmap(esp->by_spi.notes, notes_bytes(&esp->by_spi));
    control_unmap(esp, sizeof *esp);
    c->e.esp = (struct fm_esp *)0;
}

/* 0, or -1 without memory. */
FM_FN int esp_create(struct fm_control *c, const struct crypto_provider *provider, uint32_t max,
                     const uint64_t seed[3])
{
    struct fm_esp *esp = (struct fm_esp *)control_map(sizeof *esp);
    int is_good = 1;
    if (!esp)
        return -1;
    c->e.esp = esp;
    esp->provider = provider;
    esp->max = max;
    esp->fresh = 1;
    esp->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    esp->sas = (struct esp_sa *)control_map(esp_sas_bytes(esp));
    esp->rings = (uint64_t *)control_map(esp_rings_bytes(esp));
    esp->bundles =
        (struct esp_bundle *)control_map((uint64_t)(max + 1) * sizeof(struct esp_bundle));
    esp->retired = (uint64_t *)control_map((uint64_t)(max + 1) * 8);
    esp->line_bundle = (uint32_t *)control_map((uint64_t)c->line_count * 4);
    if (control_index_create(&esp->by_spi, max, seed) || !esp->sas || !esp->rings ||
        !esp->bundles || !esp->retired || !esp->line_bundle)
        is_good = 0;
    for (uint32_t i = 0; is_good && i < c->e.worker_count; i++) {
        esp->worker_count = i + 1;
        esp->states[i] = provider->worker_new();
        esp->workers[i] = (struct esp_worker *)control_map(sizeof(struct esp_worker));
        is_good = esp->states[i] && esp->workers[i];
        if (!is_good)
            break;
        esp->workers[i]->state = esp->states[i];
        esp->workers[i]->number = i;
        for (uint32_t j = 0; j < FM_BATCH; j++)
            esp->workers[i]->order[j] = &esp->workers[i]->jobs[j];
    }
    if (!is_good) {
        esp_destroy(c);
        return -1;
    }
    (void)fm_choose_loops(&c->e, &c->find, 0);
    return 0;
}

FM_FN uint32_t esp_take_number(struct fm_esp *esp)
{
    if (esp->fresh <= esp->max)
        return esp->fresh++;
    for (uint32_t i = 1; i <= esp->max; i++)
        if (esp->retired[i] == ESP_FREE)
            return i;
    return 0;
}

FM_INLINE uint64_t esp_or_never(uint64_t limit) { return limit ? limit : ~(uint64_t)0; }

FM_FN void esp_set_block(struct esp_sa *sa, uint64_t last, uint64_t from)
{
    uint64_t end = sa->flags & ESP_ESN ? ~(uint64_t)0 - 1 : 0xffffffffu;
    if (!last || last > end)
        last = end;
    __atomic_store_n(&sa->soft_sequence, from + (last - from) / 4 * 3, __ATOMIC_RELAXED);
    __atomic_and_fetch(&sa->told, (uint8_t) ~(1u << ESP_BLOCK), __ATOMIC_RELAXED);
    __atomic_store_n(&sa->last, last, __ATOMIC_RELEASE);
}

/* Number of the new SA, 0 without room. The record was checked. */
FM_FN uint32_t esp_add(struct fm_control *c, const struct esp_record *r)
{
    struct fm_esp *esp = c->e.esp;
    uint32_t spi_be = swap32(r->spi), number;
    esp_reclaim(c);
    if (!(number = esp_take_number(esp)))
        return 0;
    struct esp_sa *sa = &esp->sas[number];
    esp->retired[number] = ESP_FREE;
    sa->key = esp->provider->key_new(r->suite, r->key, !r->is_inbound, esp->worker_count,
                                     esp->states);
    int64_t slot = sa->key && r->is_inbound ? index_reserve(&esp->by_spi, spi_be) : 0;
    if (!sa->key || slot < 0) {
        esp->sa_count++;
        esp_clean(esp, number);
        return 0;
    }
    sa->spi_be = spi_be;
    sa->suite = (uint8_t)r->suite;
    sa->flags = (uint8_t)((r->is_inbound ? ESP_INBOUND : 0) | (r->is_esn ? ESP_ESN : 0) |
                          (crypto_is_gcm(r->suite) ? ESP_GCM : 0) |
                          (r->is_shared ? ESP_SHARED : 0) |
                          (r->has_selectors ? ESP_SELECTORS : 0));
    sa->iv_size = (uint8_t)crypto_iv_size(r->suite);
    sa->block = crypto_is_gcm(r->suite) ? 4 : 16;
    if (crypto_is_gcm(r->suite))
        memcpy(&sa->salt, r->key + crypto_cipher_key(r->suite), 4);
    sa->local_be = swap32(r->local);
    sa->remote_be = swap32(r->remote);
    sa->ports = r->remote_port ? udp_ports_to_us(r->remote_port, r->local_port) : 0;
    sa->bundle = r->bundle;
    sa->soft_packets = esp_or_never(r->soft_packets ? r->soft_packets : r->hard_packets);
    sa->hard_packets = esp_or_never(r->hard_packets);
    sa->soft_bytes = esp_or_never(r->soft_bytes ? r->soft_bytes : r->hard_bytes);
    sa->hard_bytes = esp_or_never(r->hard_bytes);
    sa->soft_ns = esp_or_never(r->soft_ns ? r->soft_ns : r->hard_ns);
    sa->hard_ns = esp_or_never(r->hard_ns);
    sa->remote_first = r->remote_first;
    sa->remote_last = r->remote_last;
    sa->local_first = r->local_first;
    sa->local_last = r->local_last;
    sa->sequence = r->first - 1;
    esp_set_block(sa, r->last, r->first - 1);
    sa->window.highest = sa->window.floor = r->first - 1;
    sa->window.size = r->window;
    sa->window.mask = window_words(r->window) - 1;
    sa->window.ring = esp->rings + (uint64_t)number * ESP_RING_WORDS_MAX;
    memset(sa->window.ring, 0, ESP_RING_WORDS_MAX * 8);
    esp->retired[number] = 0;
    esp->sa_count++;
    if (r->is_inbound)
        index_set(&esp->by_spi, slot, number);
    return number;
}

FM_INLINE int esp_is_sa(const struct fm_esp *esp, uint32_t number)
{
    return number && number < esp->fresh && !esp->retired[number];
}

/* Its bundle sends by this SA from now on. */
FM_FN void esp_send_by(struct fm_esp *esp, uint32_t number)
{
    __atomic_store_n(&esp->bundles[esp->sas[number].bundle].out, number, __ATOMIC_RELEASE);
}

FM_FN void esp_remove(struct fm_control *c, uint32_t number)
{
    struct fm_esp *esp = c->e.esp;
    struct esp_sa *sa = &esp->sas[number];
    if (sa->flags & ESP_INBOUND) {
        int64_t slot = index_slot(&esp->by_spi, sa->spi_be);
        if (slot >= 0)
            index_release(&esp->by_spi, slot, sa->spi_be);
    } else if (esp->bundles[sa->bundle].out == number) {
        __atomic_store_n(&esp->bundles[sa->bundle].out, 0, __ATOMIC_RELEASE);
    }
    esp->retired[number] = __atomic_add_fetch(&c->e.epoch, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (int i = 0; i < ESP_WAITS && !fm_epoch_is_over(&c->e, esp->retired[number]); i++)
        usleep(FM_BUSY_WAIT_US);
    esp_reclaim(c);
}

#define ESP_DUMMY_PAYLOAD 16u
#define ESP_DUMMY_MAX 256u

/* A dummy packet, sealed by the control thread's own worker `w`; octets at *packet, which lies in
 * `room` (ESP_DUMMY_MAX octets), or 0 when the SA may send no more. */
FM_FN uint32_t esp_dummy(struct fm_worker *w, uint32_t number, uint64_t now_ns, uint8_t *room,
                         uint8_t **packet)
{
    struct esp_sa *sa = &w->engine->esp->sas[number];
    struct fm_desc d;
    memset(room, 0, ESP_DUMMY_MAX);
    memset(&d, 0, sizeof d);
    d.data = room + FM_HEADROOM_MIN;
    ipip_write_outer(d.data, ESP_DUMMY_PAYLOAD, 0,
                     ipip_constant_sum(sa->local_be, sa->remote_be, FM_DEFAULT_TTL, ESP_DUMMY),
                     ipip_constant_middle(sa->local_be, FM_DEFAULT_TTL, ESP_DUMMY), sa->remote_be);
    d.data -= IPIP_OVERHEAD;
    fm_worker_online(w);
    w->now_ns = now_ns;
    int verdict = esp_wrap(w, &d, sa);
    esp_seal(w);
    fm_worker_offline(w);
    *packet = d.data;
    return verdict == FM_NONE ? d.len : 0;
}

/* The next thing a worker told, or false. */
FM_FN int esp_take_told(struct fm_esp *esp, struct esp_told *told)
{
    for (uint32_t i = 0; i < esp->worker_count; i++) {
        struct esp_worker *w = esp->workers[i];
        if (__atomic_load_n(&w->told_put, __ATOMIC_ACQUIRE) == w->told_taken)
            continue;
        *told = w->told[w->told_taken % ESP_TOLD_MAX];
        __atomic_store_n(&w->told_taken, w->told_taken + 1, __ATOMIC_RELEASE);
        return 1;
    }
    return 0;
}

#endif
