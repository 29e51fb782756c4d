"""Every address of the site, read from the URL resolver, so that tests of all of them cannot forget one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.urls import URLResolver, get_resolver, reverse
from django.urls.converters import IntConverter, UUIDConverter


class Route(NamedTuple):
    name: str  # "conversation", "openid_connect_login"; the path, where it has none
    path: str  # with a made-up id for every variable part


_EXAMPLES: dict[type, object] = {UUIDConverter: uuid.UUID(int=5), IntConverter: 7}
# Regular expressions do not say what fits them.
_REGEX_EXAMPLES: dict[str, object] = {"uidb36": "0", "key": "a-b", "pk": 7, "provider_id": "anything"}


def routes() -> list[Route]:
    """All of them, ours and those of the libraries we include, in a stable order."""
    return sorted(set(_routes(get_resolver(), "/", "", {})))


def _routes(resolver: URLResolver, prefix: str, namespace: str, outer: dict[str, object]) -> Iterator[Route]:
    for entry in resolver.url_patterns:
        parts, pattern = outer | _parts(entry.pattern), f"{prefix}{entry.pattern}"
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from _routes(entry, pattern, inner, parts)
        elif entry.name is None:
            yield Route(pattern, pattern)
        else:
            yield Route(f"{namespace}{entry.name}", reverse(f"{namespace}{entry.name}", kwargs=parts))


def _parts(pattern: Any) -> dict[str, object]:
    if pattern.converters:
        return {name: _EXAMPLES.get(type(kind), "anything") for name, kind in pattern.converters.items()}
    return {name: _REGEX_EXAMPLES[name] for name in pattern.regex.groupindex}
