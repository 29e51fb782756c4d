"""The one error a person may be shown: a sentence, a stable code and an HTTP status. Knows no model of ours."""

from __future__ import annotations

from django.utils.translation import gettext as _


class UserError(Exception):
    """Something the person can act on.

    `code` is stable and for programs; `message` is a sentence for people; `status` is the HTTP status an
    HTTP surface answers with (websocket consumers send `code` and `message` in an `error` frame).
    """

    def __init__(self, code: str, message: str, *, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.retry_after = code, message, status, retry_after


class NotFound(UserError):
    """The object does not exist, or not for this person: the two are never told apart."""

    def __init__(self, what: str = "That") -> None:
        message = _("%(what)s does not exist, or is not yours to see.") % {"what": what}
        super().__init__("not_found", message, status=404)
