/* Worker threads: native threads that move packets between their ports and the pipeline.
 *
 * One loop per worker:
 *   1. for each of its ports a batch from the home side: receive, fm_run_batch, send;
 *   2. a batch from the tunnel side likewise: nobody waits for another to run dry;
 *   3. every so often, and when idle, a batch of ICMP errors, and of the second port when the
 *      first one is busy;
 *   4. nothing at all arrived: offline for the epochs, sleep in poll, online.
 * One clock reading per batch: the pipeline judges expiry by it. The heartbeat grows with every
 * round and so at least every WORKER_SLEEP_MS.
 *
 * Threads never enter Python and take no signal. worker_stop() wakes and joins; a descriptor
 * that fails for good ends its worker with state FAILED, for Python to see, and no heartbeat.
 */
#ifndef FASTMIP_WORKERS_H
#define FASTMIP_WORKERS_H

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>

#include "kernel_worker.h"
#include "pipeline.h"
#include "xdp_port.h"

#define WORKER_SLEEP_MS 400    /* longest time without a heartbeat */
#define WORKER_END_S 10        /* longest wait for a thread that was asked to end */
#define WORKER_ICMP_ROUNDS 16  /* rounds under load between looks at the ICMP socket */
#define WORKER_OTHER_ROUNDS 8  /* rounds under load between looks at the second port */
#define WORKER_SPIN_NS 40000u     /* asking on before sleeping */
#define WORKER_NO_SPIN_NS 100000000u /* not asking on where another thread wants the CPU */
#define WORKER_TURN_NS 150000u /* a turn takes no longer, but for its packets */
#define WORKER_PACKET_NS 20000u

enum worker_state { WORKER_READY, WORKER_RUNNING, WORKER_STOPPED, WORKER_FAILED };

/* Fields shared with the control thread are written by the worker with relaxed stores. */
struct port_worker {
    struct kernel_port port;      /* every worker has one */
    struct xdp_port *xdp;         /* or NULL */
    struct port ports[PORTS_MAX]; /* it receives from these, and sends through the first */
    uint32_t port_count;
    struct fm_worker *pipeline;
    pthread_t thread;
    int joinable;
    int stop_fd;         /* eventfd: wakes poll */
    int stop;            /* written by the control thread */
    int state;           /* enum worker_state */
    uint64_t heartbeat;  /* rounds */
    uint64_t batches;    /* rounds' batches that held packets */
    uint64_t sleeps;     /* times in poll */
    int is_spin_worth;   /* the last sleep was shorter than a spin */
    uint64_t spin_from_ns; /* not before */
    struct fm_desc batch[FM_BATCH];
    struct fm_out out;
};

static inline void worker_add(uint64_t *field)
{
    __atomic_store_n(field, *field + 1, __ATOMIC_RELAXED);
}

static inline uint64_t worker_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Still in the batch's epoch: the lines of its packets are in place. */
static void worker_learn(struct fm_worker *w, const struct refused *r)
{
    for (uint32_t i = 0; i < r->count; i++)
        tunnel_refused(w, r->packets[i], r->is_too_big[i], r->mtu[i]);
}

/* Receive a batch, run it through the pipeline, send what comes out; packets received. */
static uint32_t worker_round(struct port_worker *p, const struct port *from, enum port_input input)
{
    struct fm_worker *w = p->pipeline;
    struct fm_out *out = &p->out;
    uint64_t start = fm_stage_start(w);
    uint32_t n = from->does->receive[input](from->self, p->batch);
    if (!n) return 0;
    fm_stage_end(w, FM_STAGE_RX, n, start);
    worker_add(&p->batches);
    uint64_t now_ns = worker_now();
    w->came_by = from->does->name;
    fm_run_batch(w, p->batch, n, input == PORT_HOME ? FM_HOME : FM_TUNNEL, now_ns, out);
    start = fm_stage_start(w);
    p->ports[0].does->send(p->ports[0].self, out, now_ns);
    worker_learn(w, &p->port.refused);
    fm_stage_end(w, FM_STAGE_TX, out->count[FM_HOME] + out->count[FM_TUNNEL], start);
    out->count[FM_HOME] = out->count[FM_TUNNEL] = 0;
    return n;
}

/* A round of every port; packets received. */
static uint32_t worker_turn(struct port_worker *p)
{
    uint32_t moved = 0;
    for (uint32_t i = 0; i < p->port_count; i++) {
        const struct port *from = &p->ports[i];
        if (i && moved && p->heartbeat % WORKER_OTHER_ROUNDS) continue;
        moved += worker_round(p, from, PORT_HOME);
        moved += worker_round(p, from, PORT_TUNNEL);
        if (from->does->receive[PORT_OTHER] &&
            (!moved || p->heartbeat % WORKER_ICMP_ROUNDS == 0))
            moved += worker_round(p, from, PORT_OTHER);
    }
    return moved;
}

static int worker_has_failed(const struct port_worker *p)
{
    for (uint32_t i = 0; i < p->port_count; i++)
        if (p->ports[i].does->has_failed(p->ports[i].self)) return 1;
    return 0;
}

/* Sleep until something arrives, stop is wanted, or the heartbeat is due. */
static void worker_sleep(struct port_worker *p)
{
    struct pollfd fds[1 + PORTS_MAX * PORT_POLLED] = {{.fd = p->stop_fd, .events = POLLIN}};
    uint32_t count[PORTS_MAX], polled = 1;
    for (uint32_t i = 0; i < p->port_count; i++)
        polled += count[i] = p->ports[i].does->polled(p->ports[i].self, fds + polled);
    worker_add(&p->sleeps);
    fm_worker_offline(p->pipeline);
    uint64_t start = worker_now();
    int ready = poll(fds, polled, WORKER_SLEEP_MS);
    fm_worker_online(p->pipeline);
    p->is_spin_worth = ready > 0 && worker_now() - start < WORKER_SPIN_NS;
    if (ready <= 0) return;
    for (uint32_t i = 0, at = 1; i < p->port_count; at += count[i++])
        p->ports[i].does->woken(p->ports[i].self, fds + at, count[i]);
}

/* Ask on for a moment before sleeping, where that would have been enough the last time: to sleep
 * and be woken costs more than to ask, and three times the latency. Without traffic sleeps are
 * long, and there is no spinning; nor is there for a while where a turn took so long that another
 * thread must want this CPU. Packets received. */
static uint32_t worker_spin(struct port_worker *p)
{
    uint64_t start = worker_now(), before = start;
    if (!p->is_spin_worth || start < p->spin_from_ns) return 0;
    while (!__atomic_load_n(&p->stop, __ATOMIC_ACQUIRE) && !worker_has_failed(p)) {
        uint32_t moved = worker_turn(p);
        uint64_t now = worker_now();
        worker_add(&p->heartbeat);
        if (now - before > WORKER_TURN_NS + moved * WORKER_PACKET_NS)
            p->spin_from_ns = now + WORKER_NO_SPIN_NS;
        if (moved) return moved;
        if (now - start > WORKER_SPIN_NS || now < p->spin_from_ns) break;
        before = now;
    }
    p->is_spin_worth = 0;
    return 0;
}

/* What a port took from the kernel is carried before its worker ends. */
static void worker_finish(struct port_worker *p)
{
    for (uint32_t i = 0; i < p->port_count; i++)
        while (p->ports[i].does->has_left(p->ports[i].self) && !worker_has_failed(p))
            if (!worker_round(p, &p->ports[i], PORT_HOME) &&
                !worker_round(p, &p->ports[i], PORT_TUNNEL))
                break;
}

static void *worker_main(void *argument)
{
    struct port_worker *p = (struct port_worker *)argument;
    fm_worker_online(p->pipeline);
    while (!__atomic_load_n(&p->stop, __ATOMIC_ACQUIRE) && !worker_has_failed(p)) {
        uint32_t moved = worker_turn(p);
        worker_add(&p->heartbeat);
        if (!moved && !worker_spin(p) && !worker_has_failed(p)) worker_sleep(p);
    }
    worker_finish(p);
    fm_worker_offline(p->pipeline);
    __atomic_store_n(&p->state, worker_has_failed(p) ? WORKER_FAILED : WORKER_STOPPED,
                     __ATOMIC_RELEASE);
    return NULL;
}

/* A worker for these descriptors, or NULL with errno. It is not started. */
static struct port_worker *worker_new(struct fm_worker *pipeline,
                                      const struct port_descriptors *fds)
{
    struct port_worker *p = NULL;
    int error = posix_memalign((void **)&p, 64, sizeof *p);
    if (error) {
        errno = error;
        return NULL;
    }
    memset(p, 0, sizeof *p);
    p->pipeline = pipeline;
    p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->stop_fd >= 0 && kernel_port_init(&p->port, fds) == 0) {
        p->port.engine = pipeline->engine;
        p->ports[p->port_count++] = (struct port){&kernel_functions, &p->port};
        return p;
    }
    error = errno;
    if (p->stop_fd >= 0) close(p->stop_fd);
    free(p);
    errno = error;
    return NULL;
}

/* Let AF_XDP sockets feed a worker, too, which stands still; 0, or -1 with errno. */
static int worker_add_xdp(struct port_worker *p, uint32_t sockets)
{
    if (p->xdp || p->joinable) {
        errno = EBUSY;
        return -1;
    }
    struct xdp_port *x = (struct xdp_port *)calloc(1, sizeof *x);
    if (!x || xdp_port_init(x, &p->port, p->pipeline->engine, sockets)) {
        free(x);
        return -1;
    }
    p->xdp = x;
    p->ports[p->port_count++] = p->ports[0];
    p->ports[0] = (struct port){&xdp_functions, x};
    return 0;
}

/* 0 or an errno. Signals stay with the threads that can run Python handlers. */
static int worker_start(struct port_worker *p, int number)
{
    sigset_t all, before;
    char name[16];
    if (p->joinable) return EALREADY;
    snprintf(name, sizeof name, "fastmip-%d", number & 0xffff);
    __atomic_store_n(&p->stop, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&p->state, WORKER_RUNNING, __ATOMIC_RELAXED);
    p->port.failed = PORT_NONE;
    port_open_ring(&p->port);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&p->thread, NULL, worker_main, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        uring_close(&p->port.home_ring);
        __atomic_store_n(&p->state, WORKER_READY, __ATOMIC_RELAXED);
        return error;
    }
    p->joinable = 1;
    pthread_setname_np(p->thread, name);
    return 0;
}

/* Ask the thread to end; it does after the batch in hand. */
static void worker_ask_stop(struct port_worker *p)
{
    uint64_t one = 1;
    if (!p->joinable) return; /* nobody would take the signal until a new thread never sleeps */
    __atomic_store_n(&p->stop, 1, __ATOMIC_RELEASE);
    if (write(p->stop_fd, &one, sizeof one) < 0) return; /* EAGAIN: already signalled */
}

/* Wait for the thread: for the batch in hand, or not at all. What does not end by then is wedged
 * for good and still holds its memory: nothing but an abort is left. */
static void worker_join(struct port_worker *p)
{
    uint64_t spent;
    struct timespec deadline;
    if (!p->joinable) return;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += WORKER_END_S;
    if (pthread_timedjoin_np(p->thread, NULL, &deadline) != 0) {
        fprintf(stderr, "fastmip: a worker did not end within %d s: aborting\n", WORKER_END_S);
        abort();
    }
    p->joinable = 0;
    uring_close(&p->port.home_ring);
    if (read(p->stop_fd, &spent, sizeof spent) < 0) return; /* EAGAIN: nothing was signalled */
}

static void worker_free(struct port_worker *p)
{
    if (!p) return;
    if (p->xdp) xdp_port_free(p->xdp);
    free(p->xdp);
    kernel_port_free(&p->port);
    close(p->stop_fd);
    free(p);
}

#endif
