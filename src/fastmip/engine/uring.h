/* A ring of reads (io_uring) on one descriptor: URING_DEPTH reads into slots that never change,
 * handed to the kernel in one call.
 *
 * The kernel does each read at once, in order: RWF_NOWAIT, not O_NONBLOCK, makes it answer
 * -EAGAIN where it would wait. So all are completed when the call returns, nothing is in flight
 * between calls, and the slots are the reader's. The slots are registered, that is pinned: without
 * that a ring gains next to nothing over read(), so where they cannot be (RLIMIT_MEMLOCK without
 * CAP_IPC_LOCK), or io_uring is missing or forbidden, there is no ring.
 *
 * Whatever is not as expected leaves `usable` false for good: the reader goes on with read(), which
 * also tells what is wrong with the descriptor.
 */
#ifndef FASTMIP_URING_H
#define FASTMIP_URING_H

#include <errno.h>
#include <linux/io_uring.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define URING_DEPTH 64

#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1u << 7) /* Linux 5.18 */
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

struct uring {
    int fd; /* -1: none */
    int usable;
    uint32_t left; /* completions not yet taken */
    uint8_t *rings;
    size_t rings_len;
    struct io_uring_sqe *reads;
    uint32_t *tail;      /* of the submissions */
    uint32_t *completed; /* the head of the completions: ours to move */
    const uint32_t *completions_tail;
    const struct io_uring_cqe *completions;
    uint32_t completions_mask;
};

static inline int uring_register(const struct uring *u, unsigned what, const void *of, unsigned n)
{
    return (int)syscall(SYS_io_uring_register, u->fd, what, of, n);
}

/* Closing alone would let go of the descriptor and the slots some time later. */
static inline void uring_close(struct uring *u)
{
    if (u->fd >= 0) {
        uring_register(u, IORING_UNREGISTER_FILES, NULL, 0);
        uring_register(u, IORING_UNREGISTER_BUFFERS, NULL, 0);
    }
    if (u->reads) munmap(u->reads, URING_DEPTH * sizeof *u->reads);
    if (u->rings) munmap(u->rings, u->rings_len);
    if (u->fd >= 0) close(u->fd);
    memset(u, 0, sizeof *u);
    u->fd = -1;
}

static inline void *uring_map(const struct uring *u, size_t len, off_t what)
{
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, what);
    return at == MAP_FAILED ? NULL : at;
}

/* Reads of up to `len` bytes from `fd` to `start`, a `stride` apart. 0, or -1: there is no ring. */
static inline int uring_open(struct uring *u, int fd, uint8_t *start, size_t stride, uint32_t len)
{
    struct io_uring_params p = {.flags = IORING_SETUP_SUBMIT_ALL};
    struct iovec slots = {start, (URING_DEPTH - 1) * stride + len};
    memset(u, 0, sizeof *u);
    u->fd = (int)syscall(SYS_io_uring_setup, URING_DEPTH, &p); /* close-on-exec by itself */
    if (u->fd < 0) return -1;
    u->rings_len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    if (u->rings_len < p.sq_off.array + p.sq_entries * sizeof(uint32_t))
        u->rings_len = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    if (!(p.features & IORING_FEAT_SINGLE_MMAP) ||
        !(u->rings = (uint8_t *)uring_map(u, u->rings_len, IORING_OFF_SQ_RING)) ||
        !(u->reads = (struct io_uring_sqe *)uring_map(u, URING_DEPTH * sizeof *u->reads,
                                                      IORING_OFF_SQES)) ||
        uring_register(u, IORING_REGISTER_FILES, &fd, 1) ||
        uring_register(u, IORING_REGISTER_BUFFERS, &slots, 1)) {
        uring_close(u);
        return -1;
    }
    u->tail = (uint32_t *)(void *)(u->rings + p.sq_off.tail);
    u->completed = (uint32_t *)(void *)(u->rings + p.cq_off.head);
    u->completions_tail = (const uint32_t *)(void *)(u->rings + p.cq_off.tail);
    u->completions = (const struct io_uring_cqe *)(void *)(u->rings + p.cq_off.cqes);
    u->completions_mask = p.cq_entries - 1;
    for (uint32_t i = 0; i < URING_DEPTH; i++) {
        ((uint32_t *)(void *)(u->rings + p.sq_off.array))[i] = i;
        u->reads[i] = (struct io_uring_sqe){.opcode = IORING_OP_READ_FIXED,
                                            .flags = IOSQE_FIXED_FILE,
                                            .off = (uint64_t)-1,
                                            .addr = (uint64_t)(uintptr_t)(start + i * stride),
                                            .len = len,
                                            .rw_flags = RWF_NOWAIT,
                                            .user_data = i};
    }
    u->usable = 1;
    return 0;
}

/* Read into all slots; none of the last reads may be left. */
static inline void uring_read(struct uring *u)
{
    __atomic_store_n(u->tail, *u->tail + URING_DEPTH, __ATOMIC_RELEASE);
    long done = syscall(SYS_io_uring_enter, u->fd, URING_DEPTH, 0, 0, NULL, 0);
    u->left = __atomic_load_n(u->completions_tail, __ATOMIC_ACQUIRE) - *u->completed;
    if (done != URING_DEPTH || u->left != URING_DEPTH) u->usable = 0;
}

/* The slot of the next read that brought something and how much; 0 when none is left. */
static inline int32_t uring_next(struct uring *u, uint32_t *slot)
{
    while (u->left) {
        const struct io_uring_cqe *c = &u->completions[*u->completed & u->completions_mask];
        int32_t got = c->res;
        *slot = (uint32_t)c->user_data;
        __atomic_store_n(u->completed, *u->completed + 1, __ATOMIC_RELEASE);
        u->left--;
        if (got > 0) return got;
        if (got != -EAGAIN) u->usable = 0;
    }
    return 0;
}

#endif
