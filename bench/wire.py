"""``wire.*`` and ``ref.*``: packets per second of a home agent between namespaces.

The measuring is ``fastmip bench wire``'s (``fastmip.runtime.bench``); here are the stable names.
``wire.IO.SIZE`` is delivered at overload, its ratio is to the kernel's LWT-BPF encapsulation in
the same rounds; ``.per_cpu`` the same per second of CPU time of the core that does the work, which
others on the machine cannot spoil; ``.loss_free`` the highest rate without loss; ``.p99`` the
latency of 99 % of the packets at 10 % of that.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from bench.results import Benchmark, Result
from fastmip.runtime.bench.device import IOS, Setting
from fastmip.runtime.bench.wire import Measured, Plan, WireBench

IN_KERNEL = {"offload"}
"""Their work is done on the load's core."""
SIZES = ("64", "1400")
PLAN = Plan(seconds=0.5, search_seconds=0.2, real_time=True)
"""Load and workers before everything else: others on the machine wait instead of spoiling it."""


def results(name: str, one: Measured, command: str) -> Iterable[Result]:
    """The figures of a device under their names."""
    lwt, forward = one.references["lwt_bpf"], one.references["ip_forward"]
    reference = (
        f"kernel LWT-BPF {lwt:.3f} Mpps; {one.delivered / forward:.3f} of ip_forward {forward:.3f}"
    )
    yield Result(name, one.delivered, "Mpps", one.delivered / lwt, reference, command)
    by_cpu = one.references["lwt_bpf.per_worker"]
    forward_by_cpu = one.references["ip_forward.per_worker"]
    mine = one.per_core if one.name in IN_KERNEL else one.per_worker
    reference = (
        f"kernel LWT-BPF {by_cpu:.3f} Mpps per CPU second, load included;"
        f" {mine / forward_by_cpu:.3f} of ip_forward {forward_by_cpu:.3f}"
    )
    yield Result(f"{name}.per_cpu", mine, "Mpps", mine / by_cpu, reference, command)
    if one.loss_free is not None:
        reference = f"kernel LWT-BPF {lwt:.3f} Mpps; trials {len(one.trials)}"
        yield Result(
            f"{name}.loss_free", one.loss_free, "Mpps", one.loss_free / lwt, reference, command
        )
    if 0.1 in one.latencies:
        p50, p99 = (one.latencies[0.1].percentile_us(share) for share in (0.5, 0.99))
        if p50 is not None and p99 is not None:
            yield Result(f"{name}.p99", p99, "us", p99 / p50, f"its p50 {p50:.1f} us", command)


def measure(name: str, size: str, setting: Setting) -> Iterable[Result]:
    """One device at one size."""
    with WireBench(PLAN) as bench, bench.device(setting) as agent:
        one = bench.measure(agent, size)
        refused = {k: v for k, v in agent.counters().items() if v and k != "encapsulated"}
        assert not refused, refused
    return list(results(name, one, f"sh ./run bench --only {name}"))


def references() -> Iterable[Result]:
    """The kernel alone."""
    with WireBench(PLAN) as bench:
        for size in SIZES:
            for one in bench.references(size):
                lwt = one.references["lwt_bpf"]
                yield Result(
                    f"ref.{one.name}.{size}",
                    one.delivered,
                    "Mpps",
                    one.delivered / lwt,
                    f"kernel LWT-BPF {lwt:.3f} Mpps; {one.per_worker:.3f} Mpps per CPU second",
                    "sh ./run bench --only ref",
                )


_CASES = {
    **{f"wire.{io}.{size}": (size, Setting(io)) for io in IOS if io != "socket" for size in SIZES},
    "wire.socket.64": ("64", Setting("socket")),
    **{
        f"wire.kernel.64.{kind}": ("64", Setting("kernel", kind=kind))
        for kind in ("gre", "minimal", "udp")
    },
    **{f"wire.{io}.64.1M": ("64", Setting(io, bindings=1_000_000)) for io in ("xdp", "offload")},
}

BENCHMARKS: dict[str, Benchmark] = {
    "ref": references,
    **{name: partial(measure, name, size, setting) for name, (size, setting) in _CASES.items()},
}
