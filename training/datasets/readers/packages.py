"""What DOCX and XLSX are underneath: a ZIP of XML parts. Refuses what would unpack without end; follows no links.

Knows nothing of what the parts mean.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from training.datasets.limits import FREE_UNPACKED, MAX_RATIO, MAX_XML
from training.datasets.problems import DataError

_SUPPORTED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_package(path: Path) -> None:
    """What the archive says of its sizes holds: zipfile gives out no more than that of any part.

    Raises DataError `broken_file`, `encrypted_file` or `expands_too_much`.
    """
    with open_package(path) as package:
        for part in package.infolist():
            check_part(part)


def open_package(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise DataError("broken_file", f"The file is damaged: {error}.") from error


def check_part(part: zipfile.ZipInfo) -> None:
    if part.flag_bits & 0x1:
        raise DataError("encrypted_file", "The file is locked with a password.")
    if part.compress_type not in _SUPPORTED:
        raise DataError("broken_file", "The file is packed in a way that is not supported.")
    if part.file_size > MAX_XML or part.file_size > FREE_UNPACKED + MAX_RATIO * part.compress_size:
        raise DataError("expands_too_much", "The file unpacks to far more than it could sensibly hold.")
