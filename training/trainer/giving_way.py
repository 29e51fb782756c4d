"""Learning gives way to everybody; saving, for which somebody waits, does not. Knows nothing of training.

A nice of 10 leaves chat nine tenths of a core, and yet half of its speed: a step of an answer waits for the slowest of
its threads, and each is held up in its turn. Where learning is idle work it keeps nine tenths (docs/benchmarks.md), but
a job that is told to stop would then be neither saved nor gone in time. Only a superuser's thread can become less nice
again, so what learns is a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

import torch

from inference.engine.model import Attend

NICEST = 19


class Learning:
    """Runs something in a thread that gives way, as do those it starts, and meanwhile in the calling thread what it
    hands over."""

    def __init__(self) -> None:
        self._handed_over: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self, work: Callable[[], None]) -> None:
        """Raises what `work` raises."""
        done: Future[None] = Future()

        def learn() -> None:
            _give_way()
            _fulfil(done, work)
            self._handed_over.put(None)

        thread = threading.Thread(target=learn, name="learning")
        thread.start()
        while task := self._handed_over.get():
            task()
        thread.join()
        done.result()

    def hand_over(self, work: Callable[[], None]) -> None:
        """For what is run. Raises what `work` raises."""
        done: Future[None] = Future()
        self._handed_over.put(lambda: _fulfil(done, work))
        done.result()


def _give_way() -> None:
    if sys.platform != "linux":  # elsewhere it would be of the whole process
        return
    if os.getpriority(os.PRIO_PROCESS, 0) == NICEST:  # whoever began it has said all there is to say
        return
    os.setpriority(os.PRIO_PROCESS, 0, NICEST)
    with contextlib.suppress(OSError):  # a container may forbid it
        # Whoever wakes up goes on at once, and does not wait for the end of a turn.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _fulfil(done: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(None)


class Watched:
    """An `Attend` that looks at each layer, and on the way back through it, whether to go on: a pass takes seconds, and
    many of them where others compute."""

    def __init__(self, attend: Attend, look: Callable[[], None]) -> None:
        """`look` raises what is to end the pass."""
        self._attend, self._look = attend, look

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        self._look()
        out = self._attend(layer, query, key, value)
        if out.requires_grad:
            out.register_hook(lambda _gradient: self._look())
        return out
