"""The document at /v1/openapi.json, where it says what is true of every operation and stands in no route."""

from __future__ import annotations

from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

from webapp.api import schemas

IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "description": "Sent again with the same key within a day, the same request is done only once and answered alike.",
}


class Api(NinjaAPI):
    def get_openapi_schema(self, *args: Any, **kwargs: Any) -> OpenAPISchema:
        document = super().get_openapi_schema(*args, **kwargs)
        for methods in document["paths"].values():
            if "post" in methods:
                methods["post"]["parameters"].append(IDEMPOTENCY_KEY)
            for operation in methods.values():
                operation["responses"] |= schemas.errors()
        document["components"]["schemas"] |= schemas.definitions()
        return document
