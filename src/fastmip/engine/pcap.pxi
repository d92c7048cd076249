# The pcap port: packets from a file through the pipeline into a file, timed.

cdef extern from "pcap.h" nogil:
    enum:
        PCAP_FILE_HEADER_LEN
        PCAP_RECORD_HEADER_LEN

    struct pcap_packet:
        const uint8_t *data
        uint32_t len
        uint32_t seconds
        uint32_t nanoseconds

    struct pcap_reader:
        const uint8_t *at
        uint64_t skipped
        uint32_t link

    int pcap_open(pcap_reader *r, const uint8_t *file, uint64_t len)
    int pcap_next(pcap_reader *r, pcap_packet *packet)
    void pcap_file_header(uint8_t *to)
    void pcap_record_header(uint8_t *to, uint32_t seconds, uint32_t nanoseconds, uint32_t len)


cdef object _pcap_records(fm_out *out, const pcap_packet *packet):
    """What left the last batch, as pcap records with the time of the batch's first packet."""
    cdef uint8_t header[16]
    cdef fm_desc *d
    records = []
    for side in range(2):
        for number in range(out.count[side]):
            d = out.packets[side][number]
            pcap_record_header(header, packet.seconds, packet.nanoseconds, d.len)
            records.append((<const char *>header)[:PCAP_RECORD_HEADER_LEN])
            records.append((<const char *>d.data)[:d.len])
    return b"".join(records)


def run_pcap(BindingCache engine not None, input_path, output_path=None, *, int side, repeat=1,
             done=0, now_ns=None):
    """Run the IPv4 packets of a pcap file through an engine ``repeat`` times.

    What leaves in the first pass is written to ``output_path`` (raw IP, nanoseconds; per batch
    first what goes to the home side, then to the tunnel side). Returns packets (per pass),
    skipped (records without IPv4), home and tunnel (packets that left in the first pass), and
    ns: time in the pipeline over all passes, copies into frames and file writing excluded.
    Raises ValueError for a file that is no classic pcap, OSError for one that cannot be read
    or written.
    """
    cdef MemoryPort port = MemoryPort(engine, done=done)
    cdef pcap_reader reader
    cdef pcap_packet packet, first
    cdef uint64_t now = _boot_ns() if now_ns is None else now_ns
    cdef uint64_t spent = 0, before
    cdef uint32_t count
    cdef int code
    cdef bint is_first_pass
    if side not in (FM_HOME, FM_TUNNEL) or repeat < 1:
        raise ValueError("side HOME or TUNNEL, repeat at least 1")
    contents = Path(input_path).read_bytes()
    result = {"packets": 0, "skipped": 0, "home": 0, "tunnel": 0, "ns": 0}
    cdef uint8_t header[24]
    pcap_file_header(header)
    memset(&first, 0, sizeof(first))
    with Path(output_path or devnull).open("wb") as output:
        output.write((<const char *>header)[:PCAP_FILE_HEADER_LEN])
        for passed in range(repeat):
            is_first_pass = passed == 0
            code = pcap_open(&reader, contents, <uint64_t>len(contents))
            if code != 0:
                reason = "link type not supported" if code == -2 else "no classic pcap file"
                raise ValueError(f"{input_path}: {reason}")
            count = 1
            while count:
                count = 0
                while count < FM_BATCH and pcap_next(&reader, &packet):
                    if count == 0:
                        first = packet
                    port._fill_from(count, side, packet.data, packet.len)
                    count += 1
                if count == 0:
                    break
                _claim_port(engine)
                with nogil:
                    before = replay_clock()
                    fm_run_batch(port.worker, port.batch, count, side, now, port.out)
                    spent += replay_clock() - before
                if is_first_pass:
                    result["packets"] += count
                    result["home"] += port.out.count[FM_HOME]
                    result["tunnel"] += port.out.count[FM_TUNNEL]
                    output.write(_pcap_records(port.out, &first))
                port.out.count[FM_HOME] = port.out.count[FM_TUNNEL] = 0
                fm_worker_offline(port.worker)
                engine._is_port_busy = False
            result["skipped"] = reader.skipped
    result["ns"] = spent
    return result
