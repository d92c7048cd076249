/* libcrypto's EVP as provider: one packet at a time, contexts made when a key is installed, one for
 * each worker. Its tag comparison is CRYPTO_memcmp's, in constant time.
 */
#ifndef FASTMIP_CRYPTO_OPENSSL_H
#define FASTMIP_CRYPTO_OPENSSL_H

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdlib.h>

#include "crypto.h"

struct ssl_key {
    uint32_t workers;
    struct {
        EVP_CIPHER_CTX *cipher;
        EVP_MAC_CTX *mac; /* CBC */
    } of[];
};

FM_FN void *ssl_worker_new(void) { return (void *)crypto_zeros; } /* it keeps nothing */
FM_FN void ssl_worker_free(void *worker) { (void)worker; }

/* The library zeroes contexts when they are freed. */
FM_FN void ssl_key_free(struct crypto_key *key)
{
    struct ssl_key *k = (struct ssl_key *)key;
    if (!k)
        return;
    for (uint32_t i = 0; i < k->workers; i++) {
        EVP_CIPHER_CTX_free(k->of[i].cipher);
        EVP_MAC_CTX_free(k->of[i].mac);
    }
    free(k);
}

FM_FN EVP_MAC_CTX *ssl_hmac(const uint8_t *key)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end()};
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
    EVP_MAC_free(mac); /* the context holds it */
    if (ctx && !EVP_MAC_init(ctx, key, 32, params)) {
        EVP_MAC_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

FM_FN struct crypto_key *ssl_key_new(uint32_t suite, const uint8_t *key, int is_outbound,
                                     uint32_t workers, void *const *states)
{
    static const char *const names[CRYPTO_SUITES] = {"AES-128-GCM", "AES-256-GCM", "AES-128-CBC",
                                                     "AES-256-CBC"};
    struct ssl_key *k = (struct ssl_key *)calloc(1, sizeof *k + workers * sizeof k->of[0]);
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, names[suite], NULL);
    int is_good = k && cipher;
    (void)states;
    for (uint32_t i = 0; is_good && i < workers; i++) {
        k->workers = i + 1;
        k->of[i].cipher = EVP_CIPHER_CTX_new();
        is_good = k->of[i].cipher &&
                  EVP_CipherInit_ex2(k->of[i].cipher, cipher, key, NULL, is_outbound, NULL) &&
                  EVP_CIPHER_CTX_set_padding(k->of[i].cipher, 0);
        if (is_good && !crypto_is_gcm(suite))
            is_good = (k->of[i].mac = ssl_hmac(key + crypto_cipher_key(suite))) != NULL;
    }
    EVP_CIPHER_free(cipher);
    if (!is_good) {
        ssl_key_free((struct crypto_key *)k);
        return (struct crypto_key *)0;
    }
    return (struct crypto_key *)k;
}

FM_INLINE int ssl_gcm(EVP_CIPHER_CTX *ctx, struct crypto_job *c, int is_open)
{
    int len;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG,
                                          is_open ? c->expected : c->tag, CRYPTO_TAG),
        OSSL_PARAM_construct_end()};
    if (!EVP_CipherInit_ex2(ctx, NULL, NULL, c->iv, -1, is_open ? params : NULL) ||
        !EVP_CipherUpdate(ctx, NULL, &len, c->aad, (int)c->aad_len) ||
        !EVP_CipherUpdate(ctx, c->text, &len, c->text, (int)c->text_len) ||
        !EVP_CipherFinal_ex(ctx, c->text + len, &len))
        return 0;
    return is_open || EVP_CIPHER_CTX_get_params(ctx, params);
}

FM_INLINE int ssl_sign(EVP_MAC_CTX *ctx, const struct crypto_job *c, uint8_t *tag)
{
    uint8_t whole[32];
    size_t len;
    int is_done = EVP_MAC_init(ctx, NULL, 0, NULL) && EVP_MAC_update(ctx, c->aad, c->signed_len) &&
                  EVP_MAC_final(ctx, whole, &len, sizeof whole);
    memcpy(tag, whole, CRYPTO_TAG);
    return is_done;
}

FM_INLINE int ssl_cbc(EVP_CIPHER_CTX *ctx, uint8_t *text, uint32_t size, const uint8_t *iv)
{
    int len;
    return EVP_CipherInit_ex2(ctx, NULL, NULL, iv, -1, NULL) &&
           EVP_CipherUpdate(ctx, text, &len, text, (int)size);
}

FM_FN void ssl_seal(void *worker, uint32_t number, struct crypto_job *const *jobs, uint32_t n)
{
    (void)worker;
    for (uint32_t i = 0; i < n; i++) {
        struct crypto_job *c = jobs[i];
        const struct ssl_key *k = (const struct ssl_key *)c->key;
        if (crypto_is_gcm(c->suite)) {
            c->is_right = (uint8_t)ssl_gcm(k->of[number].cipher, c, 0);
        } else {
            c->is_right = (uint8_t)(ssl_cbc(k->of[number].cipher, c->text - 16, c->text_len + 16,
                                            crypto_zeros) &&
                                    ssl_sign(k->of[number].mac, c, c->tag));
        }
        if (!c->is_right) /* it never happened; nothing may leave readable if it does */
            memset(c->text, 0, c->text_len);
    }
}

FM_FN void ssl_open(void *worker, uint32_t number, struct crypto_job *const *jobs, uint32_t n)
{
    (void)worker;
    for (uint32_t i = 0; i < n; i++) {
        struct crypto_job *c = jobs[i];
        const struct ssl_key *k = (const struct ssl_key *)c->key;
        if (crypto_is_gcm(c->suite)) {
            c->is_right = (uint8_t)ssl_gcm(k->of[number].cipher, c, 1);
            continue;
        }
        c->is_right = (uint8_t)(ssl_sign(k->of[number].mac, c, c->scratch) &&
                                crypto_same_tag(c->scratch, c->expected) &&
                                ssl_cbc(k->of[number].cipher, c->text, c->text_len, c->iv));
    }
}

FM_FN const struct crypto_provider *crypto_openssl(void)
{
    static struct crypto_provider provider = {
        "libcrypto", (char *)"", ssl_worker_new, ssl_worker_free, ssl_key_new,
        ssl_key_free, ssl_seal, ssl_open};
    static char version[32];
    strncpy(version, OpenSSL_version(OPENSSL_VERSION_STRING), sizeof version - 1);
    provider.version = version;
    return &provider;
}

#endif
