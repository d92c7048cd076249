"""Tasks that run as long as a role does: when one ends by itself, somebody hears of it.

asyncio tells nobody of a task that fails while it is still referenced. A task started here
reports to the loop's exception handler, which the daemon turns into a log and a clean exit:
a service manager's restart is better than a daemon that no longer follows its links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

BACKGROUND = "background"
"""Key of the exception handler's context: name of the task that is gone."""


def start(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Run ``work`` until it is cancelled; its failure goes to the loop's exception handler."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    context = {"message": f"{task.get_name()} failed", "exception": error}
    task.get_loop().call_exception_handler({**context, BACKGROUND: task.get_name()})
