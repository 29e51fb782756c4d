"""`python -m webapp.ops.celery_process worker|beat`: what Celery's own command of that name does, with less to import.

    python -m webapp.ops.celery_process worker -n worker@%h -Q default -c 4
    python -m webapp.ops.celery_process beat -s var/run/beat-schedule

Celery's command brings a shell with completion, which was a tenth of each worker's start and memory. Knows no task.
"""

from __future__ import annotations

import argparse
import sys

from celery.utils.nodenames import default_nodename, host_format

from webapp import celery_app
from webapp.core import interpreter


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m webapp.ops.celery_process")
    kinds = parser.add_subparsers(dest="kind", required=True)
    worker = kinds.add_parser("worker", help="does the tasks of one queue, in threads")
    worker.add_argument(
        "-n", dest="name", required=True, help="NAME@%%h, with which Celery tells workers apart"
    )
    worker.add_argument("-Q", dest="queue", required=True)
    worker.add_argument("-c", dest="threads", type=int, required=True)
    beat = kinds.add_parser("beat", help="sends what is due")
    beat.add_argument(
        "-s", dest="schedule", required=True, help="the file in which it notes what was sent when"
    )
    return parser.parse_args()


def work(name: str, queue: str, threads: int) -> int | str:
    """Until it is told to stop; the exit status, or what is to be said of it."""
    worker = celery_app.Worker(
        hostname=host_format(default_nodename(name)),
        queues=[queue],
        pool_cls="threads",
        concurrency=threads,
        loglevel="WARNING",
        quiet=True,
        # They cost seconds at start and serve nothing here: leases are rows in the database.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    status: int | str = worker.exitcode
    return status


def main() -> None:
    interpreter.begin()
    given = arguments()
    if given.kind == "beat":
        celery_app.Beat(schedule=given.schedule, loglevel="WARNING", quiet=True).run()
    else:
        sys.exit(work(given.name, given.queue, given.threads))


if __name__ == "__main__":
    main()
