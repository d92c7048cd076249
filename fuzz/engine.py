"""Build and run the engine's fuzz target: ``python -m fuzz.engine [SECONDS] [--seed N]``.

With clang it is libFuzzer's, coverage-guided, corpus under build/fuzz; then always the
standalone one, which mutates plausible packets. Both under AddressSanitizer and
UndefinedBehaviorSanitizer. Exit status 1 for a finding.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "fuzz"
COMMON = ["-O1", "-g", "-fno-sanitize-recover=undefined", "-I", str(ROOT / "src/fastmip/engine")]
CLANGS = ("clang", "clang-14")


def environment() -> dict[str, str]:
    """Without a preloaded sanitizer: the targets carry their own."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def compiled(name: str, compiler: str, *flags: str) -> Path:
    """The target built this way."""
    BUILD.mkdir(parents=True, exist_ok=True)
    built = BUILD / name
    source = str(ROOT / "fuzz/engine.c")
    command = [compiler, *COMMON, *flags, source, "-o", str(built)]
    subprocess.run(command, check=True, env=environment())
    return built


def commands(seconds: int, seed: int) -> list[list[str]]:
    """What to run, each for its share of the time."""
    standalone = compiled(
        "engine_standalone", "gcc", "-fsanitize=address,undefined", "-DFUZZ_STANDALONE"
    )
    clang = next((found for name in CLANGS if (found := shutil.which(name))), None)
    if clang is None:
        return [[str(standalone), str(seconds), str(seed)]]
    guided = compiled("engine_libfuzzer", clang, "-fsanitize=fuzzer,address,undefined")
    corpus = BUILD / "corpus"
    corpus.mkdir(exist_ok=True)
    share = max(seconds // 2, 1)
    limits = [f"-max_total_time={share}", f"-seed={seed}", "-max_len=2048", "-verbosity=0"]
    return [
        [str(guided), *limits, f"-artifact_prefix={BUILD}/engine-", str(corpus)],
        [str(standalone), str(share), str(seed)],
    ]


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and fuzz; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    results = [
        subprocess.run(command, cwd=BUILD, env=environment(), check=False)
        for command in commands(options.seconds, options.seed)
    ]
    return int(any(result.returncode for result in results))


if __name__ == "__main__":
    sys.exit(main())
