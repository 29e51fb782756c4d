"""What a backup says of itself, in its manifest.json, and where things lie in its folder. Knows no database."""

from __future__ import annotations

import hashlib
import subprocess
import tomllib
from pathlib import Path

import msgspec

from webapp.core.durable import sync_path

FORMAT = 1
MANIFEST, FILES, SECRETS, TABLES = "manifest.json", "files", "secrets", "tables"
SQLITE_FILE = "database.sqlite3"
ROOT = Path(__file__).resolve().parents[3]  # of the code
UNKNOWN = "unknown"


class BackupError(Exception):
    """A backup cannot be made, verified or restored; the message is a sentence or several."""


class CopiedFile(msgspec.Struct, frozen=True):
    path: str  # within the backup's folder
    size: int  # bytes
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    created_at: str  # UTC, as "2026-11-29T13:45:00Z": the moment the database is of
    version: str  # Flywheel's
    database: str  # "sqlite", "postgresql"
    migrations: dict[str, list[str]]  # by app, those that were applied
    tables: dict[str, int]  # rows
    files: list[CopiedFile]
    base_models: bool  # whether they are in it
    secrets: bool
    missing: list[str] = []  # what rows named and was not there, as paths in $FLYWHEEL_HOME
    elsewhere: list[str] = []  # models that lie outside $FLYWHEEL_HOME, or in shared storage, and stay there
    site: str = ""  # whose it is (`webapp.ops.backup.alone`); "" of those that were made before this was said
    format: int = FORMAT

    @property
    def made_by(self) -> str:
        """For sentences."""
        return "Flywheel" if self.version == UNKNOWN else f"Flywheel {self.version}"

    @property
    def size(self) -> int:
        """Of all its files, in bytes."""
        return sum(file.size for file in self.files)


class _Signed(msgspec.Struct):
    """The manifest's own digest is beside it: a damaged one vouches for nothing."""

    sha256: str
    backup: msgspec.Raw


def flywheel_version(root: Path = ROOT) -> str:
    """Of the code in that folder, as "0.1.0+93d158b": with the commit where it is a clone. Or UNKNOWN."""
    try:
        version: str = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "version"
        ]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return UNKNOWN
    commit = _commit(root)
    return f"{version}+{commit}" if commit else version


def _commit(root: Path) -> str:
    if not (root / ".git").exists():  # a folder above may be another repository
        return ""
    # Who makes the backup is mostly not whom the clone belongs to, and this runs nothing that the clone could name.
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    body = msgspec.json.encode(manifest)
    signed = _Signed(hashlib.sha256(body).hexdigest(), msgspec.Raw(body))
    aside = folder / f"{MANIFEST}.new"
    aside.write_bytes(msgspec.json.encode(signed) + b"\n")
    sync_path(aside)
    aside.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """Raises BackupError."""
    try:
        signed = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Signed)
    except FileNotFoundError:
        raise BackupError(f"{folder} is no backup: it has no {MANIFEST}.") from None
    except OSError as error:
        raise BackupError(f"{folder / MANIFEST} cannot be read: {error.strerror}.") from error
    except msgspec.DecodeError:
        raise BackupError(f"{folder / MANIFEST} is damaged: use another backup.") from None
    if hashlib.sha256(bytes(signed.backup)).hexdigest() != signed.sha256:
        raise BackupError(f"{folder / MANIFEST} is damaged: use another backup.")
    if (format_ := msgspec.json.decode(signed.backup).get("format")) != FORMAT:
        raise BackupError(
            f"{folder} has format {format_}, this Flywheel reads {FORMAT}: use the one that made it."
        )
    return msgspec.json.decode(signed.backup, type=Manifest)
