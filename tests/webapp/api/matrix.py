"""The table of the authorization matrix: every operation of the API, what it needs, and what it is asked for.

A new route needs a line in PLACES, and a new kind of id in its path a line in IDS. test_matrix.py asks each as
everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from inference.models import Generation, ServedModel
from tests.training.job_pages.rows import make_job, make_version
from tests.webapp.api.conftest import key_client
from tests.webapp.api.data_work import uploaded, work
from training.models import DatasetVersion, Job, SourceFile
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.api import access
from webapp.api.ids import public_id
from webapp.api.models import Completion, Webhook, WebhookDelivery
from webapp.chat.models import Conversation, Message

LINE = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "sesame"}]}\n'
SECRET = "sesame"  # in whatever is seen of any row of World


class Place(NamedTuple):
    """Of one operation."""

    scope: str
    # A body with which it gets as far as looking for what the ids in its path, or in itself, name: JSON.
    body: dict[str, Any] | None = None
    # Or a form with a file, and these fields.
    form: dict[str, Any] | None = None
    # What is found there is its person's alone, not everybody's in the workspace.
    personal: bool = False
    # Whoever is let in would wait for a worker that is not there: they send nonsense, and are told so.
    works: bool = False
    query: str = ""


CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
PLACES: dict[str, Place] = {
    "GET /v1/api_keys": Place("admin"),
    "POST /v1/api_keys": Place("admin", {"name": "k", "scopes": ["admin"]}),
    "GET /v1/api_keys/{key_id}": Place("admin"),
    "DELETE /v1/api_keys/{key_id}": Place("admin"),
    "POST /v1/chat/completions": Place("chat", CHAT, works=True),
    "GET /v1/chat/completions": Place("chat"),
    "GET /v1/chat/completions/{completion_id}": Place("chat", personal=True),
    "POST /v1/chat/completions/{completion_id}": Place("chat", {"metadata": {}}, personal=True),
    "DELETE /v1/chat/completions/{completion_id}": Place("chat", personal=True),
    "GET /v1/chat/completions/{completion_id}/messages": Place("chat", personal=True),
    "POST /v1/completions": Place("chat", {"model": "demo", "prompt": "hi"}, works=True),
    "GET /v1/conversations": Place("chat"),
    "POST /v1/conversations": Place("chat", {"content": "hi"}, works=True),
    "GET /v1/conversations/{conversation_id}": Place("chat", personal=True),
    "POST /v1/conversations/{conversation_id}": Place("chat", {"title": "t"}, personal=True),
    "DELETE /v1/conversations/{conversation_id}": Place("chat", personal=True),
    "GET /v1/conversations/{conversation_id}/messages": Place("chat", personal=True),
    "POST /v1/conversations/{conversation_id}/messages": Place(
        "chat", {"content": "hi"}, personal=True, works=True
    ),
    "GET /v1/conversations/{conversation_id}/messages/{message_id}": Place("chat", personal=True),
    "POST /v1/conversations/{conversation_id}/messages/{message_id}/stop": Place("chat", personal=True),
    "POST /v1/conversations/{conversation_id}/messages/{message_id}/retry": Place(
        "chat", {}, personal=True, works=True
    ),
    "GET /v1/datasets": Place("files"),
    "POST /v1/datasets": Place("files", {"name": "d"}),
    "GET /v1/datasets/{dataset_id}": Place("files"),
    "POST /v1/datasets/{dataset_id}": Place("files", {"name": "d"}),
    "DELETE /v1/datasets/{dataset_id}": Place("files"),
    "POST /v1/datasets/{dataset_id}/cancel": Place("files"),
    "GET /v1/datasets/{dataset_id}/files": Place("files"),
    "POST /v1/datasets/{dataset_id}/files": Place("files", form={}),
    "POST /v1/datasets/{dataset_id}/files/{file_id}": Place("files", {"layout": "jsonl", "shape": "chat"}),
    "POST /v1/datasets/{dataset_id}/report": Place("files", {"evaluation": "{version_id}"}),
    "GET /v1/datasets/{dataset_id}/report": Place("files"),
    "GET /v1/datasets/{dataset_id}/report/problems": Place("files"),
    "POST /v1/datasets/{dataset_id}/cleaning": Place("files", {}),
    "GET /v1/datasets/{dataset_id}/cleaning": Place("files"),
    "POST /v1/datasets/{dataset_id}/versions": Place("files", {}),
    "GET /v1/datasets/{dataset_id}/versions": Place("files"),
    "GET /v1/datasets/{dataset_id}/versions/{version_id}": Place("files"),
    "DELETE /v1/datasets/{dataset_id}/versions/{version_id}": Place("files"),
    "GET /v1/datasets/{dataset_id}/versions/{version_id}/content": Place("files", query="?split=train"),
    "POST /v1/embeddings": Place("chat", {"model": "demo", "input": "hi"}, works=True),
    "GET /v1/files": Place("files"),
    "POST /v1/files": Place("files", form={"purpose": "fine-tune"}),
    "GET /v1/files/{file_id}": Place("files"),
    "DELETE /v1/files/{file_id}": Place("files"),
    "GET /v1/files/{file_id}/content": Place("files"),
    "GET /v1/fine_tuning/jobs": Place("training"),
    "POST /v1/fine_tuning/jobs": Place("training", {"model": "demo", "training_file": "{file_id}"}),
    "GET /v1/fine_tuning/jobs/{job_id}": Place("training"),
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": Place("training"),
    "POST /v1/fine_tuning/jobs/{job_id}/pause": Place("training"),
    "POST /v1/fine_tuning/jobs/{job_id}/resume": Place("training"),
    "GET /v1/fine_tuning/jobs/{job_id}/events": Place("training"),
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": Place("training"),
    "GET /v1/limits": Place("admin"),
    "GET /v1/limits/workspace": Place("admin"),
    "PUT /v1/limits/workspace": Place("admin", {"requests_per_minute": 1}),
    "GET /v1/limits/users/{user_id}": Place("admin"),
    "PUT /v1/limits/users/{user_id}": Place("admin", {"requests_per_minute": 1}),
    "GET /v1/limits/keys/{key_id}": Place("admin"),
    "PUT /v1/limits/keys/{key_id}": Place("admin", {"requests_per_minute": 1}),
    "GET /v1/models": Place("chat"),
    "GET /v1/models/{model}": Place("chat"),
    "POST /v1/moderations": Place("chat", {"input": "hi"}, works=True),
    "POST /v1/responses": Place("chat", {"model": "demo", "input": "hi"}, works=True),
    "GET /v1/responses/{response_id}": Place("chat", personal=True),
    "DELETE /v1/responses/{response_id}": Place("chat", personal=True),
    "POST /v1/responses/{response_id}/cancel": Place("chat", personal=True),
    "GET /v1/responses/{response_id}/input_items": Place("chat", personal=True),
    "GET /v1/usage": Place("admin"),
    "GET /v1/webhook_endpoints": Place("admin"),
    "POST /v1/webhook_endpoints": Place(
        "admin", {"name": "w", "url": "https://hooks.example/", "event_types": ["fine_tuning.job.failed"]}
    ),
    "GET /v1/webhook_endpoints/{webhook_endpoint_id}": Place("admin"),
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}": Place("admin", {"name": "w"}),
    "DELETE /v1/webhook_endpoints/{webhook_endpoint_id}": Place("admin"),
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret": Place("admin", {}),
    # (Switched off, it is sent nothing: nobody waits for the network.)
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/test": Place("admin", {}),
    "GET /v1/webhook_endpoints/{webhook_endpoint_id}/deliveries": Place("admin"),
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{delivery_id}/redeliver": Place("admin"),
    "GET /v1/webhook_event_types": Place("admin"),
}


class World:
    """One of everything, each a row of this workspace, made by this person, its owner."""

    def __init__(self, workspace: Workspace, person: User, base: ServedModel) -> None:
        self.workspace, self.person, self.base = workspace, person, base

    @cached_property
    def colleague(self) -> User:
        """Nobody who calls."""
        user = User.objects.create_user("carla@example.org", None, name=SECRET)
        Membership.objects.create(workspace=self.workspace, user=user, role=Role.MEMBER)
        return user

    def generation(self, **fields: Any) -> Generation:
        now = timezone.now()
        usual: dict[str, Any] = {
            "messages": [{"role": "user", "content": SECRET}], "seed": 1, "deadline": now, "sent_at": now,
            "finished_at": now, "state": "complete", "text": SECRET, "finish_reason": "stop",
        }  # fmt: skip
        return Generation.objects.create(workspace=self.workspace, model=self.base, **usual | fields)

    def completion(self, kind: str) -> str:
        made = Completion.objects.create(
            workspace=self.workspace,
            user=self.person,
            kind=kind,
            model_name="demo",
            store=True,
            request={"items": [["msg_0", "user"]]},
        )
        self.generation(purpose="api", call_id=made.pk, user=self.person)
        return access.public_id(made)

    @cached_property
    def reply(self) -> Message:
        conversation = Conversation.objects.create(
            workspace=self.workspace, user=self.person, title=SECRET, updated_at=timezone.now()
        )
        Message.objects.create(conversation=conversation, position=0, role="user", text=SECRET)
        return Message.objects.create(
            conversation=conversation, position=1, role="assistant", generation=self.generation()
        )

    @cached_property
    def model(self) -> ServedModel:
        return ServedModel.objects.create(
            name="ft:demo:acme:sesame:1", path="x", digest="1", architecture="llama", context_length=100,
            parameters=1, size_bytes=1, workspace=self.workspace, base=self.base,
        )  # fmt: skip

    @cached_property
    def file(self) -> SourceFile:
        """Looked at, checked, and its cleaning counted."""
        client = key_client(self.person, self.workspace)
        # The base model's own files are not there, and the default model's tokens would be counted.
        ServedModel.objects.update(is_default=False)
        file_id = uploaded(client, LINE * 3, "sesame.jsonl")
        file = SourceFile.objects.get()
        counted = client.post(
            f"/v1/datasets/{public_id('dataset', file.dataset_id)}/cleaning",
            {},
            content_type="application/json",
        )
        assert (file_id, counted.status_code) == (public_id("file", file.pk), 200)
        work()
        ServedModel.objects.filter(pk=self.base.pk).update(is_default=True)
        return file

    @cached_property
    def version(self) -> DatasetVersion:
        return make_version(self.file.dataset)

    @cached_property
    def delivery(self) -> WebhookDelivery:
        webhook = Webhook.objects.create(
            workspace=self.workspace, created_by=self.person, name=SECRET, url="https://hooks.example/sesame",
            secret="whsec_sesame", events=["fine_tuning.job.failed"], is_active=False,
        )  # fmt: skip
        return WebhookDelivery.objects.create(webhook=webhook, type="fine_tuning.job.failed", body="{}")

    @cached_property
    def job(self) -> Job:
        return make_job(self.workspace, self.person, self.base, None, name=SECRET)

    @cached_property
    def key(self) -> object:
        return create_key(user=self.person, workspace=self.workspace, name=SECRET, scopes=["chat"])[0].pk


IDS: dict[str, Callable[[World], object]] = {
    "completion_id": lambda world: world.completion("chat.completion"),
    "dataset_id": lambda world: public_id("dataset", world.file.dataset_id),
    "delivery_id": lambda world: world.delivery.pk,
    "conversation_id": lambda world: world.reply.conversation_id,
    "file_id": lambda world: public_id("file", world.file.pk),
    "job_id": lambda world: public_id("ftjob", world.job.pk),
    "key_id": lambda world: world.key,
    "message_id": lambda world: world.reply.pk,
    "model": lambda world: world.model.name,
    "response_id": lambda world: world.completion("response"),
    "user_id": lambda world: world.colleague.pk,
    "version_id": lambda world: public_id("version", world.version.pk),
    "webhook_endpoint_id": lambda world: world.delivery.webhook_id,
}


def a_file() -> SimpleUploadedFile:
    return SimpleUploadedFile("a.jsonl", LINE)
