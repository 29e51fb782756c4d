"""The API: its routers and the document that describes them. What a route does is in the module it is named after."""

from __future__ import annotations

from webapp.api import (
    api_key_routes,
    chat_completion_routes,
    completion_routes,
    conversation_routes,
    dataset_routes,
    embedding_routes,
    file_routes,
    fine_tuning_routes,
    limit_routes,
    message_routes,
    model_routes,
    moderation_routes,
    response_routes,
    usage_routes,
    webhook_routes,
)
from webapp.api.document import Api, Docs
from webapp.api.errors import answer_errors
from webapp.api.idempotency import answer_once, claim_first
from webapp.api.parser import StrictParser

api = Api(
    title="Flywheel",
    version="1",
    description="OpenAI's API for your own models: point a client at this site's /v1 and change the key.",
    urls_namespace="api",
    parser=StrictParser(),
    docs=Docs(),
    docs_url="/docs",
)
answer_errors(api)
# Every POST, whichever router it is in, does once what comes twice with the same Idempotency-Key.
api.add_decorator(answer_once, mode="view")
api.add_decorator(claim_first, mode="operation")
# Of the workspace, for programs that hand them out.
api.add_router("/api_keys", api_key_routes.router, tags=["API keys"])
# Answers to conversations that programs keep themselves.
api.add_router("/chat/completions", chat_completion_routes.router, tags=["Chat"])
# Texts that are continued as they are.
api.add_router("/completions", completion_routes.router, tags=["Completions"])
# The person's own chats on this site. (OpenAI's items of the same address are another thing.)
api.add_router("/conversations", conversation_routes.router, tags=["Conversations"])
api.add_router("/conversations", message_routes.router, tags=["Conversations"])
# Files that are checked, cleaned and frozen together.
api.add_router("/datasets", dataset_routes.router, tags=["Datasets"])
# Texts as vectors.
api.add_router("/embeddings", embedding_routes.router, tags=["Embeddings"])
# What is learnt from, and the results of learning.
api.add_router("/files", file_routes.router, tags=["Files"])
# Training jobs, as OpenAI's clients see them.
api.add_router("/fine_tuning", fine_tuning_routes.router, tags=["Fine-tuning"])
# What the workspace, its members and its keys may use.
api.add_router("/limits", limit_routes.router, tags=["Usage and limits"])
# Base models and what came of the workspace's own fine-tunes.
api.add_router("/models", model_routes.router, tags=["Models"])
# What a classifier of the workspace's says of texts.
api.add_router("/moderations", moderation_routes.router, tags=["Moderations"])
# Answers that are kept, and gone on from.
api.add_router("/responses", response_routes.router, tags=["Responses"])
# What the workspace used, by day.
api.add_router("/usage", usage_routes.router, tags=["Usage and limits"])
# Who is told of events.
api.add_router("/webhook_endpoints", webhook_routes.router, tags=["Webhooks"])
api.add_router("/webhook_event_types", webhook_routes.event_types_router, tags=["Webhooks"])
