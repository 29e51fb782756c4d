"""One line per event, for people or, with LOG_FORMAT=json, for machines; every process of the site logs this way.

Events are named and carry ids, never the content of messages, and no secrets. Knows no model of ours.
"""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import structlog

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
DJANGOS = "django.request"  # whose lines have the address in their text
_OPAQUE_SEGMENT = re.compile(r"(?<=/)[^/?\s]{20,}")


def without_tokens(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Invitations and password resets carry their token in the address, searches carry words: neither is logged."""
    if isinstance(request := event.get("request"), str):
        event["request"] = without_opaque(request.split("?", 1)[0])
    if event.get("logger") == DJANGOS:
        event["event"] = without_opaque(event["event"])
    return event


def without_opaque(text: str) -> str:
    """Addresses in it have dots in place of what may be a token."""
    return _OPAQUE_SEGMENT.sub(lambda m: m[0] if _UUID.fullmatch(m[0]) else "...", text)


def on_one_line(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """What people send can hold line breaks, to forge a line, and escapes, to command the terminal that shows it."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("exception", "stack"):
            event[key] = _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), value)
    return event


# Applied to our own events and to those of libraries that log through the standard library.
_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.UnicodeDecoder(),
    without_tokens,
    on_one_line,
]


class RetriesAreWarnings(logging.Filter):
    """Of a broker that is away Celery hears again and again, and goes on by itself once it is back: no error of its."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.ERROR and "Trying " in record.getMessage():
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def configuration(log_format: str, level: str) -> dict[str, Any]:
    """The LOGGING setting; `log_format` is "console" or "json"."""
    # Plain tracebacks: rich ones print local variables, and those hold messages and passwords.
    plain = structlog.dev.plain_traceback
    renderer: list[Any] = [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain)]
    if log_format == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": _SHARED,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
            }
        },
        "filters": {"retries": {"()": RetriesAreWarnings}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
            "errors": {"class": "webapp.core.recent_errors.Collector", "level": "ERROR"},
        },
        "root": {"handlers": ["stderr", "errors"], "level": level},
        "loggers": {
            # Each 4xx would be logged twice: by Django and as the request's own event.
            DJANGOS: {"level": "ERROR"},
            "django.server": {"handlers": [], "propagate": True},
            # "Task received" and "succeeded" for every reply and every two seconds for the reaper.
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
            "celery.beat": {"level": "WARNING", "filters": ["retries"]},
            "celery.worker.consumer.consumer": {"filters": ["retries"]},
            # It has configured itself by now, with lines of its own make.
            "uvicorn": {"handlers": [], "propagate": True},
            "uvicorn.access": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
        },
    }


def configure_structlog() -> None:
    """Sends structlog's events, and Python's warnings, into the standard library's handlers, where the format above is
    applied."""
    logging.captureWarnings(True)
    # WhiteNoise opens static files as such an iterator: each web process would warn of the first one it serves.
    warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")
    # What no line of ours says need not be found out for each (docs.python.org/3/howto/logging.html#optimization).
    for unsaid in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, unsaid, None)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
