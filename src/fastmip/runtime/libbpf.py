"""What of libbpf.so.1 the programs in ``fastmip/bpf`` need, by ctypes.

libbpf reads the object that clang made at build time, makes its maps and hands it to the kernel. It
is opened at the first use: a daemon without BPF programs does not need it. Every refusal becomes a
``BpfError`` of one line; what libbpf itself has to say about it is logged at debug level.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastmip.errors import FastmipError
from fastmip.runtime.logging import get_logger

log = get_logger("bpf")

DIRECTORY = Path(__file__).parents[1] / "bpf"
"""Where the build puts objects."""

XDP, TCX_INGRESS = 37, 46
"""enum bpf_attach_type."""
NATIVE, GENERIC = 1 << 2, 1 << 1
"""XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE."""
_NOT_SUPPORTED = 524  # ENOTSUPP, the kernel's own

_REMEDIES = {
    errno.EPERM: "needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
    errno.EACCES: "needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
    errno.ENOMEM: "raise the limit of locked memory (LimitMEMLOCK=infinity)",
    errno.ENOSYS: "needs a kernel with BPF",
    errno.EINVAL: "the kernel is too old for it",
}


class BpfError(FastmipError):
    """A BPF program cannot be had; the text is one line naming what and why."""


class _Options(ctypes.Structure):
    """struct bpf_test_run_opts, bpf_link_create_opts, bpf_xdp_query_opts: ``sz`` comes first."""


class _TestRun(_Options):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class _LinkCreate(_Options):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
        ("more", ctypes.c_uint64 * 3),
    )


class _XdpQuery(_Options):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_id", ctypes.c_uint32),
        ("drv_prog_id", ctypes.c_uint32),
        ("hw_prog_id", ctypes.c_uint32),
        ("skb_prog_id", ctypes.c_uint32),
        ("attach_mode", ctypes.c_uint8),
    )


class _ProgInfo(ctypes.Structure):
    """The head of struct bpf_prog_info."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("lengths", ctypes.c_uint32 * 2),
        ("pointers", ctypes.c_uint64 * 2),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    )


_Print = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_P, _I, _U, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bpf_object__open_mem": (_P, (_P, ctypes.c_size_t, _P)),
    "bpf_object__load": (_I, (_P,)),
    "bpf_object__close": (None, (_P,)),
    "bpf_object__find_program_by_name": (_P, (_P, _S)),
    "bpf_object__find_map_by_name": (_P, (_P, _S)),
    "bpf_program__fd": (_I, (_P,)),
    "bpf_program__set_autoload": (_I, (_P, ctypes.c_bool)),
    "bpf_map__fd": (_I, (_P,)),
    "bpf_map__set_max_entries": (_I, (_P, _U)),
    "bpf_map__set_initial_value": (_I, (_P, _P, ctypes.c_size_t)),
    "bpf_raw_tracepoint_open": (_I, (_S, _I)),
    "bpf_map_update_elem": (_I, (_I, _P, _P, ctypes.c_uint64)),
    "bpf_map_lookup_elem": (_I, (_I, _P, _P)),
    "bpf_map_delete_elem": (_I, (_I, _P)),
    "bpf_link_create": (_I, (_I, _I, _I, _P)),
    "bpf_xdp_query": (_I, (_I, _I, _P)),
    "bpf_prog_get_fd_by_id": (_I, (_U,)),
    "bpf_obj_get_info_by_fd": (_I, (_I, _P, _P)),
    "bpf_prog_test_run_opts": (_I, (_I, _P)),
    "libbpf_num_possible_cpus": (_I, ()),
    "libbpf_set_print": (_P, (_Print,)),
}


def _print(level: int, form: bytes, arguments: int) -> int:
    text = ctypes.create_string_buffer(1024)
    ctypes.CDLL(None).vsnprintf(text, ctypes.c_size_t(1024), form, ctypes.c_void_p(arguments))
    if level < 2:  # LIBBPF_WARN, LIBBPF_INFO
        for line in text.value.decode(errors="replace").splitlines():
            log.debug("libbpf", line=line)
    return 0


_PRINT = _Print(_print)


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf; raises BpfError when it is not installed."""
    try:
        found = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BpfError(f"libbpf.so.1 is missing (install libbpf1): {error}") from error
    found.libbpf_set_print(_PRINT)
    return found


def refusal(what: str, number: int) -> BpfError:
    """What the kernel said (a negative or positive errno) as one line."""
    number = abs(number)
    text = "not supported" if number == _NOT_SUPPORTED else os.strerror(number)
    remedy = _REMEDIES.get(number)
    return BpfError(f"{what}: {text}: {remedy}" if remedy else f"{what}: {text}")


def _checked(what: str, result: int) -> int:
    if result < 0:
        raise refusal(what, result)
    return result


def read_object(name: str) -> bytes:
    """An object of this build; raises BpfError when it was built without clang."""
    try:
        return (DIRECTORY / f"{name}.bpf.o").read_bytes()
    except FileNotFoundError:
        raise BpfError(
            f"{name}: fastmip was built without BPF programs: install clang and build it again"
        ) from None


class Map:
    """A map of a loaded object."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        """Belongs to the object."""

    def update(self, key: int, value: bytes) -> None:
        """Write an element. Raises BpfError."""
        name = ctypes.c_uint32(key)
        result = library().bpf_map_update_elem(self.fd, ctypes.byref(name), value, 0)
        _checked(f"BPF map {self.name}", result)

    def lookup(self, key: int, size: int) -> bytes:
        """Read an element of so many octets. Raises BpfError."""
        name, value = ctypes.c_uint32(key), ctypes.create_string_buffer(size)
        result = library().bpf_map_lookup_elem(self.fd, ctypes.byref(name), value)
        _checked(f"BPF map {self.name}", result)
        return value.raw

    def delete(self, key: int) -> None:
        """Remove an element; it may be gone already."""
        name = ctypes.c_uint32(key)
        result = library().bpf_map_delete_elem(self.fd, ctypes.byref(name))
        if result != -errno.ENOENT:
            _checked(f"BPF map {self.name}", result)

    def memory(self, octets: int) -> mmap.mmap:
        """The elements of an array with BPF_F_MMAPABLE, shared with the kernel."""
        pages = -(-octets // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            return mmap.mmap(self.fd, pages)
        except OSError as error:
            raise refusal(f"BPF map {self.name}", error.errno or 0) from error


class Object:
    """A BPF object in the kernel: its maps and programs live until ``close``, programs that are
    attached until their link is closed."""

    def __init__(self, name: str, *, prepare: Callable[[Object], None] = lambda _: None) -> None:
        """Open and load ``bpf/NAME.bpf.o``; ``prepare`` runs between the two. Raises BpfError."""
        self.name = name
        image = read_object(name)
        self._lib = library()
        self._object: int | None = self._lib.bpf_object__open_mem(image, len(image), None)
        if not self._object:
            raise refusal(f"BPF object {name}", ctypes.get_errno())
        try:
            prepare(self)
            result = self._lib.bpf_object__load(self._object)
            _checked(f"the kernel refuses the BPF program {name}", result)
        except BaseException:
            self.close()
            raise

    def _map(self, name: str) -> int:
        found: int | None = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise BpfError(f"BPF object {self.name}: no map {name}")
        return found

    def _program(self, name: str) -> int:
        found: int | None = self._lib.bpf_object__find_program_by_name(self._object, name.encode())
        if not found:
            raise BpfError(f"BPF object {self.name}: no program {name}")
        return found

    def set_entries(self, name: str, entries: int) -> None:
        """How many entries a map will have; before loading."""
        result = self._lib.bpf_map__set_max_entries(self._map(name), entries)
        _checked(f"BPF map {name}", result)

    def set_constants(self, value: bytes) -> None:
        """What the programs find in ``.rodata``; before loading."""
        result = self._lib.bpf_map__set_initial_value(self._map(".rodata"), value, len(value))
        _checked(f"BPF object {self.name}: constants", result)

    def leave_out(self, name: str) -> None:
        """Do not load a program; before loading."""
        self._lib.bpf_program__set_autoload(self._program(name), False)

    def map(self, name: str) -> Map:
        """A map by its name."""
        return Map(name, self._lib.bpf_map__fd(self._map(name)))

    def program(self, name: str) -> int:
        """The descriptor of a program, which belongs to the object."""
        return int(self._lib.bpf_program__fd(self._program(name)))

    def close(self) -> None:
        """Let go of maps and programs; may be called again."""
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None


def link_xdp(program_fd: int, ifindex: int, mode: int) -> int:
    """Attach to an interface; the answer is the link, or a negative errno.

    The program stays attached as long as the link's descriptor is open in some process.
    """
    options = _LinkCreate(sz=ctypes.sizeof(_LinkCreate), flags=mode)
    return int(library().bpf_link_create(program_fd, ifindex, XDP, ctypes.byref(options)))


def link_tc(program_fd: int, ifindex: int) -> int:
    """Attach to what an interface receives at TC, behind the programs that are there; as above.

    The answer is -EINVAL before Linux 6.6, which has no links there.
    """
    return int(library().bpf_link_create(program_fd, ifindex, TCX_INGRESS, None))


def link_tracepoint(program_fd: int) -> int:
    """Let a loaded ``tp_btf`` program see its tracepoint while the descriptor is open."""
    return _checked("BPF tracepoint", library().bpf_raw_tracepoint_open(None, program_fd))


def xdp_program_of(ifindex: int) -> str | None:
    """Name and id of the XDP program an interface has, None without one."""
    options = _XdpQuery(sz=ctypes.sizeof(_XdpQuery))
    if library().bpf_xdp_query(ifindex, 0, ctypes.byref(options)) < 0:
        return None
    number = options.prog_id or options.drv_prog_id or options.skb_prog_id or options.hw_prog_id
    if not number:
        return None
    fd = library().bpf_prog_get_fd_by_id(number)
    if fd < 0:
        return f"with id {number}"
    try:
        info, size = _ProgInfo(), ctypes.c_uint32(ctypes.sizeof(_ProgInfo))
        library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    finally:
        os.close(fd)
    name = bytes(info.name).decode(errors="replace")
    return f"{name} (id {number})" if name else f"with id {number}"


def run_once(
    program_fd: int, frame: bytes, *, context: bytes = b"", room: int = 256
) -> tuple[int, bytes]:
    """Run a program on a frame (BPF_PROG_TEST_RUN): what it returned and what became of it."""
    out = ctypes.create_string_buffer(len(frame) + room)
    options = _TestRun(
        sz=ctypes.sizeof(_TestRun),
        data_in=ctypes.cast(ctypes.c_char_p(frame), ctypes.c_void_p),
        data_size_in=len(frame),
        data_out=ctypes.cast(out, ctypes.c_void_p),
        data_size_out=len(out),
        repeat=1,
    )
    if context:
        options.ctx_in = ctypes.cast(ctypes.c_char_p(context), ctypes.c_void_p)
        options.ctx_size_in = len(context)
    result = library().bpf_prog_test_run_opts(program_fd, ctypes.byref(options))
    _checked("running a BPF program on a frame", result)
    return int(options.retval), out.raw[: options.data_size_out]
