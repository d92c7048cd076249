"""Wireshark decrypts what the engine seals, from nothing but the packets and the key."""

import struct
import subprocess
from pathlib import Path

import pytest
from tests.engine.test_esp import OUT_SPI, SUITES, World, downward, key_of

CIPHERS = {"gcm": "AES-GCM with 16 octet ICV [RFC4106]", "cbc": "AES-CBC [RFC3602]"}
SIGNATURES = {"gcm": "NULL", "cbc": "HMAC-SHA-256-128 [RFC4868]"}
FIELDS = (
    *("esp.spi", "esp.sequence", "esp.icv_good", "esp.icv_bad", "esp.pad_len", "esp.protocol"),
    *("ip.proto", "ip.dst", "udp.length", "udp.payload", "_ws.expert", "_ws.malformed"),
)
_LINK_RAW_IPV4 = 228


def table_of(suite: str, seed: int) -> str:
    """The line of Wireshark's table of ESP associations."""
    kind, key = suite.split("-")[1][:3], key_of(suite, seed)
    cipher, signing = (key, b"") if kind == "gcm" else (key[:-32], key[-32:])
    words = ["IPv4", "*", "*", f"0x{OUT_SPI:08x}", CIPHERS[kind], f"0x{cipher.hex()}"]
    words += [SIGNATURES[kind], f"0x{signing.hex()}" if signing else ""]
    return "uat:esp_sa:" + ",".join(f'"{word}"' for word in words)


def read_by_wireshark(packets: list[bytes], associations: str, path: Path) -> list[list[str]]:
    """The values of FIELDS for each packet."""
    with path.open("wb") as file:
        file.write(struct.pack("!IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _LINK_RAW_IPV4))
        for packet in packets:
            file.write(struct.pack("!IIII", 0, 0, len(packet), len(packet)) + packet)
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-o", associations]
    for preference in ("esp.enable_encryption_decode", "esp.enable_authentication_check"):
        command += ["-o", f"{preference}:TRUE"]
    command += ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    for field in FIELDS:
        command += ["-e", field]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in told.split("\n")[: len(packets)]]


@pytest.mark.parametrize("suite", SUITES)
def test_wireshark_opens_what_the_engine_seals(suite: str, tmp_path: Path) -> None:
    world = World(suite)
    sizes = (*range(20), 500, 1300)
    packets = [downward(size, size) for size in sizes]
    assert set(world.home(*packets)) == {"encapsulated"}
    left = world.sent()
    left.append(left[-1][:-1] + bytes([left[-1][-1] ^ 1]))
    *found, forged = read_by_wireshark(left, table_of(suite, 2), tmp_path / "esp.pcap")
    block = 4 if suite.endswith("gcm16") else 16
    for number, (size, packet, read) in enumerate(zip(sizes, packets, found, strict=True), 1):
        pad = -(len(packet) + 2) % block
        assert read == [
            *(f"0x{OUT_SPI:08x}", str(number), "1", "0", str(pad), "0x04"),
            *("50,17", "192.0.2.7,10.1.0.5", str(8 + size), packet[28:].hex(), "", ""),
        ]
    assert forged[2:4] == ["0", "1"]
