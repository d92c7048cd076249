# What the Cython boundary sees of the C engine: only what it touches.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "egress_writer.h" nogil:
    enum:
        EGRESS_KNOWN
        EGRESS_NO_PORT
        EGRESS_LINKS
        EGRESS_SETS
        EGRESS_SLOTS
        EGRESS_KERNEL
        EGRESS_WAYS

    struct fm_hop:
        uint8_t *dst
        uint8_t *src
        uint32_t ifindex
        uint16_t mtu
        uint16_t port

    struct fm_egress_neighbour:
        uint32_t told

    struct fm_egress:
        fm_egress_neighbour *neighbours

    struct fm_egress_change:
        uint32_t value
        uint8_t length
        uint8_t value_length
        uint8_t is_clear

    uint64_t EGRESS_WAY(uint32_t gateway_be, uint32_t link, uint32_t mtu)
    fm_egress *egress_create()
    void egress_destroy(fm_egress *e)
    uint32_t egress_take_set(fm_egress *e, const fm_engine *engine)
    void egress_fill_set(fm_egress *e, uint32_t number, const uint64_t *way,
                         const uint32_t *weight, uint32_t n)
    void egress_retire_set(fm_egress *e, fm_engine *engine, uint32_t number)
    int egress_apply(fm_egress *e, uint32_t prefix, const fm_egress_change *c)
    void egress_set_link(fm_egress *e, uint32_t number, uint32_t ifindex, const uint8_t *mac,
                         uint16_t mtu, uint16_t port)
    void egress_clear_link(fm_egress *e, uint32_t number)
    int egress_set_neighbour(fm_egress *e, uint32_t address_be, uint32_t link,
                             const uint8_t *mac, int is_stale)
    void egress_clear_neighbour(fm_egress *e, uint32_t address_be, uint32_t link)
    uint32_t egress_told(fm_egress *e, uint32_t *start, uint64_t *keys, uint32_t n)
    uint32_t egress_number(const fm_egress *e, uint32_t dst_be, uint32_t flow_hash)
    int egress_entry(const fm_egress *e, uint32_t number, fm_hop *hop)
    int egress_lookup(const fm_egress *e, uint32_t dst_be, uint32_t flow_hash, fm_hop *hop)
    uint64_t egress_lookup_many(const fm_egress *e, const uint32_t *dst_be, uint64_t n,
                                uint64_t *total)


cdef extern from "control.h" nogil:
    enum:
        FM_BATCH
        FM_FRAME_SIZE
        FM_HEADROOM_HOME
        FM_HEADROOM_TUNNEL
        FM_MAX_COPIES
        FM_LOCAL_MAX
        FM_WORKERS_MAX
        FM_HOME
        FM_TUNNEL
        FM_HOME_AGENT
        FM_MOBILE_NODE
        FM_VERDICT_COUNT
        FM_EVENT_COUNT
        FM_STAGES
        FM_NONE
        FM_STAGE_RX
        FM_STAGE_TX
        FM_SOFT_LIFE_S
        FM_SCRATCH_SIZE

    struct fm_desc:
        uint8_t *data
        uint32_t len
        uint32_t line
        uint32_t hash
        uint16_t verdict
        uint8_t done
        uint8_t side

    struct fm_out:
        uint32_t count[2]
        fm_desc *packets[2][4096]

    struct fm_outcome:
        const char *name
        const char *sentence
        int severity

    const fm_outcome fm_verdict_table[]
    const fm_outcome fm_event_table[]

    struct fm_tally:
        uint64_t packets
        uint64_t bytes

    struct fm_cost:
        uint64_t calls
        uint64_t packets
        uint64_t sampled_packets
        uint64_t sampled_ticks

    struct fm_index:
        uint32_t bucket_count

    enum:
        FM_LINE_BROADCAST

    struct fm_line:
        uint32_t home
        uint32_t next
        uint8_t flags
        uint64_t expires
        uint32_t remote
        uint32_t local
        uint16_t budget

    struct fm_soft:
        uint16_t budget
        uint8_t pending_code
        uint8_t unreachable
        uint32_t learnt_s

    struct fm_router:
        uint32_t home
        uint32_t line

    struct fm_prefixes:
        fm_router *routers
        uint32_t router_max
        uint32_t *entry
        uint8_t *length
        uint32_t *group_entry
        uint8_t *group_length
        uint32_t count

    struct fm_worker:
        uint64_t epoch
        uint64_t heartbeat
        uint64_t inputs
        uint64_t generated
        uint64_t copies
        fm_tally *sent
        fm_tally *received
        fm_tally *verdicts
        uint64_t *events
        fm_cost *costs
        uint8_t *scratch
        uint32_t is_sampled

    struct fm_counts:
        uint64_t inputs
        uint64_t generated
        uint64_t copies
        fm_tally *verdicts
        uint64_t *events
        fm_cost *costs

    enum:
        FM_OFFLOAD_NETWORKS

    struct fm_home:
        uint32_t version

    struct fm_home_tally:
        uint64_t sent_packets
        uint64_t sent_bytes
        uint64_t received_packets
        uint64_t received_bytes

    struct fm_offload_network:
        uint32_t first
        uint32_t last
        uint32_t home

    struct fm_offload:
        uint32_t network_count
        uint32_t home_count
        fm_offload_network *network
        fm_home *homes
        fm_home_tally *cleared

    struct fm_engine:
        fm_offload *offload
        fm_esp *esp
        fm_index by_home
        fm_index by_remote
        fm_line *lines
        fm_prefixes prefixes
        int role
        uint32_t local_count
        uint32_t *local_be
        int half_bound_fd
        fm_egress *egress[2]
        uint32_t worker_count
        fm_worker **workers

    ctypedef void (*fm_find_fn)(const fm_index *, const uint32_t *, uint32_t *, uint32_t)

    struct fm_control:
        fm_engine e
        uint32_t max_bindings
        uint32_t line_count
        uint32_t published
        uint32_t prepared
        const char *loops
        fm_find_fn find
        uint64_t started_ticks
        uint64_t started_ns

    struct fm_record:
        uint32_t home
        uint32_t remote
        uint32_t local
        uint16_t mtu
        uint8_t encapsulation
        uint8_t flags
        uint64_t expires
        uint32_t bundle

    enum:
        FM_RECORD_REVERSE
        FM_RECORD_FIRST_ONLY
        FM_RECORD_BROADCAST
        FM_RECORD_NESTED
        FM_RECORD_GRE_KEY

    struct fm_half_bound:
        uint32_t home
        uint32_t source
        uint16_t port

    int half_bound_take(fm_worker *w, fm_half_bound *told)
    uint32_t line_overhead(const fm_line *line)
    uint32_t swap32(uint32_t v)
    int ipv4_check(const uint8_t *p, uint32_t length, int checksum_done)
    uint32_t ipv4_total(const uint8_t *p)
    fm_soft line_soft(const fm_line *line)
    uint32_t line_budget(const fm_line *line, fm_soft soft, uint64_t now_ns)
    void *control_map(uint64_t octets)
    void control_unmap(void *p, uint64_t octets)
    int control_create(fm_control *c, uint32_t max_bindings, int role, uint32_t workers,
                       const uint64_t *seed, uint64_t icmp_per_s, uint64_t icmp_burst)
    void control_destroy(fm_control *c)
    const char *control_reject(const fm_record *r)
    int64_t control_prepare_patiently(fm_control *c, const fm_record *r, uint32_t n,
                                      int keep_slot)
    void control_publish_router(fm_control *c, uint32_t head, uint32_t router)
    void control_lead(fm_control *c, uint32_t router, uint32_t head)
    void control_abandon(fm_control *c, uint32_t head, int keep_slot)
    int control_remove_router(fm_control *c, uint32_t home_be, int keep_slot, uint32_t router)
    int control_extend(fm_control *c, uint32_t home_be, uint32_t remote_be, uint64_t expires)
    uint32_t control_head(const fm_control *c, uint32_t home_be)
    uint64_t control_memory(const fm_control *c)
    int64_t control_restore(fm_control *c, const fm_record *r, uint64_t n, uint64_t *at,
                            const char **reason)
    void control_clear_counters(fm_control *c)
    fm_home_tally offload_traffic(const fm_engine *e, uint32_t home_be)
    fm_counts control_counts(const fm_control *c)
    fm_cost control_cost(const fm_control *c, uint32_t worker, uint32_t stage)
    void tap_engage(fm_engine *e)
    const char *fm_choose_loops(fm_engine *e, fm_find_fn *find, int is_scalar)
    int prefixes_reserve(fm_prefixes *t, uint32_t prefix, uint8_t length) nogil
    void prefixes_note(fm_prefixes *t, uint32_t prefix, uint8_t length, int is_clear) nogil
    int prefixes_apply(fm_prefixes *t, uint32_t prefix, uint8_t length, int is_clear,
                       uint32_t value, uint8_t value_length)
    void fm_run_batch(fm_worker *w, fm_desc *batch, uint32_t n, int side, uint64_t now_ns,
                      fm_out *out)
    void fm_worker_online(fm_worker *w)
    void fm_worker_offline(fm_worker *w)
    uint64_t fm_stage_start(const fm_worker *w)
    uint64_t fm_stage_end(fm_worker *w, int stage, uint32_t packets, uint64_t start)
    uint64_t fm_ticks()


cdef extern from "broadcast.h" nogil:
    enum:
        FM_BROADCAST_MAX
        FM_BROADCAST_PACKET_MAX

    void broadcast_start(fm_worker *w, uint64_t now_ns)
    uint32_t broadcast_send(int raw_fd, const fm_out *out)
    uint32_t broadcast_to(fm_control *c, fm_worker *w, uint32_t home_be, const uint8_t *packet,
                          uint32_t length, fm_out *out)


cdef extern from "replay.h" nogil:
    struct fm_draw:
        pass

    struct fm_replay:
        fm_engine *e
        int side
        uint32_t frame_count
        uint32_t size
        uint32_t draw_count
        uint8_t done
        uint32_t correspondent_be
        uint8_t *frames
        fm_draw *draws

    uint64_t replay_clock()
    uint64_t replay_bytes(const fm_replay *r)
    uint8_t *replay_frame(const fm_replay *r, uint32_t number)
    void replay_use(fm_replay *r, const fm_record *tunnel)
    void replay_write(fm_replay *r, uint8_t *p)
    void replay_prepare_draw(const fm_replay *r, fm_draw *draw, uint32_t home_be,
                             uint32_t remote_be)
    uint64_t replay_run(fm_replay *r, fm_worker *w, uint64_t batches, uint32_t n,
                        uint64_t now_ns, uint64_t *left)
    uint64_t replay_run_empty(fm_replay *r, uint64_t batches, uint32_t n)
    uint64_t replay_memcpy(fm_replay *r, uint64_t rounds, uint32_t *size)
    uint64_t replay_lookup(fm_replay *r, fm_find_fn find, uint64_t batches, uint32_t n,
                           const uint32_t *keys, uint32_t key_count, uint64_t *found)


cdef extern from "esp_control.h" nogil:
    enum:
        CRYPTO_KEY_MAX
        CRYPTO_SUITES
        ESP_DUMMY_MAX
        ESP_ESN
        ESP_INBOUND
        ESP_SPI_MIN
        ESP_WINDOW_MAX
        ESP_WINDOW_MIN

    struct crypto_provider:
        const char *name
        char *version

    struct esp_window:
        uint64_t highest

    struct esp_sa:
        uint8_t flags
        uint8_t told
        uint64_t sequence
        uint64_t last
        uint64_t packets
        uint64_t bytes
        uint32_t bundle
        esp_window window

    struct esp_bundle:
        uint32_t out
        uint32_t is_used

    struct esp_told:
        uint32_t sa
        uint32_t event

    struct fm_esp:
        const crypto_provider *provider
        fm_index by_spi
        esp_sa *sas
        esp_bundle *bundles
        uint32_t max
        int event_fd

    struct esp_record:
        uint32_t bundle
        uint32_t spi
        uint32_t local
        uint32_t remote
        uint32_t window
        uint32_t suite
        uint16_t remote_port
        uint16_t local_port
        uint8_t is_inbound
        uint8_t is_esn
        uint8_t is_shared
        uint8_t has_selectors
        uint64_t first
        uint64_t last
        uint64_t soft_packets
        uint64_t hard_packets
        uint64_t soft_bytes
        uint64_t hard_bytes
        uint64_t soft_ns
        uint64_t hard_ns
        uint32_t remote_first
        uint32_t remote_last
        uint32_t local_first
        uint32_t local_last
        uint8_t *key

    uint32_t crypto_key_size(uint32_t suite)
    void crypto_wipe(void *p, size_t n)
    int esp_create(fm_control *c, const crypto_provider *provider, uint32_t max,
                   const uint64_t *seed)
    void esp_destroy(fm_control *c)
    uint32_t esp_add(fm_control *c, const esp_record *r)
    int esp_is_sa(const fm_esp *esp, uint32_t number)
    void esp_send_by(fm_esp *esp, uint32_t number)
    void esp_remove(fm_control *c, uint32_t number)
    void esp_set_block(esp_sa *sa, uint64_t last, uint64_t start)
    uint32_t esp_dummy(fm_worker *w, uint32_t number, uint64_t now_ns, uint8_t *room,
                       uint8_t **packet)
    int esp_take_told(fm_esp *esp, esp_told *told)
    int64_t index_slot(const fm_index *x, uint32_t key)


cdef extern from "crypto_ipsec_mb.h" nogil:
    const crypto_provider *crypto_ipsec_mb()


cdef extern from "crypto_openssl.h" nogil:
    const crypto_provider *crypto_openssl()
