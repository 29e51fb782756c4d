"""The API: its routers and the document that describes them. What a route does is in the module it is named after."""

from __future__ import annotations

from ninja import NinjaAPI, Swagger

from webapp.api import (
    chat_completion_routes,
    conversation_routes,
    embedding_routes,
    message_routes,
    model_routes,
)
from webapp.api.errors import answer_errors
from webapp.api.parser import StrictParser

api = NinjaAPI(
    title="Flywheel",
    version="1",
    description="OpenAI's API for your own models: point a client at this site's /v1 and change the key.",
    urls_namespace="api",
    parser=StrictParser(),
    docs=Swagger(),
    docs_url="/docs",
)
answer_errors(api)
# Answers to conversations that programs keep themselves.
api.add_router("/chat/completions", chat_completion_routes.router, tags=["Chat"])
# The person's own chats on this site. (OpenAI's items of the same address are another thing.)
api.add_router("/conversations", conversation_routes.router, tags=["Conversations"])
api.add_router("/conversations", message_routes.router, tags=["Conversations"])
# Texts as vectors.
api.add_router("/embeddings", embedding_routes.router, tags=["Embeddings"])
# Base models and what came of the workspace's own fine-tunes.
api.add_router("/models", model_routes.router, tags=["Models"])
