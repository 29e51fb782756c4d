"""The token log: what a generation emitted, in Redis Streams. Knows nothing of sockets, Markdown or the engine.

The entry of event `seq` (dense from 1) has the stream id `{seq}-0` and one field `e`: the event as JSON
`{"a": attempt, "t": type, "d": data}`. `docs/architecture.md` lists the types. The log is the truth while a
generation runs; afterwards the database row is, and the log expires.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

STEPS_CHANNEL = "fw:steps"
CONTROL_CHANNEL = "fw:control"
TERMINAL_TYPES = frozenset({"refused", "done"})
STALE = -1
# A log nobody finishes (its generation was deleted, say) still goes away.
UNFINISHED_TTL_SECONDS = 2 * 86_400
# The fence of a log that was discarded: higher than any attempt.
_DISCARDED = 2**31

# Appends one step of many generations and publishes what was accepted, as one atomic script. ARGV: steps channel,
# unfinished ttl, and the step: one MessagePack value, because packing thousands of arguments would cost the worker more
# than the rest of the step, a list of [id, attempt, ttl when done (0: not done), first seq, [event, ...]].
# Answers each one's last seq, -1 if stale. What is published is the step as it came, which costs nothing; only where
# not all of it was accepted, the part that was.
_APPEND = """
local answers, accepted, whole = {}, {}, true
for _, append in ipairs(cmsgpack.unpack(ARGV[3])) do
  local id, attempt, ttl, first, events = append[1], append[2], append[3], append[4], append[5]
  local log, fence = 'fw:log:' .. id, 'fw:fence:' .. id
  local highest = tonumber(redis.call('GET', fence) or '0')
  if attempt < highest then
    answers[#answers + 1] = -1
    whole = false
  else
    if attempt > highest then redis.call('SET', fence, attempt, 'EX', ARGV[2]) end
    local tail = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    local last = tail and tonumber(string.match(tail[1], '^(%d+)')) or 0
    local new = {}
    for i, event in ipairs(events) do
      local seq = first + i - 1
      if seq == last + 1 then
        redis.call('XADD', log, seq .. '-0', 'e', event)
        if last == 0 then redis.call('EXPIRE', log, ARGV[2]) end
        new[#new + 1] = event
        last = seq
      end
    end
    if ttl > 0 then
      redis.call('EXPIRE', log, ttl)
      redis.call('EXPIRE', fence, ttl)
    end
    if #new < #events then
      whole = false
      append = {id, attempt, ttl, last - #new + 1, new}
    end
    if #new > 0 then accepted[#accepted + 1] = append end
    answers[#answers + 1] = last
  end
end
if #accepted > 0 then redis.call('PUBLISH', ARGV[1], whole and ARGV[3] or cmsgpack.pack(accepted)) end
return answers
"""


class Entry(msgspec.Struct, frozen=True):
    """An event as it is stored and published."""

    a: int
    t: str
    d: dict[str, Any]


class Event(NamedTuple):
    """What a reader gets. `seq` counts the log's entries; `reset` carries the seq its text reaches to."""

    seq: int
    attempt: int
    type: str
    data: dict[str, Any]


class Append(NamedTuple):
    """What one generation adds in a step: consecutive events, already encoded by `encode_event`."""

    generation_id: str
    attempt: int
    entries: Sequence[tuple[int, str]]  # (seq, encoded event)
    finished: bool = False


_encoder = msgspec.json.Encoder()
_entry_decoder = msgspec.json.Decoder(Entry)
# A published step: generation, attempt, ttl, first seq, encoded events.
_step_decoder = msgspec.msgpack.Decoder(list[tuple[str, int, int, int, list[str]]])


def log_key(generation_id: UUID | str) -> str:
    return f"fw:log:{generation_id}"


def _fence_key(generation_id: UUID | str) -> str:
    return f"fw:fence:{generation_id}"


def encode_event(attempt: int, type_: str, data: dict[str, Any]) -> str:
    return _encoder.encode(Entry(attempt, type_, data)).decode()


def decode_step(payload: bytes, wanted: Container[str]) -> list[tuple[str, list[Event]]]:
    """The events of a published step, of those generations that are `wanted`. Raises msgspec.DecodeError."""
    return [
        (generation_id, [_event(first + i, _entry_decoder.decode(event)) for i, event in enumerate(events)])
        for generation_id, _, _, first, events in _step_decoder.decode(payload)
        if generation_id in wanted
    ]


def _event(seq: int, entry: Entry) -> Event:
    return Event(seq, entry.a, entry.t, entry.d)


def decode_entries(raw: Any) -> list[Event]:
    """Events of an XRANGE answer: [(stream id, {field: value})], all bytes."""
    return [
        _event(int(stream_id.split(b"-")[0]), _entry_decoder.decode(fields[b"e"]))
        for stream_id, fields in raw
    ]


def text_of(events: Iterable[Event]) -> str:
    return "".join(event.data["text"] for event in events if event.type == "text")


def connect() -> redis.Redis:
    """A connection pool for threads. It gives up soon: callers know better than it how to go on without a broker."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),
    )


class TokenLog:
    """Writes and reads logs, from threads."""

    def __init__(self, connection: redis.Redis | None = None) -> None:
        self.connection = connection or connect()
        self._append = self.connection.register_script(_APPEND)

    def append(self, appends: Sequence[Append]) -> list[int]:
        """Appends one step; answers, for each, the last seq the log now has, or STALE.

        An answer below the last seq given means that the log lost entries: append again from there on.
        Raises redis.RedisError.
        """
        packed = [
            (
                append.generation_id,
                append.attempt,
                settings.INFERENCE_LOG_TTL_SECONDS if append.finished else 0,
                append.entries[0][0] if append.entries else 1,
                [event for _, event in append.entries],
            )
            for append in appends
        ]
        return self._append(args=[STEPS_CHANNEL, UNFINISHED_TTL_SECONDS, msgspec.msgpack.encode(packed)])

    def take_over(self, generation_id: UUID | str, attempt: int) -> list[Event]:
        """Refuses all earlier attempts from here on, and answers what they logged. Raises redis.RedisError."""
        self.append([Append(str(generation_id), attempt, [])])
        return self.read(generation_id)

    def read(self, generation_id: UUID | str) -> list[Event]:
        """The whole log; empty where there is none."""
        return decode_entries(self.connection.xrange(log_key(generation_id)))

    def discard(self, generation_ids: Iterable[UUID | str]) -> None:
        """Deletes these logs for good: whoever still writes to one is refused, as if it had been taken over."""
        with self.connection.pipeline(transaction=True) as pipe:
            for generation_id in generation_ids:
                pipe.set(_fence_key(generation_id), _DISCARDED, ex=UNFINISHED_TTL_SECONDS)
                pipe.delete(log_key(generation_id))
                pipe.publish(CONTROL_CHANNEL, str(generation_id))
            pipe.execute()

    def request_stop(self, generation_id: UUID | str) -> None:
        """Tells every worker that this generation is to end; the one that runs it listens."""
        self.connection.publish(CONTROL_CHANNEL, str(generation_id))
