"""A request's JSON: strict, of bounded depth, and only what every database stores. Knows no route."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja.parser import Parser

from webapp.core.errors import UserError

MAX_DEPTH = 100
# Not every "\\u0000" in a body is one: the backslash may itself be escaped.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Of numbers, and of text that happens to look like it: worth a closer look, not more.
_LONG_NUMBER = re.compile(rb"\d{19}")


class StrictParser(Parser):
    """Raises UserError `invalid_json` and `unsupported_media_type`; the body limit is `webapp.core.body_limit`'s
    business."""

    def parse_body(self, request: HttpRequest) -> Any:
        if request.content_type and not _is_json(request.content_type):
            raise UserError(
                "unsupported_media_type",
                _("The body has to be JSON, sent with the header “Content-Type: application/json”."),
                status=415,
            )
        raw = request.body
        try:
            body = msgspec.json.decode(raw)
        except RecursionError:
            raise _too_deep()
        except UnicodeDecodeError:
            raise UserError("invalid_json", _("The body is not valid UTF-8."))
        except ValueError as error:
            # msgspec says what is wrong, and at which byte.
            reason = _("it is empty") if not raw.strip() else str(error)
            raise UserError("invalid_json", _("The body is not valid JSON: %(reason)s.") % {"reason": reason})
        if _NUL.search(raw):
            raise UserError(
                "invalid_json",
                _("The body holds the character U+0000, which cannot be stored. Leave it out."),
            )
        long_numbers = _LONG_NUMBER.search(raw) is not None
        if long_numbers or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
            _check(body, long_numbers)
        return body


def _is_json(content_type: str) -> bool:
    return content_type == "application/json" or content_type.endswith("+json")


def _check(body: Any, long_numbers: bool) -> None:
    """Level by level: recursion would end where Python's does."""
    level = [body]
    for _depth in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            if long_numbers and any(type(value) is int and not -(2**63) <= value < 2**63 for value in values):
                raise UserError(
                    "invalid_json", _("A whole number in the body is out of range: it has more than 64 bits.")
                )
            inner.extend(value for value in values if isinstance(value, (dict, list)))
        if not inner:
            return
        level = inner
    raise _too_deep()


def _too_deep() -> UserError:
    return UserError(
        "invalid_json",
        _("The body is nested too deeply: %(most)s levels are the most.") % {"most": MAX_DEPTH},
    )
