"""How a message says who speaks where several have one role: no chat template has a place for it.

Training and answering write it alike. Knows no template.
"""

from __future__ import annotations


def said_by(name: str, content: str) -> str:
    return f"{name}: {content}"
