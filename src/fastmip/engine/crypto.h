/* The seam between ESP and who computes its ciphers: jobs in, tags out or checked. In place, nothing
 * allocated, no state but what a worker owns. A provider is chosen once, at start:
 * crypto_ipsec_mb.h (x86-64, many packets at once) or crypto_openssl.h (everywhere).
 *
 * Suites (RFC 8221): AES-GCM with a 16-octet tag (RFC 4106), AES-CBC (RFC 3602) with HMAC-SHA-256-128
 * (RFC 4868). A key as it comes in: cipher key, then salt (GCM, 4) or HMAC key (CBC, 32).
 */
#ifndef FASTMIP_CRYPTO_H
#define FASTMIP_CRYPTO_H

#include "octets.h"

#define CRYPTO_TAG 16u
#define CRYPTO_KEY_MAX 64u

enum crypto_suite { AES128_GCM16, AES256_GCM16, AES128_CBC_SHA256, AES256_CBC_SHA256, CRYPTO_SUITES };

FM_INLINE int crypto_is_gcm(uint32_t suite) { return suite <= AES256_GCM16; }
FM_INLINE uint32_t crypto_cipher_key(uint32_t suite) { return suite & 1 ? 32 : 16; }
FM_INLINE uint32_t crypto_key_size(uint32_t suite)
{
    return crypto_cipher_key(suite) + (crypto_is_gcm(suite) ? 4 : 32);
}
FM_INLINE uint32_t crypto_iv_size(uint32_t suite) { return crypto_is_gcm(suite) ? 8 : 16; }

/* What a provider keeps of a key: key schedules, contexts of each worker. */
struct crypto_key;

/* One packet. GCM: `aad` in front, `text` encrypted. CBC: `aad` begins at the ESP header; what is
 * signed is `signed_len` octets from there on. Sealing CBC encrypts the IV's place, too, with an IV
 * of zeros: what becomes the packet's IV is a cipher block nobody can foretell (SP 800-38A, C). */
struct crypto_job {
    const struct crypto_key *key;
    uint8_t *text;
    uint32_t text_len;
    uint32_t signed_len; /* CBC */
    const uint8_t *aad;
    uint32_t aad_len; /* GCM */
    uint8_t suite;
    uint8_t is_right; /* set by the provider when it opens */
    uint8_t *tag;     /* sealing: where it goes. Opening: `expected` */
    uint8_t expected[CRYPTO_TAG] __attribute__((aligned(16)));
    uint8_t iv[16] __attribute__((aligned(16)));
    uint8_t aad_esn[12]; /* SPI and 64-bit sequence number */
    uint8_t scratch[CRYPTO_TAG] __attribute__((aligned(16))); /* the tag as computed */
};

struct crypto_provider {
    const char *name;
    char *version;                                /* for people */
    void *(*worker_new)(void);                    /* NULL: no memory */
    void (*worker_free)(void *worker);
    struct crypto_key *(*key_new)(uint32_t suite, const uint8_t *key, int is_outbound,
                                  uint32_t workers, void *const *states);
    void (*key_free)(struct crypto_key *key);     /* zeroes it first */
    void (*seal)(void *worker, uint32_t number, struct crypto_job *const *jobs, uint32_t n);
    void (*open)(void *worker, uint32_t number, struct crypto_job *const *jobs, uint32_t n);
};

/* Zeroes that no compiler leaves out. */
FM_INLINE void crypto_wipe(void *p, size_t n)
{
    memset(p, 0, n);
    __asm__ volatile("" : : "r"(p) : "memory");
}

/* Same 16 octets? In constant time. */
FM_INLINE uint8_t crypto_same_tag(const uint8_t *a, const uint8_t *b)
{
    uint64_t rest = (load64(a) ^ load64(b)) | (load64(a + 8) ^ load64(b + 8));
    __asm__ volatile("" : "+r"(rest));
    return (uint8_t)(1 ^ ((rest | -rest) >> 63));
}

static const uint8_t crypto_zeros[16] __attribute__((aligned(16), unused)) = {0};

#endif
