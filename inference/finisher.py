"""The end of a generation on its worker: the final row first, then the log's last event, then its place is free.

One thread writes, so that the engine never waits for the database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from django.db import InterfaceError, OperationalError

from inference import services
from inference.emission import NewText, Publisher
from inference.lease import database_work
from inference.running import Running, Slots
from webapp.core.request_ids import on_behalf_of

logger = logging.getLogger(__name__)
events = structlog.get_logger(__name__)

BROKE = "The model broke off because of an error on our side. What was written so far is kept; try again."


class Finisher:
    """Thread-safe: anybody may say that a generation has ended."""

    def __init__(self, publisher: Publisher, slots: Slots, stopping: threading.Event) -> None:
        self._publisher, self._slots, self._stopping = publisher, slots, stopping
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finisher")

    def say_admitted(self, running: Running) -> None:
        """In the log: even a line there is too much for the engine thread."""
        self._submit(self._log_admitted, running)

    def finish(self, running: Running, state: str, **fields: Any) -> None:
        """running → `state`, with the text so far and what `fields` adds to the row."""
        fields |= running.fields
        fields |= {
            "text": "".join(running.text),
            "completion_tokens": running.tokens,
            "extras": running.extras.as_row(),
        }
        self._submit(self._write_final, running, state, fields)

    def hand_over(self, running: Running) -> None:
        """running → queued: another worker continues from the log."""
        self._submit(self._release, running)

    def drop(self, running: Running) -> None:
        """Another worker runs it already."""
        self._slots.leave(running.request.id)

    def close(self) -> None:
        """Returns when everything said so far is done."""
        self._thread.shutdown(wait=True)

    def _submit(self, work: Callable[..., None], running: Running, *arguments: Any) -> None:
        self._thread.submit(self._do, work, running, *arguments)

    # --- the thread -----------------------------------------------------------------------------------------
    def _do(self, work: Callable[..., None], running: Running, *arguments: Any) -> None:
        generation = running.generation
        with on_behalf_of(generation.request_id, generation=str(generation.id)):
            work(running, *arguments)

    def _log_admitted(self, running: Running) -> None:
        events.info(
            "generation_admitted",
            attempt=running.generation.attempt,
            prompt_tokens=running.fields["prompt_tokens"],
        )

    def _write_final(self, running: Running, state: str, fields: dict[str, Any]) -> None:
        generation = running.generation
        try:
            with database_work():
                if services.finish_generation(generation=generation, state=state, **fields):
                    if running.last_text:
                        self._publisher.emit_texts([NewText(running.emission, running.last_text, [])])
                    if running.extras.result:
                        self._publisher.emit(running.emission, "result", running.extras.result)
                    self._publisher.emit(running.emission, *generation.last_event(), finished=True)
        except (OperationalError, InterfaceError):
            # The lease will be renewed on and on, so nobody else would end this row: it is tried again.
            logger.exception("generation %s could not be finished, trying again", generation.id)
            if not self._stopping.is_set():
                time.sleep(0.5)
                self._submit(self._write_final, running, state, fields)
                return
        except Exception:
            # What cannot be stored now cannot be stored later either.
            logger.exception("generation %s could not be finished", generation.id)
            self._fail(running)
        self._slots.leave(running.request.id)

    def _fail(self, running: Running) -> None:
        """Ends what could not be ended as it should: without its text, but not never, and with what it used."""
        generation = running.generation
        used = {"prompt_tokens": running.fields.get("prompt_tokens", 0), "completion_tokens": running.tokens}
        try:
            with database_work():
                if services.finish_generation(
                    generation=generation,
                    state="failed",
                    error_code="engine_error",
                    error_message=BROKE,
                    **used,
                ):
                    self._publisher.emit(running.emission, *generation.last_event(), finished=True)
        except Exception:
            logger.exception(
                "generation %s could not even be failed; the keeper gives it back", generation.id
            )

    def _release(self, running: Running) -> None:
        try:
            with database_work():
                if services.release_generation(generation=running.generation):
                    events.info("generation_handed_over", attempt=running.generation.attempt)
        except Exception:
            logger.exception(
                "generation %s could not be handed over; the reaper finds it", running.request.id
            )
        finally:  # where the row could not be written, the keeper finds that nobody holds it
            self._slots.leave(running.request.id)
