"""How cached values are written to Redis: as JSON, so that reading one can never run code."""

from __future__ import annotations

import json
from typing import Any


class JsonSerializer:
    """The serializer of django.core.cache.backends.redis; its default is pickle."""

    def dumps(self, value: Any) -> bytes | int:
        # Plain whole numbers stay numbers, so that Redis itself can increment them.
        if type(value) is int:
            return value
        return json.dumps(value, separators=(",", ":")).encode()

    def loads(self, data: bytes | int) -> Any:
        return json.loads(data) if isinstance(data, bytes) else data
