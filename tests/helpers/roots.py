"""``/`` as the kernel sees it: out of a plain chroot, and into one.

In a chroot the kernel refuses user namespaces, and mount propagation unless ``/`` happens to be a
mount point, so that ``unshare -m`` and ``ip netns exec`` fail. What the tests prove does not
depend on it, so they leave a chroot first; that the demo works in one has a test of its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_BIND, _MS_MOVE, _MS_REC, _MS_PRIVATE = 0x1000, 0x2000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)

# A directory below a fresh file system shows all of this machine, so that a chroot to it has no
# mount point for its root. The mounts belong to the caller's mount namespace.
_PLAIN_CHROOT = """
set -e
mount -t tmpfs tmpfs "$0"
mkdir "$0/root"
for entry in /* ; do
    to=$0/root$entry
    if [ -L "$entry" ]; then cp -P "$entry" "$to"
    elif [ -d "$entry" ]; then mkdir "$to"; mount --rbind "$entry" "$to"
    fi
done
mount --make-rshared / # as systemd does
"""


def plain_chroot(directory: Path) -> list[str]:
    """Begin a command that runs in a plain chroot, made at a new directory.

    The directory is empty again when the command has ended.
    """
    directory.mkdir()
    script = _PLAIN_CHROOT + """exec chroot "$0/root" sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"\n"""
    return ["unshare", "-m", "sh", "-c", script, str(directory)]


def leave_chroot() -> bool:
    """If this process is in a chroot, make that directory a root of its own.

    The directory becomes ``/`` of a new mount namespace: the tree looks the same as before, and
    nothing mounted from here on is seen outside. For the beginning of a process, before it has
    threads. Without root or a chroot nothing happens. Returns whether it was done.
    """
    if os.geteuid() or not _user_namespaces_are_refused():
        return False
    try:
        return _make_own_root()
    except PermissionError:
        return False  # a container that forbids this, too: the tests tell what they miss


def _user_namespaces_are_refused() -> bool:
    """Whether the kernel answers as it does in a chroot; asked in a child."""
    child = os.fork()
    if not child:
        refused = _libc.unshare(_CLONE_NEWUSER) and ctypes.get_errno() == errno.EPERM
        os._exit(1 if refused else 0)
    return os.waitpid(child, 0)[1] != 0


def _make_own_root() -> bool:
    here = Path.cwd()
    _check("unshare", _libc.unshare(_CLONE_NEWNS))
    old_root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Only from the root of the namespace can propagation be turned off, and what is mounted
        # before that may appear on the whole machine. Entering one's own namespace leads there.
        _check("setns", _libc.setns(namespace, _CLONE_NEWNS))
        os.chdir(old_root)
        try:
            root = os.getcwd()  # noqa: PTH109 -- as the kernel says it, unresolved
            if root == "/":
                return False
            _mount(None, "/", _MS_REC | _MS_PRIVATE)
            _mount(root, root, _MS_BIND | _MS_REC)
            os.chdir(root)
            _mount(root, "/", _MS_MOVE)  # over everything, as switch_root(8) does
        finally:
            os.chroot(".")  # back in the old root when that failed
            os.chdir(here)
    finally:
        os.close(namespace)
        os.close(old_root)
    return True


def _mount(source: str | None, target: str, flags: int) -> None:
    encoded = None if source is None else os.fsencode(source)
    _check("mount", _libc.mount(encoded, os.fsencode(target), None, ctypes.c_ulong(flags), None))


def _check(call: str, failed: int) -> None:
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
