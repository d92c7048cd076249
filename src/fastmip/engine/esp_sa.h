/* Security associations (RFC 4301): what one holds, how it is found, what workers say of it.
 *
 * An outbound SA hands out sequence numbers, an inbound one keeps a window of them. A *bundle* is
 * what a binding line refers to: all SAs between two tunnel ends for one mobile node; it sends by
 * one of them and takes by all its inbound ones, so that keys change without loss.
 *
 * Ownership: the control thread makes and withdraws SAs (esp_control.h); an SA is reused, and its
 * key zeroed, when every worker has announced a later epoch. Sequence numbers and byte counts are
 * taken by atomic additions; the window is locked where several workers may meet in it.
 */
#ifndef FASTMIP_ESP_SA_H
#define FASTMIP_ESP_SA_H

#include <unistd.h>

#include "crypto.h"
#include "esp_window.h"
#include "worker.h"

#define PROTO_ESP 50
#define ESP_HEADER 8u
#define ESP_SPI_MIN 256u /* below: reserved (RFC 4303 2.1) */
#define ESP_UDP_HEADER 8u
#define ESP_DUMMY 59 /* next header of a dummy packet (RFC 4303 2.6) */
#define ESP_TOLD_MAX 256u

#define ESP_INBOUND 1
#define ESP_ESN 2
#define ESP_GCM 4
#define ESP_SHARED 8    /* several workers may receive on it */
#define ESP_SELECTORS 16

/* What workers tell of an SA, each once. */
enum esp_event { ESP_CONFIRMED, ESP_SOFT, ESP_HARD, ESP_BLOCK, ESP_EVENTS };

struct esp_sa {
    /* what every packet reads */
    struct crypto_key *key;
    uint32_t spi_be, salt;
    uint32_t local_be, remote_be;
    uint32_t ports;  /* of UDP encapsulation (RFC 3948), udp_ports_to_us; 0 without */
    uint32_t bundle;
    uint8_t suite, flags, iv_size, block;
    uint8_t told;    /* bits of enum esp_event, atomic */
    uint8_t lock;    /* window */
    uint64_t soft_bytes, hard_bytes, soft_ns, hard_ns; /* all ones: none */
    uint64_t soft_sequence, soft_packets; /* out: from here on ESP_BLOCK, or ESP_SOFT */
    uint64_t last;   /* out: the last number that may be sent, atomic */
    uint64_t hard_packets;
    uint32_t remote_first, remote_last, local_first, local_last; /* of inner packets */
    /* what every packet writes */
    uint64_t sequence __attribute__((aligned(64))); /* out: number sent last */
    uint64_t packets, bytes;
    struct esp_window window; /* in */
} __attribute__((aligned(64)));

struct esp_bundle {
    uint32_t out;      /* SA it sends by, 0 without; atomic */
    uint32_t is_used;
};

struct esp_told {
    uint32_t sa;
    uint32_t event;
};

/* A packet on its way through the provider. */
struct esp_way {
    struct fm_desc *d;
    struct esp_sa *sa;
    uint8_t *esp;       /* its ESP header */
    uint64_t sequence;
    uint32_t place;     /* in the batch */
};

struct esp_worker {
    void *state; /* the provider's */
    uint32_t number, count;
    struct crypto_job *order[FM_BATCH];
    struct crypto_job jobs[FM_BATCH];
    struct esp_way ways[FM_BATCH];
    struct esp_told told[ESP_TOLD_MAX];
    uint32_t told_put, told_taken;
};

struct fm_esp {
    const struct crypto_provider *provider;
    struct fm_index by_spi; /* inbound: SPI as on the wire -> number */
    struct esp_sa *sas;     /* number 0 is none */
    struct esp_bundle *bundles;
    uint32_t *line_bundle;  /* of lines with FM_ESP */
    uint64_t *rings;
    uint32_t max, line_count;
    int event_fd;
    uint32_t worker_count;
    void *states[FM_WORKERS_MAX];
    struct esp_worker *workers[FM_WORKERS_MAX];
    fm_batch_fn plain[FM_SIDES]; /* the loops inside ours */
    /* control thread's */
    uint64_t *retired; /* epoch by SA; 0 in use, 1 free */
    uint32_t sa_count, fresh;
};

/* Tell the control thread, once. */
FM_COLD void esp_tell(struct fm_worker *w, struct esp_sa *sa, enum esp_event event)
{
    struct fm_esp *esp = w->engine->esp;
    struct esp_worker *mine = esp->workers[w->number];
    uint32_t taken = __atomic_load_n(&mine->told_taken, __ATOMIC_ACQUIRE);
    if (mine->told_put - taken == ESP_TOLD_MAX)
        return; /* the next packet tries again */
    if (__atomic_fetch_or(&sa->told, (uint8_t)(1u << event), __ATOMIC_RELAXED) >> event & 1)
        return;
    struct esp_told *told = &mine->told[mine->told_put % ESP_TOLD_MAX];
    told->sa = (uint32_t)(sa - esp->sas);
    told->event = event;
    __atomic_store_n(&mine->told_put, mine->told_put + 1, __ATOMIC_RELEASE);
    uint64_t one = 1;
    if (esp->event_fd >= 0 && write(esp->event_fd, &one, sizeof one) < 0)
        return; /* the control thread has been woken already */
}

FM_INLINE int esp_has_told(const struct esp_sa *sa, enum esp_event event)
{
    return __atomic_load_n(&sa->told, __ATOMIC_RELAXED) >> event & 1;
}

/* Soft limits tell, hard ones refuse. 1 when the packet may go on. */
FM_COLD int esp_limits(struct fm_worker *w, struct esp_sa *sa, uint64_t packets, uint64_t bytes)
{
    if (w->now_ns >= sa->hard_ns || bytes >= sa->hard_bytes || packets >= sa->hard_packets) {
        if (!esp_has_told(sa, ESP_HARD))
            esp_tell(w, sa, ESP_HARD);
        return 0;
    }
    if (!esp_has_told(sa, ESP_SOFT) &&
        (w->now_ns >= sa->soft_ns || bytes >= sa->soft_bytes || packets >= sa->soft_packets))
        esp_tell(w, sa, ESP_SOFT);
    return 1;
}

FM_INLINE int esp_is_within_limits(struct fm_worker *w, struct esp_sa *sa)
{
    uint64_t packets = __atomic_load_n(&sa->packets, __ATOMIC_RELAXED);
    uint64_t bytes = __atomic_load_n(&sa->bytes, __ATOMIC_RELAXED);
    if (FM_LIKELY((w->now_ns < sa->soft_ns) & (bytes < sa->soft_bytes) &
                  (packets < sa->soft_packets)))
        return 1;
    return esp_limits(w, sa, packets, bytes);
}

/* The next sequence number to send; 0 when there is none: refused for good, or until the control
 * thread has reserved more. */
FM_INLINE uint64_t esp_next_sequence(struct fm_worker *w, struct esp_sa *sa)
{
    uint64_t last = __atomic_load_n(&sa->last, __ATOMIC_RELAXED);
    if (FM_UNLIKELY(__atomic_load_n(&sa->sequence, __ATOMIC_RELAXED) >= last))
        return 0;
    uint64_t n = __atomic_add_fetch(&sa->sequence, 1, __ATOMIC_RELAXED);
    if (FM_UNLIKELY(n >= __atomic_load_n(&sa->soft_sequence, __ATOMIC_RELAXED)) &&
        !esp_has_told(sa, ESP_BLOCK))
        esp_tell(w, sa, ESP_BLOCK);
    return n <= last ? n : 0;
}

FM_INLINE void esp_lock(struct esp_sa *sa)
{
    if (sa->flags & ESP_SHARED)
        while (__atomic_exchange_n(&sa->lock, 1, __ATOMIC_ACQUIRE))
            ;
}

FM_INLINE void esp_unlock(struct esp_sa *sa)
{
    if (sa->flags & ESP_SHARED)
        __atomic_store_n(&sa->lock, 0, __ATOMIC_RELEASE);
}

#endif
