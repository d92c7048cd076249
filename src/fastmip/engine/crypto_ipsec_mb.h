/* libipsec-mb as provider: bursts of packets, encrypted several at a time. Its structures differ
 * between major versions, so it is compiled against the header found and loads the library of that
 * major version, if there is one when fastmip starts.
 */
#ifndef FASTMIP_CRYPTO_IPSEC_MB_H
#define FASTMIP_CRYPTO_IPSEC_MB_H

#include "crypto.h"

#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<intel-ipsec-mb.h>)
#define CRYPTO_HAS_IPSEC_MB 1
#endif
#endif

#ifdef CRYPTO_HAS_IPSEC_MB
#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <stdlib.h>

#define MB_BURST 32u

struct mb_key {
    struct gcm_key_data gcm;
    uint8_t enc[16 * 15] __attribute__((aligned(16)));
    uint8_t dec[16 * 15] __attribute__((aligned(16)));
    uint8_t ipad[32] __attribute__((aligned(16)));
    uint8_t opad[32] __attribute__((aligned(16)));
    IMB_JOB job[1]; /* filled but for the packet: what a job begins with */
};

struct mb_library {
    IMB_MGR *(*alloc)(uint64_t flags);
    void (*init)(IMB_MGR *mgr, IMB_ARCH *arch);
    void (*release)(IMB_MGR *mgr);
#if IMB_VERSION_NUM >= 0x10500
    uint32_t (*set_session)(IMB_MGR *mgr, IMB_JOB *job);
#endif
};

static struct mb_library mb_library;

FM_FN void *mb_worker_new(void)
{
    IMB_MGR *mgr = mb_library.alloc(0);
    if (mgr)
        mb_library.init(mgr, NULL);
    return mgr;
}

FM_FN void mb_worker_free(void *worker)
{
    if (worker)
        mb_library.release((IMB_MGR *)worker);
}

/* RFC 2104: the hash states behind the two padded keys. */
FM_FN void mb_hmac_key(IMB_MGR *mgr, struct mb_key *k, const uint8_t *key)
{
    uint8_t block[64];
    for (int i = 0; i < 64; i++)
        block[i] = (i < 32 ? key[i] : 0) ^ 0x36;
    IMB_SHA256_ONE_BLOCK(mgr, block, k->ipad);
    for (int i = 0; i < 64; i++)
        block[i] ^= 0x36 ^ 0x5c;
    IMB_SHA256_ONE_BLOCK(mgr, block, k->opad);
    crypto_wipe(block, sizeof block);
}

FM_FN struct crypto_key *mb_key_new(uint32_t suite, const uint8_t *key, int is_outbound,
                                    uint32_t workers, void *const *states)
{
    IMB_MGR *mgr = (IMB_MGR *)states[0];
    struct mb_key *k = (struct mb_key *)aligned_alloc(64, (sizeof *k + 63) & ~(size_t)63);
    uint32_t size = crypto_cipher_key(suite);
    IMB_JOB *job = k->job;
    (void)workers;
    if (!k)
        return (struct crypto_key *)0;
    memset(k, 0, sizeof *k);
    job->key_len_in_bytes = size;
    job->cipher_direction = is_outbound ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
    job->chain_order = is_outbound ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    job->auth_tag_output_len_in_bytes = CRYPTO_TAG;
    if (crypto_is_gcm(suite)) {
        if (size == 16)
            IMB_AES128_GCM_PRE(mgr, key, &k->gcm);
        else
            IMB_AES256_GCM_PRE(mgr, key, &k->gcm);
        job->enc_keys = job->dec_keys = &k->gcm;
        job->cipher_mode = IMB_CIPHER_GCM;
        job->hash_alg = IMB_AUTH_AES_GMAC;
        job->iv_len_in_bytes = 12;
    } else {
        if (size == 16)
            IMB_AES_KEYEXP_128(mgr, key, k->enc, k->dec);
        else
            IMB_AES_KEYEXP_256(mgr, key, k->enc, k->dec);
        mb_hmac_key(mgr, k, key + size);
        job->enc_keys = k->enc;
        job->dec_keys = k->dec;
        job->cipher_mode = IMB_CIPHER_CBC;
        job->hash_alg = IMB_AUTH_HMAC_SHA_256;
        job->iv_len_in_bytes = 16;
        job->u.HMAC._hashed_auth_key_xor_ipad = k->ipad;
        job->u.HMAC._hashed_auth_key_xor_opad = k->opad;
    }
#if IMB_VERSION_NUM >= 0x10500
    mb_library.set_session(mgr, job);
#endif
    return (struct crypto_key *)k;
}

FM_FN void mb_key_free(struct crypto_key *key)
{
    if (key)
        crypto_wipe(key, sizeof(struct mb_key));
    free(key);
}

FM_INLINE void mb_fill(IMB_JOB *job, struct crypto_job *c, int is_open)
{
    const IMB_JOB *ready = ((const struct mb_key *)c->key)->job;
    job->enc_keys = ready->enc_keys;
    job->dec_keys = ready->dec_keys;
    job->key_len_in_bytes = ready->key_len_in_bytes;
    job->iv_len_in_bytes = ready->iv_len_in_bytes;
    job->auth_tag_output_len_in_bytes = CRYPTO_TAG;
    job->cipher_mode = ready->cipher_mode;
    job->cipher_direction = ready->cipher_direction;
    job->hash_alg = ready->hash_alg;
    job->chain_order = ready->chain_order;
#if IMB_VERSION_NUM >= 0x10500
    memcpy(job->suite_id, ready->suite_id, sizeof job->suite_id);
    job->session_id = ready->session_id;
#endif
    job->auth_tag_output = is_open ? c->scratch : c->tag;
    if (crypto_is_gcm(c->suite)) {
        job->src = job->dst = c->text;
        job->cipher_start_src_offset_in_bytes = 0;
        job->msg_len_to_cipher_in_bytes = c->text_len;
        job->hash_start_src_offset_in_bytes = 0;
        job->msg_len_to_hash_in_bytes = c->text_len;
        job->u.GCM.aad = c->aad;
        job->u.GCM.aad_len_in_bytes = c->aad_len;
        job->iv = c->iv;
        return;
    }
    /* Sealing: the block at the IV's place is encrypted first. */
    uint32_t before = is_open ? 0 : 16;
    job->src = c->aad;
    job->dst = c->text - before;
    job->cipher_start_src_offset_in_bytes = (uint64_t)(c->text - before - c->aad);
    job->msg_len_to_cipher_in_bytes = c->text_len + before;
    job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_hash_in_bytes = c->signed_len;
    job->u.HMAC._hashed_auth_key_xor_ipad = ready->u.HMAC._hashed_auth_key_xor_ipad;
    job->u.HMAC._hashed_auth_key_xor_opad = ready->u.HMAC._hashed_auth_key_xor_opad;
    job->iv = is_open ? c->iv : crypto_zeros;
}

FM_INLINE void mb_run(IMB_MGR *mgr, struct crypto_job *const *jobs, uint32_t n, int is_open)
{
    IMB_JOB *burst[MB_BURST];
    uint32_t at = 0, done = 0;
    while (at < n) {
        uint32_t want = n - at < MB_BURST ? n - at : MB_BURST;
        uint32_t got = IMB_GET_NEXT_BURST(mgr, want, burst);
        if (!got) {
            done += IMB_FLUSH_BURST(mgr, MB_BURST, burst);
            continue;
        }
        for (uint32_t i = 0; i < got; i++)
            mb_fill(burst[i], jobs[at + i], is_open);
        done += IMB_SUBMIT_BURST_NOCHECK(mgr, got, burst);
        at += got;
    }
    while (done < n) {
        uint32_t more = IMB_FLUSH_BURST(mgr, MB_BURST, burst);
        if (!more)
            break;
        done += more;
    }
}

FM_FN void mb_seal(void *worker, uint32_t number, struct crypto_job *const *jobs, uint32_t n)
{
    (void)number;
    mb_run((IMB_MGR *)worker, jobs, n, 0);
}

FM_FN void mb_open(void *worker, uint32_t number, struct crypto_job *const *jobs, uint32_t n)
{
    (void)number;
    mb_run((IMB_MGR *)worker, jobs, n, 1);
    for (uint32_t i = 0; i < n; i++)
        jobs[i]->is_right = crypto_same_tag(jobs[i]->scratch, jobs[i]->expected);
}

#define MB_TEXT_(x) #x
#define MB_TEXT(x) MB_TEXT_(x)

/* NULL when the library is not here, or of another major version than the header. */
FM_FN const struct crypto_provider *crypto_ipsec_mb(void)
{
    static struct crypto_provider provider = {
        "ipsec-mb", (char *)"", mb_worker_new, mb_worker_free, mb_key_new,
        mb_key_free, mb_seal, mb_open};
    static char version[32];
    char name[] = "libIPSec_MB.so.0";
    const char *(*told)(void);
    if (*provider.version)
        return &provider;
    name[sizeof name - 2] = (char)('0' + (IMB_VERSION_NUM >> 16));
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return (struct crypto_provider *)0;
    *(void **)&mb_library.alloc = dlsym(library, "alloc_mb_mgr");
    *(void **)&mb_library.init = dlsym(library, "init_mb_mgr_auto");
    *(void **)&mb_library.release = dlsym(library, "free_mb_mgr");
    *(void **)&told = dlsym(library, "imb_get_version_str");
    if (!mb_library.alloc || !mb_library.init || !mb_library.release || !told)
        return (struct crypto_provider *)0;
#if IMB_VERSION_NUM >= 0x10500
    *(void **)&mb_library.set_session = dlsym(library, "imb_set_session");
    if (!mb_library.set_session)
        return (struct crypto_provider *)0;
#endif
    strncpy(version, told(), sizeof version - 1);
    provider.version = version;
    return &provider;
}
#else
FM_FN const struct crypto_provider *crypto_ipsec_mb(void) { return (struct crypto_provider *)0; }
#endif

#endif
