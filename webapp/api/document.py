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
    def get_openapi_schema(self, *args: Any, **kwargs: Any) -> OpenAPISchema:
        document = super().get_openapi_schema(*args, **kwargs)
        for methods in document["paths"].values():
            if "post" in methods:
                methods["post"]["parameters"].append(IDEMPOTENCY_KEY)
            for operation in methods.values():
                operation["responses"] |= schemas.errors()
        document["components"]["schemas"] |= schemas.definitions()
        return document
