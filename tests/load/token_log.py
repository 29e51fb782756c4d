"""What writing the token log takes of a worker's processor: the engine's thread hands over, the publisher's appends."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from inference.emission import Emission, NewText, Publisher
from inference.stream import TokenLog
from tests.services import Valkey


def processor_seconds(at_once: int, step: float, steps: int = 150) -> float:
    """Of one step that gives so many replies a token each, where one begins every `step` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        valkey = Valkey(Path(folder)).start()
        try:
            with valkey.client() as client:
                publisher = Publisher(TokenLog(client))
                publisher.start()
                replies = [Emission(f"reply {n}", 1, []) for n in range(at_once)]
                texts = [NewText(reply, " word", [2019]) for reply in replies]
                began, before = time.monotonic(), time.process_time()
                for number in range(1, steps + 1):
                    publisher.emit_texts(texts)
                    time.sleep(max(began + number * step - time.monotonic(), 0))
                publisher.flush()
                took = time.process_time() - before
                publisher.stop()
        finally:
            valkey.kill()
    return took / steps
