/* The functions of engine/vnet.h and engine/returned.h for tests, loaded by ctypes. */
#include <stdlib.h>

#include "returned.h"
#include "vnet.h"

/* Every packet goes through buffers of exactly its size, so that sanitizers and valgrind see
 * each byte read or written outside. Output: 4 bytes length (native), packet, repeated. */
static long cut(struct super_frame *f, uint8_t *out, long room)
{
    long used = 0;
    uint32_t size;
    while ((size = super_frame_peek(f)) != 0) {
        if (used + 4 + (long)size > room) return -2;
        uint8_t *exact = malloc(size);
        memset(exact, 0xa5, size);
        if (super_frame_next(f, exact) != size) return -3;
        memcpy(out + used, &size, 4);
        memcpy(out + used + 4, exact, size);
        used += 4 + (long)size;
        free(exact);
    }
    return used;
}

long probe_cut(const uint8_t *header, const uint8_t *data, uint32_t len, uint8_t *out, long room)
{
    struct super_frame f;
    struct vnet_hdr h;
    memcpy(&h, header, sizeof h);
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, data, len);
    long used = super_frame_open(&f, &h, exact, len) ? -1 : cut(&f, out, room);
    free(exact);
    return used;
}

long probe_cut_merged(const uint8_t *data, uint32_t len, uint32_t prefix, uint32_t gso_size,
                      uint8_t *out, long room)
{
    struct super_frame f;
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, data, len);
    int bad = super_frame_adopt(&f, VNET_PROTO_TCP, exact, len, prefix, gso_size);
    long used = bad ? -1 : cut(&f, out, room);
    free(exact);
    return used;
}

int probe_complete(const uint8_t *header, uint8_t *data, uint32_t len)
{
    struct vnet_hdr h;
    memcpy(&h, header, sizeof h);
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, data, len);
    int bad = vnet_complete(&h, exact, len);
    memcpy(data, exact, len);
    free(exact);
    return bad;
}

uint32_t probe_partial(const uint8_t *data, uint32_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, data, len);
    uint32_t field = transport_partial(exact, len);
    free(exact);
    return field;
}

void probe_add_hop(uint8_t *ip) { returned_add_hop(ip); }

struct returned_memory *probe_memory(void) { return calloc(1, sizeof(struct returned_memory)); }
void probe_forget(struct returned_memory *m) { free(m); }

int probe_returned(struct returned_memory *m, const uint8_t *data, uint32_t len, uint64_t now_ns)
{
    uint8_t *exact = malloc(len);
    memcpy(exact, data, len);
    int before = returned_before(m, exact, len, now_ns);
    free(exact);
    return before;
}
