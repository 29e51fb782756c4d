"""What every process of the site looks at before it does anything: the web process, workers, beat, `manage.py up`.

What waiting does not mend is refused, in one sentence: a broker that evicts, a wrong password, a disk that is full. A
database or a broker that is away is no reason: it may be starting too. Wrong settings were refused when they were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from django.db import connection

from webapp.ops import schema
from webapp.ops.doctor import broker, database, machine
from webapp.ops.doctor.finding import Finding

Check = Callable[[], Iterable[Finding]]
# In this order: a database on a full disk says less than the disk.
CHECKS: tuple[Check, ...] = (machine.disk, database.check, broker.check)


def refusals(checks: Iterable[Check] = CHECKS) -> Iterator[str]:
    """A sentence, with what to do, for each thing that is so."""
    for check in checks:
        for finding in check():
            if finding.refuses:
                yield f"{finding.sentence.rstrip('.')}. {finding.advice}".strip()


def refusal() -> str | None:
    """The first reason why this process may not start; None where there is none."""
    try:
        return next(refusals(), None) or schema.refusal()
    finally:
        connection.close()
