"""Session-wide rules: a root of its own, Hypothesis, what a missing privilege means, no skips."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from tests.helpers.roots import leave_chroot

leave_chroot()
# In the background of a script SIGINT is ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "ci",
    deadline=None,  # shared machines stall; speed is judged in bench/, never here
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("long", parent=settings.get_profile("ci"), max_examples=5000)
settings.load_profile(os.environ.get("FASTMIP_HYPOTHESIS", "ci"))

IN_CI = os.environ.get("FASTMIP_CI") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests, then those with kernels, come first: runs in parallel end together.

    Tests with real kernels need root; without it they say so instead of failing.
    """
    slow = {item.path for item in items if "slow" in item.keywords}
    kernels = {item.path for item in items if "netns" in item.keywords}
    items.sort(key=lambda item: (item.path not in slow, item.path not in kernels))
    if os.geteuid() == 0:
        return
    need_root = pytest.mark.skip(reason="needs root: namespaces and raw sockets")
    for item in items:
        if "netns" in item.keywords:
            item.add_marker(need_root)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed test: something it needs was not set up."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}"
    return report
