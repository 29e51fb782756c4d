"""Tells open sockets that the login they were opened with has ended. Knows nothing of who listens.

A message lost here delays the end of a socket, it never prevents it: consumers recheck on every command.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

logger = logging.getLogger(__name__)


def session_group(session_key: str) -> str:
    # Hashed: a session key is a credential, and group names appear in the broker's logs.
    return f"session.{hashlib.sha256(session_key.encode()).hexdigest()[:32]}"


def user_group(user_id: uuid.UUID) -> str:
    return f"user.{user_id.hex}"


def _tell(group: str, message: dict[str, Any]) -> None:
    try:
        async_to_sync(get_channel_layer().group_send)(group, message)
    except Exception:
        logger.exception(
            "The sockets of a login that ended could not be told; they end with their next command."
        )


def close_session(session_key: str) -> None:
    """Close the sockets of one login session."""
    _tell(session_group(session_key), {"type": "session_closed"})


def close_user(user_id: uuid.UUID) -> None:
    """Close every socket of a person."""
    _tell(user_group(user_id), {"type": "session_closed"})


def close_member(user_id: uuid.UUID, workspace_id: uuid.UUID) -> None:
    """Close the sockets that a person has open in one workspace."""
    _tell(user_group(user_id), {"type": "session_closed", "workspace": workspace_id.hex})
