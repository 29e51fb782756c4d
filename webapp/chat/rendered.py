"""What the Markdown of finished replies became, kept in the cache under its text's digest. Knows no Markdown, and so
costs a worker, which deletes conversations and renders none, nothing to import."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from django.core.cache import cache

# Grows whenever the same text would be rendered differently, so that nothing old is shown.
_MARKDOWN_VERSION = 1
_CACHE_SECONDS = 24 * 3600


def kept(text: str) -> list[str] | None:
    """Its blocks; None where nobody has rendered it lately."""
    blocks: list[str] | None = cache.get(_key(text))
    return blocks


def keep(text: str, blocks: list[str]) -> None:
    cache.set(_key(text), blocks, _CACHE_SECONDS)


def forget(texts: Iterable[str]) -> None:
    """What was deleted is not kept here either; whoever else has the same words has them rendered again."""
    cache.delete_many([_key(text) for text in texts])


def _key(text: str) -> str:
    return f"markdown:{_MARKDOWN_VERSION}:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"
