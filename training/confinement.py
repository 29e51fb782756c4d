"""`python -m training.confinement [--read=PATH|--write=PATH|--network=MODE]... MODULE [ARGUMENT...]`: alone.

What reads strangers' files, and what trains, is of the same user as the site: were it taken over, it could read its
secrets, its database and the environment of its processes. So the kernel is asked to let it have what it was given and
what Python and its libraries are made of, and nothing else, for as long as it lives: Landlock, for which nobody needs
rights (Linux 5.19 and newer, unless it was left out). Elsewhere it runs as it is, and the log says so once.

Newer kernels keep more from it: signals to whoever is not of its making (Linux 6.12), and from what needs no network
that (TCP with 6.7, abstract sockets with 6.12): the broker listens on this machine, for whoever is on it.

What it does not keep from it: UDP, sockets that are files, and the names and sizes of files.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import runpy
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal, cast

logger = logging.getLogger(__name__)

# https://docs.kernel.org/userspace-api/landlock.html; the numbers are the same on all processors.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH, _NO_NEW_PRIVS = 1, 1, 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1
# What of it is left to somebody: all, all but connecting to anything, or none.
Network = Literal["all", "passive", "none"]
_TCP: dict[str, int] = {"all": 0, "passive": _CONNECT_TCP, "none": _BIND_TCP | _CONNECT_TCP}
# Before the first, no file could be moved to another folder.
_LEAST_VERSION, _WITH_TRUNCATE, _WITH_NETWORK, _WITH_SCOPES = 2, 3, 4, 6
_ROOT = Path(__file__).resolve().parents[1]
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix")
# Of /etc, where secrets may be, what finds libraries, hosts and the time.
_ETC = (
    *("alternatives", "group", "gai.conf", "host.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "mime.types", "nccl.conf", "nsswitch.conf", "nvidia", "passwd", "protocols"),
    *("resolv.conf", "services", "ssl", "timezone"),
)
# Of other processes the kernel shows nothing in them that is theirs.
_KERNEL = ("/proc", "/sys")
# Among the devices, what processes hand each other: whoever needs a place there is given it.
_HANDED = ("shm", "mqueue", "hugepages")


def prefix(
    module: str, *, reads: Iterable[Path] = (), writes: Iterable[Path] = (), network: Network = "all"
) -> list[str]:
    """What stands for `python -m MODULE` in a command. Files and folders; they have to be there when it starts."""
    asked = flags(reads=reads, writes=writes, network=network)
    return [sys.executable, "-P", "-m", *([__name__, *asked] if asked else []), module]


def flags(*, reads: Iterable[Path] = (), writes: Iterable[Path] = (), network: Network = "all") -> list[str]:
    """What `obey` takes; nothing where it is not possible."""
    if not is_possible():
        _say()
        return []
    return [
        *(f"--read={path}" for path in reads),
        *(f"--write={path}" for path in writes),
        f"--network={network}",
    ]


@functools.cache
def is_possible() -> bool:
    return sys.platform == "linux" and _version() >= _LEAST_VERSION


@functools.cache
def _say() -> None:
    logger.warning("This kernel has no Landlock: what reads data and trains may open all files of its user.")


def confine(reads: Collection[Path], writes: Collection[Path], *, network: Network = "all") -> None:
    """This process, from now on, and those it starts; before it has threads. Raises OSError."""
    version = _version()
    handled = (_TRUNCATE << 1) - 1 if version >= _WITH_TRUNCATE else _TRUNCATE - 1
    asked = struct.pack("Q", handled)
    if version >= _WITH_NETWORK:
        asked += struct.pack("Q", _TCP[network])
    if version >= _WITH_SCOPES:
        asked += struct.pack("Q", _SIGNALS if network == "all" else _SIGNALS | _ABSTRACT_SOCKETS)
    ruleset = _call(_CREATE_RULESET, asked, len(asked), 0)
    for path in (*_python(), *reads, *_targets(reads)):
        _allow(ruleset, path, _READ)
    _allow(ruleset, Path("/dev"), _READ_DIR)
    for path in (*map(Path, _KERNEL), *_devices(), *writes):
        _allow(ruleset, path, handled)
    if ctypes.CDLL(None, use_errno=True).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _python() -> Iterator[Path]:
    """Where code is. Of our own folder only its packages: in it, the site's state may be."""
    yield from map(Path, _SYSTEM)
    yield from (Path("/etc") / name for name in _ETC)
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    elsewhere = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *sys.path, *libraries]
    yield from (Path(path) for path in dict.fromkeys(elsewhere) if path and Path(path).resolve() != _ROOT)
    yield from (package.parent for package in _ROOT.glob("*/__init__.py"))


def _devices() -> Iterator[Path]:
    """Not by the links among them: what is open already lies nowhere."""
    for each in Path("/dev").iterdir():
        if each.name not in _HANDED and not each.is_symlink():
            yield each


def _targets(folders: Iterable[Path]) -> Iterator[Path]:
    """What links in them lead to: a model may be a folder of such."""
    for folder in folders:
        if folder.is_dir():
            yield from (each.resolve() for each in folder.iterdir() if each.is_symlink())


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # then it cannot be had anyway
    try:
        rights &= -1 if path.is_dir() else _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


def _version() -> int:
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:  # too old, switched off, or kept from us
        return 0


def _call(number: int, *arguments: int | bytes | None) -> int:
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    found: int = syscall(
        ctypes.c_long(number), *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    )
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def obey(arguments: list[str], *own: Path) -> None:
    """Takes `flags` off the front and keeps this process to them and to what is its `own`. Raises OSError."""
    given: dict[str, list[str]] = {"--read": [], "--write": [], "--network": []}
    while arguments[0].startswith("--"):
        name, _, value = arguments.pop(0).partition("=")
        given[name].append(value)
    if not given["--network"]:  # not possible here
        return
    # Looked for while our folder can still be listed.
    import inference  # noqa: F401

    (network,) = given["--network"]
    reads, writes = ([Path(path) for path in given[name]] for name in ("--read", "--write"))
    confine(reads, [*writes, *own], network=cast(Network, network))


def main(arguments: list[str]) -> None:
    sys.argv = arguments
    obey(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
