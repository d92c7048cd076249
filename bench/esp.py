"""What ESP costs a packet in the engine, beside the bare call of the library that encrypts it.

``esp.{seal,open}.{64,1400}[.libcrypto]``: packets of that many octets inside, AES-128-GCM, 1024
associations drawn at random, batches of 64, one core, all in memory; everything ESP does to a
packet in the engine, without finding its line. The reference is the provider's call alone, with
keys and frames drawn alike (``esp.c``, compiled here: no role of the daemon offers ESP yet).
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench.results import Benchmark, Result

HERE = Path(__file__).parent
ENGINE = HERE.parent / "src/fastmip/engine"
PROVIDERS = {"ipsec-mb": "", "libcrypto": ".libcrypto"}
SIZES = (64, 1400)
ROUNDS = 7
BATCHES = 3000
AES128_GCM16 = "0"
NOT_HERE = 3
"""Exit status without the provider."""
AIMS = {("", 64): 15, ("", 1400): 6.5, (".libcrypto", 64): 3, (".libcrypto", 1400): 1.7}


def build(directory: Path) -> Path:
    """Compile the measuring program as the engine is."""
    if not shutil.which("gcc"):
        raise RuntimeError("the esp benchmarks need gcc for bench/esp.c")
    built = directory / "esp"
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O3", "-w", f"-I{ENGINE}"]
    command += [str(HERE / "esp.c"), "-o", str(built), "-lpthread", "-lcrypto"]
    subprocess.run(command, check=True)
    return built


def measure(program: Path, provider: str, size: int) -> list[float] | None:
    """Nanoseconds a packet: seal, bare seal, open, bare open; None without the provider."""
    command = [str(program), provider, str(size), AES128_GCM16, str(BATCHES)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode == NOT_HERE:
        return None
    if ran.returncode:
        raise RuntimeError(f"bench/esp.c ended with {ran.returncode}")
    return [float(word) for word in ran.stdout.split()[:4]]


def esp() -> list[Result]:
    """All figures; medians of interleaved rounds."""
    samples: dict[tuple[str, int], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory))
        for _ in range(ROUNDS):
            for provider in PROVIDERS:
                for size in SIZES:
                    if (taken := measure(program, provider, size)) is not None:
                        samples.setdefault((provider, size), []).append(taken)
    results = []
    for (provider, size), rounds in samples.items():
        ending = PROVIDERS[provider]
        for first, way in ((0, "seal"), (2, "open")):
            ours = statistics.median(taken[first] for taken in rounds)
            more = statistics.median(taken[first] / taken[first + 1] for taken in rounds)
            name = f"esp.{way}.{size}{ending}"
            reference = (
                f"{provider}'s bare call: {1e3 / ours * more:.3g} Mpps, ours takes "
                f"{100 * (more - 1):.0f} % more; aims {AIMS[ending, size]} Mpps, 35 %"
            )
            command = f"sh ./run bench --only {name}"
            results.append(Result(name, 1e3 / ours, "Mpps", 1 / more, reference, command))
    return results


BENCHMARKS: dict[str, Benchmark] = {"esp": esp}
