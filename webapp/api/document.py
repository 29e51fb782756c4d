"""The document at /v1/openapi.json, where it says what is true of every operation and stands in no route."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from ninja import NinjaAPI, Swagger
from ninja.openapi.schema import OpenAPISchema

from webapp.api import schemas

IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "description": "Sent again with the same key within a day, the same request is done only once and answered alike.",
}


class Docs(Swagger):
    """The page on which the document can be read and tried."""

    def render_page(self, request: HttpRequest, api: NinjaAPI, **kwargs: Any) -> HttpResponse:
        settings = {**self.settings, "url": self.get_openapi_url(api, kwargs)}
        # Ninja's own method takes its scripts from elsewhere unless it is an app of the site.
        return render(request, self.template, {"swagger_settings": json.dumps(settings), "api": api})


class Api(NinjaAPI):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._documents: dict[str, OpenAPISchema] = {}

    def get_openapi_schema(
        self, *, path_prefix: str | None = None, path_params: dict[str, Any] | None = None
    ) -> OpenAPISchema:
        """Made once, which takes a second, and not to be changed: routes are the same as long as the process lives."""
        prefix = self.get_root_path(path_params or {}) if path_prefix is None else path_prefix
        if prefix not in self._documents:
            document = super().get_openapi_schema(path_prefix=prefix)
            for methods in document["paths"].values():
                if "post" in methods:
                    methods["post"]["parameters"].append(IDEMPOTENCY_KEY)
                for operation in methods.values():
                    operation["responses"] |= schemas.errors()
            document["components"]["schemas"] |= schemas.definitions()
            self._documents[prefix] = document
        return self._documents[prefix]
