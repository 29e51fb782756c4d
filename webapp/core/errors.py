"""The one error a person may be shown: a sentence, a stable code and an HTTP status. Knows no model of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

# OpenAI's names for the kinds of errors, by status; its clients choose their exceptions by the status itself.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


class UserError(Exception):
    """Something the person can act on.

    `code` is stable and for programs; `message` is a sentence for people; `status` is the HTTP status an
    HTTP surface answers with (websocket consumers send `code` and `message` in an `error` frame); `param` names what
    in a program's request was wrong, as in "messages.0.role"; `headers` are what an HTTP answer says besides.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 400,
        retry_after: int | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.retry_after = code, message, status, retry_after
        self.param, self.headers = param, dict(headers or {})

    def as_json(self) -> dict[str, Any]:
        """OpenAI's error object, which all our JSON answers use."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


class NotFound(UserError):
    """The object does not exist, or not for this person: the two are never told apart."""

    def __init__(self, what: str = "That") -> None:
        message = _("%(what)s does not exist, or is not yours to see.") % {"what": what}
        super().__init__("not_found", message, status=404)
