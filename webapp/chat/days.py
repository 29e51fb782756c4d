"""Groups conversations by when they were last used, in the reader's time zone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.utils import formats, timezone
from django.utils.translation import gettext as _

from webapp.chat.models import Conversation


@dataclass
class Group:
    """Conversations under one heading. `key` is stable, whatever the language: "today", "2026-11"."""

    key: str
    label: str
    conversations: list[Conversation] = field(default_factory=list)


def group_by_day(conversations: Iterable[Conversation], *, now: datetime | None = None) -> list[Group]:
    """Groups in the order given; consecutive conversations of one period share a group."""
    today = timezone.localtime(now).date()
    groups: list[Group] = []
    for conversation in conversations:
        day = timezone.localtime(conversation.updated_at).date()
        age = (today - day).days
        if age <= 0:
            key, label = "today", _("Today")
        elif age == 1:
            key, label = "yesterday", _("Yesterday")
        elif age < 7:
            key, label = "week", _("Last 7 days")
        elif age < 30:
            key, label = "month", _("Last 30 days")
        else:
            key, label = f"{day:%Y-%m}", formats.date_format(day, "YEAR_MONTH_FORMAT")
        if not groups or groups[-1].key != key:
            groups.append(Group(key, label))
        groups[-1].conversations.append(conversation)
    return groups
