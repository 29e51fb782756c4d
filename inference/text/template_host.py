"""Keeps the process that runs a chat template: starts it, asks it, kills it when it is late. Knows no tokens."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).with_name("template_process.py")
_MAX_SOURCE = 256 * 2**10
_START_SECONDS = 20.0


class TemplateError(Exception):
    """The chat template is broken, hostile, or refuses these messages; the message is a sentence."""


class TemplateHost:
    """One template in one process, started on first use and again after it had to be killed. Thread-safe."""

    def __init__(self, source: str, *, seconds: float = 2.0, max_output: int = 16 * 2**20) -> None:
        if len(source) > _MAX_SOURCE:
            raise TemplateError(f"The model's chat template is longer than {_MAX_SOURCE} characters.")
        self._source, self._seconds, self._max_output = source, seconds, max_output
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._broken = ""  # why it cannot even be compiled, once that was tried
        self._finalizer: weakref.finalize | None = None

    def render(self, variables: dict[str, Any]) -> str:
        """The rendered text. Raises TemplateError."""
        with self._lock:
            self._ensure_started()
            return _text(self._ask(variables, self._seconds))

    def render_all(self, batch: list[dict[str, Any]]) -> list[str | TemplateError]:
        """The text of each, or why there is none: in one round trip, unless that fails. Raises TemplateError where the
        template renders nothing at all."""
        try:
            with self._lock:
                self._ensure_started()
                answers = self._ask(batch, self._seconds)
            if isinstance(answers, list):
                return [_text_or_error(answer) for answer in answers]
        except TemplateError:
            if self._broken or len(batch) == 1:
                raise
        # Too slow or too long together, and one of them perhaps alone.
        texts: list[str | TemplateError] = []
        for variables in batch:
            try:
                texts.append(self.render(variables))
            except TemplateError as error:
                texts.append(error)
        return texts

    def close(self) -> None:
        with self._lock:
            self._kill()

    def _ensure_started(self) -> None:
        if self._broken:
            raise TemplateError(self._broken)
        if self._process is None or self._process.poll() is not None:
            self._start()

    def _start(self) -> None:
        self._kill()
        # -I: neither the environment nor the current folder can put code into it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
        )
        self._finalizer = weakref.finalize(self, _reap, self._process)
        self._ask(None, _START_SECONDS)
        try:
            # Compiling computes what is constant, so it has to be hurried and may fail like rendering.
            _text(self._ask(self._source, self._seconds))
        except TemplateError as error:
            self._broken = str(error)
            self._kill()
            raise

    def _kill(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None

    def _ask(self, question: Any, seconds: float) -> Any:
        """The answer to a question, or to none: the one that says it is ready."""
        process = self._process
        assert process is not None
        asked = b"" if question is None else json.dumps(question).encode() + b"\n"
        try:
            return _exchange(process, asked, time.monotonic() + seconds, self._max_output)
        except TemplateError:
            self._kill()
            raise


def _text_or_error(answer: dict[str, str]) -> str | TemplateError:
    if "error" in answer:
        return TemplateError(f"The model's chat template cannot render this conversation: {answer['error']}.")
    return answer["text"]


def _text(answer: dict[str, str]) -> str:
    text = _text_or_error(answer)
    if isinstance(text, TemplateError):
        raise text
    return text


def _exchange(process: subprocess.Popen[bytes], question: bytes, deadline: float, limit: int) -> Any:
    """Writes and reads at once, so that neither side can block the other for ever on a full pipe."""
    assert process.stdin is not None
    assert process.stdout is not None
    writer, reader = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(writer, False)
    left, answer = memoryview(question), bytearray()
    with selectors.DefaultSelector() as selector:
        if left:
            selector.register(writer, selectors.EVENT_WRITE)
        selector.register(reader, selectors.EVENT_READ)
        while not answer.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TemplateError("The model's chat template took too long and was stopped.")
            for key, _ in selector.select(remaining):
                if key.fd == writer:
                    left = _write(writer, left)
                    if not left:
                        selector.unregister(writer)
                elif chunk := os.read(reader, 2**16):
                    answer += chunk
                else:
                    raise TemplateError("The model's chat template used up its memory and was stopped.")
            if len(answer) > limit:
                raise TemplateError(
                    f"The model's chat template wrote more than {limit} bytes and was stopped."
                )
    try:
        return json.loads(answer)
    except ValueError as error:
        raise TemplateError("The model's chat template gave no usable answer.") from error


def _write(descriptor: int, data: memoryview) -> memoryview:
    try:
        return data[os.write(descriptor, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError as error:
        raise TemplateError("The model's chat template ended its process.") from error


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()
