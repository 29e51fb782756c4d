"""A request's JSON: strict, of bounded depth, and only text that every database stores. Knows no route."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja.errors import HttpError
from ninja.parser import Parser


class StrictParser(Parser):
    """Raises HttpError 400 with a sentence; the body limit is `webapp.core.body_limit`'s business."""

    def parse_body(self, request: HttpRequest) -> Any:
        raw = request.body
        try:
            body = json.loads(raw, parse_constant=_no_number)
            # "\\ud800" is legal JSON, and no database or socket can store or send what it stands for.
            if b"\\u" in raw:
                json.dumps(body, ensure_ascii=False).encode("utf-8")
        except RecursionError:
            raise HttpError(400, _("The body is nested too deeply."))
        except ValueError:
            raise HttpError(400, _("The body is not valid JSON in UTF-8."))
        if b"\\u0000" in raw or b"\x00" in raw:
            raise HttpError(
                400, _("The body holds the character U+0000, which cannot be stored. Leave it out.")
            )
        return body


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
