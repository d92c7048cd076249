"""The process: configuration -> roles -> event loop -> clean stop.

1. ``run_daemon`` loads the file; any refusal is one line on standard error.
2. ``Daemon.run`` locks the state directory, undoes what a crash left behind, starts each role
   and the control socket, and says READY.
3. Then it serves: SIGTERM and SIGINT stop, SIGHUP reloads, the watchdog looks at the workers.
4. Roles stop in reverse order; whatever of the journal is left is undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroute2.netlink.exceptions import (  # type: ignore[import-untyped]  # no annotations
    NetlinkError,
)

from fastmip import __version__
from fastmip.errors import ConfigError, FastmipError
from fastmip.runtime import background
from fastmip.runtime.advertise_service import AdvertiseService, links_of
from fastmip.runtime.config import Config, load_config
from fastmip.runtime.control_hub import ControlHub
from fastmip.runtime.control_socket import ControlSocket
from fastmip.runtime.event_stream import EVENTS
from fastmip.runtime.foreign_service import ForeignService
from fastmip.runtime.home_service import HomeService
from fastmip.runtime.journal import Journal
from fastmip.runtime.logging import configure_logging, get_logger
from fastmip.runtime.netlink import Kernel
from fastmip.runtime.notify import notify, watchdog_interval_s
from fastmip.runtime.observatory import COMMANDS, Observatory
from fastmip.runtime.router_config import serves_from_networks
from fastmip.runtime.service import (
    Arguments,
    Command,
    CommandError,
    ReloadRefused,
    Service,
    StartError,
)
from fastmip.runtime.watchdog import Heartbeats, WorkerKey

if TYPE_CHECKING:
    from fastmip.runtime.metrics_port import MetricsPort

EXIT_FAILED = 1
"""The machine does not allow a start now; trying again may help."""
EXIT_REFUSED = 3
"""The configuration was refused; trying again does not help (``fastmip.service``)."""
MISSED_S = 4.0
"""Workers beat every second: after this long without a beat the watchdog is not fed."""
SWITCH_INTERVAL_S = 0.0005
"""The store's writer waits at most this long for the interpreter, ten times less than usual."""
KEEP_S = 1.0
"""How often roles look after what they made."""
_LOCK_NAME = "lock"
_GC_THRESHOLDS = (20_000, 50, 1000)
_FIXED_DAEMON_KEYS = ("state_dir", "control_socket")

log = get_logger("daemon")


def _hub(config: Config) -> ControlHub | None:
    """Port 434, if more than one role needs it."""
    home, foreign, node = config.home_agent, config.foreign_agent, config.mobile_node
    roles = [home is not None, foreign is not None, node is not None and node.revocation]
    if roles.count(True) < 2:
        return None
    # UDP tunnels on it are one role's: the configuration is refused if two want them.
    has_udp = home is not None and home.nat_traversal
    has_udp |= foreign is not None and foreign.nat != "none"
    return ControlHub(
        fwmark=0 if node is None or serves_from_networks(config) else node.fwmark,
        data_sockets=config.engine.workers if has_udp else 0,
    )


def run_daemon(config_path: str) -> int:
    """Run until told to stop; returns the exit code."""
    try:
        config = load_config(config_path)
        configure_logging(config.daemon.log_level, config.daemon.log_format)
        return asyncio.run(Daemon(config, config_path).run())
    except FastmipError as error:
        print(f"fastmip: {error}", file=sys.stderr)  # noqa: T201 - the one line of a refusal
        return EXIT_REFUSED if isinstance(error, ConfigError) else EXIT_FAILED


def tune_interpreter() -> None:
    """Keep the interpreter's own pauses short; call it when everything has been started.

    What exists now stays for good, so the garbage collector need not look at it: with 20 000
    hosts a full collection held registrations up for tens of milliseconds (p99 at 10 000 a
    second 17 to 58 ms instead of 55 to 100 ms on a machine loaded threefold).
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class Daemon:
    """One process with its roles."""

    def __init__(self, config: Config, file: str) -> None:
        self._config = config
        self._file = file
        self._began = time.monotonic()
        self._stopping = asyncio.Event()
        self._failure: StartError | None = None
        self._services: list[Service] = []
        self._observatory = Observatory(self._services)
        self._reloading = asyncio.Lock()

    async def run(self) -> int:
        """Start, serve, stop. Raises FastmipError when the start is refused."""
        state_dir = self._config.daemon.state_dir
        lock = _lock(state_dir)
        try:
            journal = Journal(_journal_path(self._config.daemon.control_socket))
            async with Kernel(journal) as kernel:
                left = await kernel.undo_all()
                if left:
                    log.warning("leftovers-undone", changes=left)
                try:
                    await self._serve(kernel)
                finally:
                    await kernel.undo_all()
        finally:
            os.close(lock)
        if self._failure is not None:
            raise self._failure
        return 0

    async def _serve(self, kernel: Kernel) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.set_exception_handler(self._on_defect)
        threading.excepthook = functools.partial(self._on_dead_thread, loop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        control = ControlSocket(self._config.daemon.control_socket, self.dispatch)
        tasks: list[asyncio.Task[None]] = []
        metrics: MetricsPort | None = None
        try:
            for service in self._build(kernel):
                self._services.append(service)
                await _start(service)
            await control.start()
            metrics = self._open_metrics()
            tune_interpreter()
            tasks += [background.start(self._watch(), "watchdog")]
            tasks += [background.start(self._keep(), "upkeep")]
            notify(READY=1, STATUS=self._status_line(), MAINPID=os.getpid())
            log.info("daemon-started", version=__version__, pid=os.getpid())
            await self._stopping.wait()
            log.info("daemon-stopping")
        finally:
            notify(STOPPING=1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await control.stop()
            if metrics is not None:
                await metrics.close()
            self._observatory.close()
            for service in reversed(self._services):
                await _stop(service)

    def _open_metrics(self) -> MetricsPort | None:
        """Listen for Prometheus, if it is configured. Raises StartError."""
        if self._config.metrics is None:
            return None
        from fastmip.runtime.metrics import MetricsPage  # noqa: PLC0415 - most daemons have none
        from fastmip.runtime.metrics_port import MetricsPort  # noqa: PLC0415

        page = MetricsPage(self._observatory.observed, self._began)
        port = MetricsPort(self._config.metrics.listen, page.render)
        port.open()
        return port

    def _build(self, kernel: Kernel) -> list[Service]:
        config, file = self._config, self._file
        services: list[Service] = []
        hub = _hub(config)
        foreign: ForeignService | None = None
        if config.mobile_node is not None and serves_from_networks(config):
            # The foreign agent's messages go through our tunnel: it stops first.
            services.append(self._mobile_node(kernel, hub))
        if config.foreign_agent is not None:
            foreign = ForeignService(config, kernel, file=file, hub=hub)
            services.append(foreign)
        if config.home_agent is not None:
            services.append(HomeService(config, kernel, file=file, hub=hub))
        if links_of(config):
            advertise = AdvertiseService(config, kernel, file=file, foreign=foreign)
            services.append(advertise)
            if foreign is not None:
                foreign.advertise = advertise
        if config.mobile_node is not None and not serves_from_networks(config):
            services.append(self._mobile_node(kernel, hub))
        return services

    def _mobile_node(self, kernel: Kernel, hub: ControlHub | None) -> Service:
        from fastmip.runtime.mobile_service import MobileService  # noqa: PLC0415 - its role

        return MobileService(self._config, kernel, file=self._file, hub=hub)

    # defects

    def _on_defect(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what nobody caught; when something is gone for good, end for a restart."""
        gone = context.get(background.BACKGROUND)
        log.error("defect", what=context["message"], exc_info=context.get("exception"))
        if gone is not None and self._failure is None:
            self._failure = StartError(f"{gone} failed: see the log: restart")
            self._stopping.set()

    def _on_dead_thread(
        self, loop: asyncio.AbstractEventLoop, died: threading.ExceptHookArgs
    ) -> None:
        """A thread ended by an exception: to the loop with it. Called in that thread."""
        name = died.thread.name if died.thread is not None else "thread"
        context: dict[str, Any] = {"message": f"{name} failed", "exception": died.exc_value}
        context[background.BACKGROUND] = name
        with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon is gone already
            loop.call_soon_threadsafe(self._on_defect, loop, context)

    # watchdog

    async def _watch(self) -> None:
        """Feed the service manager's watchdog only while every worker moves."""
        interval_s = watchdog_interval_s()
        wedged_s = self._config.engine.wedged_after
        hearts = Heartbeats(longest_step_s=2 * interval_s)
        while True:
            await asyncio.sleep(interval_s)
            standing = hearts.look(time.monotonic(), self._beats())
            if standing is not None and standing.seconds >= wedged_s:
                log.error(
                    "worker-wedged",
                    role=standing.role,
                    worker=standing.worker,
                    seconds=round(standing.seconds, 1),
                    remedy="aborting to be restarted",
                )
                os.abort()
            if standing is None or standing.seconds < min(MISSED_S, wedged_s):
                notify(WATCHDOG=1, STATUS=self._status_line())

    def _beats(self) -> dict[WorkerKey, int]:
        return {
            (service.name, worker): beat
            for service in self._services
            for worker, beat in enumerate(service.heartbeats())
        }

    async def _keep(self) -> None:
        """Let every role look after itself; what only a restart mends ends the daemon."""
        while True:
            await asyncio.sleep(KEEP_S)
            for service in self._services:
                try:
                    await service.keep()
                except StartError as error:
                    self._failure = error
                    self._stopping.set()
                    return
                except (OSError, NetlinkError, FastmipError) as error:
                    log.warning("upkeep-failed", role=service.name, reason=str(error))

    def _status_line(self) -> str:
        parts = []
        for service in self._services:
            facts = service.status()
            if "visitors" in facts:
                parts.append(f"{service.name}: {facts['visitors']} visitors")
            elif "bindings" in facts:
                parts.append(f"{service.name}: {facts['bindings']} bindings")
        return ", ".join(parts)

    # reload

    def _on_hangup(self) -> None:
        task = asyncio.ensure_future(self._reload_logged())
        self._pending = task  # the loop itself keeps only a weak reference

    async def _reload_logged(self) -> None:
        try:
            changes = await self.reload(dry_run=False)
        except FastmipError as error:
            log.error("reload-refused", reason=str(error))  # noqa: TRY400 - the reason says it
        else:
            log.info("reloaded", changes=len(changes))

    async def reload(self, *, dry_run: bool) -> list[str]:
        """Apply the difference to the file, or refuse all of it. Returns the changes.

        Raises ConfigError or ReloadRefused; then nothing was changed.
        """
        async with self._reloading:
            new = load_config(self._file)
            changes = self._plan_daemon(new)
            for service in self._services:
                changes += await service.plan_reload(new)
            if dry_run:
                return changes
            configure_logging(new.daemon.log_level, new.daemon.log_format)
            for service in self._services:
                await service.apply_reload(new)
            self._config = new
            return changes

    def _plan_daemon(self, new: Config) -> list[str]:
        old, fresh = self._config.daemon, new.daemon
        fixed = [name for name in _FIXED_DAEMON_KEYS if getattr(old, name) != getattr(fresh, name)]
        if fixed:
            raise ReloadRefused(f"daemon: {', '.join(fixed)} cannot change: restart instead")
        if self._config.metrics != new.metrics:
            raise ReloadRefused("[metrics] cannot change: restart instead")
        for role in ("home_agent", "foreign_agent", "mobile_node"):
            if (getattr(self._config, role) is None) != (getattr(new, role) is None):
                raise ReloadRefused(f"[{role}] was added or removed: restart instead")
        return [
            f"daemon.{name}: {getattr(old, name)} -> {getattr(fresh, name)}"
            for name in ("log_level", "log_format")
            if getattr(old, name) != getattr(fresh, name)
        ]

    # commands

    async def dispatch(self, command: str, arguments: Arguments) -> object:
        """Answer a control request. Raises CommandError and other FastmipErrors."""
        if command == "status":
            return self.status()
        if command == "reload":
            return {"changes": await self.reload(dry_run=bool(arguments.get("dry_run")))}
        if command == "debug":
            return _watch(arguments)
        if command in COMMANDS:
            return await self._observatory.answer(command, arguments)
        offered = [
            (_role(service), table[command])
            for service in self._services
            if command in (table := service.commands())
        ]
        if not offered:
            raise CommandError(f"{command}: no role of this daemon knows this command")
        return await _ask_all(offered, arguments)

    def status(self) -> dict[str, object]:
        """Flat facts of the daemon and its roles."""
        facts: dict[str, object] = {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": int(time.monotonic() - self._began),
            "roles": ", ".join(
                service.name for service in self._services if service.name != AdvertiseService.name
            ),
        }
        for service in self._services:
            facts |= service.status()
        return facts


def _watch(arguments: Arguments) -> AsyncIterator[object]:
    """Events by name as they happen. Raises CommandError."""
    names = arguments.get("events", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CommandError("events: expected a list of names")
    if not EVENTS.has_room:
        raise CommandError("too many watch already: end one of them")
    return EVENTS.watch(names)


def _role(service: Service) -> str:
    """Whose answer it is; the advertiser answers for the agent it speaks for."""
    return service.speaks_for if isinstance(service, AdvertiseService) else service.name


async def _ask_all(offered: list[tuple[str, Command]], arguments: Arguments) -> object:
    """Ask every role that knows a command; answers of several become one, with a role column."""
    if len(offered) == 1:
        return await offered[0][1](arguments)
    is_one_role = len({role for role, _ in offered}) == 1
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for name, ask in offered:
        answer: dict[str, Any] = await ask(arguments)
        rows += [row if is_one_role else {"role": name, **row} for row in answer.get("rows", [])]
        summary |= answer.get("summary", {})
    return {"rows": rows, "summary": summary}


async def _start(service: Service) -> None:
    """Start a role; what the kernel refuses becomes one line. Raises FastmipError."""
    try:
        await service.start()
    except (OSError, NetlinkError) as error:
        log.debug("start-failed", exc_info=True)
        raise StartError(
            f"{service.name}: {error}: see fastmip doctor for what this machine lacks"
        ) from error


async def _stop(service: Service) -> None:
    """Stop a role; a failure must not keep the others, and the journal, from being undone."""
    try:
        await service.stop()
    except Exception:
        log.exception("stop-failed", role=service.name)


def _journal_path(control_socket: Path) -> Path:
    """Beside the control socket: under /run, which ends with the kernel state it describes."""
    try:
        control_socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"{control_socket.parent}: {error.strerror}: let daemon.control_socket lie in a"
            " writable directory"
        ) from error
    return control_socket.with_suffix(".journal")


def _lock(state_dir: Path) -> int:
    """Make the state directory and hold its lock; two daemons on one store would ruin it."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(state_dir / _LOCK_NAME, flags, 0o600)
    except OSError as error:
        # A read-only directory may still hold a store to forward by: lock the directory.
        try:
            descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            raise StartError(
                f"{state_dir}: {error.strerror}: let daemon.state_dir name a writable directory"
            ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartError(
            f"{state_dir}: another fastmip daemon uses this directory: stop it, or set"
            " daemon.state_dir"
        ) from None
    return descriptor
