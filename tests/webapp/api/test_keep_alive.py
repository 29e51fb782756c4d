"""A stream in which nothing happens for a while is read by OpenAI's client as if something had."""

from __future__ import annotations

from openai._streaming import SSEDecoder

from webapp.api.streaming import KEEP_ALIVE, sse


def test_what_keeps_a_stream_alive_is_no_event() -> None:
    sent = [sse({"n": 1}, id="5"), KEEP_ALIVE, KEEP_ALIVE, sse({"n": 2}, id="7"), b"data: [DONE]\n\n"]
    assert [event.data for event in SSEDecoder().iter_bytes(iter(sent))] == ['{"n":1}', '{"n":2}', "[DONE]"]
