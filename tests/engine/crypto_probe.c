/* The seam of ciphers as tests drive it: records in, the same records with text and tag replaced. */
#include "crypto_ipsec_mb.h"
#include "crypto_openssl.h"

struct record {
    uint32_t suite, aad_len, text_len, is_right;
    uint8_t iv[16], key[CRYPTO_KEY_MAX], tag[CRYPTO_TAG];
    uint8_t octets[]; /* GCM: aad, text. CBC: what is signed, text behind aad_len octets */
} __attribute__((packed));

#define BURST 64u

static const struct crypto_provider *provider_of(int is_mb)
{
    return is_mb ? crypto_ipsec_mb() : crypto_openssl();
}

int crypto_probe_is_here(int is_mb) { return provider_of(is_mb) != NULL; }

/* Records done; bursts of different keys and sizes, as a worker has them. */
uint32_t crypto_probe_run(int is_mb, int is_open, uint8_t *data, uint64_t size)
{
    static struct crypto_job jobs[BURST];
    const struct crypto_provider *p = provider_of(is_mb);
    struct crypto_job *order[BURST];
    struct record *records[BURST];
    struct crypto_key *keys[BURST];
    uint32_t done = 0;
    void *worker = p->worker_new();
    for (uint64_t at = 0; at < size;) {
        uint32_t n = 0;
        for (; n < BURST && at < size; n++) {
            struct record *r = records[n] = (struct record *)(data + at);
            struct crypto_job *job = order[n] = &jobs[n];
            uint8_t key[CRYPTO_KEY_MAX];
            at += sizeof *r + r->aad_len + r->text_len;
            memset(job, 0, sizeof *job);
            memcpy(key, r->key, sizeof key);
            keys[n] = p->key_new(r->suite, key, !is_open, 1, &worker);
            if (!keys[n])
                return 0;
            job->key = keys[n];
            job->suite = (uint8_t)r->suite;
            job->aad = r->octets;
            job->aad_len = r->aad_len;
            job->text = r->octets + r->aad_len;
            job->text_len = r->text_len;
            job->signed_len = r->aad_len + r->text_len;
            memcpy(job->iv, r->iv, 16);
            memcpy(job->expected, r->tag, CRYPTO_TAG);
            job->tag = is_open ? job->expected : r->tag;
        }
        if (is_open)
            p->open(worker, 0, order, n);
        else
            p->seal(worker, 0, order, n);
        for (uint32_t i = 0; i < n; i++) {
            records[i]->is_right = jobs[i].is_right;
            p->key_free(keys[i]);
        }
        done += n;
    }
    p->worker_free(worker);
    return done;
}
