"""What a workspace, a person and a key may use: asked before every generation, whoever begins it, page or program.

Counters are in Redis; rules are LimitRule rows; what was really used comes back when a generation ends.
"""

from __future__ import annotations

from uuid import UUID


def admit(
    *, workspace_id: UUID, user_id: UUID | None, api_key_id: UUID | None, tokens: int, slot: UUID
) -> dict[str, str]:
    """Counts one request of about so many tokens, and a stream that is open until the generation (or, of several
    choices, the call) named `slot` ends.

    Answers the x-ratelimit-* headers of whichever rule is nearest to its end; empty where there are no rules.
    Raises UserError `rate_limit_exceeded`, `quota_exceeded` (429 with Retry-After), having counted nothing.
    """
    return {}
