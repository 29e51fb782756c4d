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
from tests.training.job_pages.rows import make_job
from training import storage
from training.models import Dataset, Job, SourceFile
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import User, Workspace
from webapp.api import access
from webapp.api.ids import public_id
from webapp.api.models import Completion
from webapp.chat.models import Conversation, Message

LINE = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "secret"}]}\n'
SECRET = "secret"  # in whatever is seen of any row of World


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
    "GET /v1/usage": Place("admin"),
}


class World:
    """One of everything, each a row of this workspace, made by this person, its owner."""

    def __init__(self, workspace: Workspace, person: User, base: ServedModel) -> None:
        self.workspace, self.person, self.base = workspace, person, base

    def generation(self, **fields: Any) -> Generation:
        now = timezone.now()
        usual: dict[str, Any] = {
            "messages": [{"role": "user", "content": SECRET}], "seed": 1, "deadline": now, "sent_at": now,
            "finished_at": now, "state": "complete", "text": SECRET, "finish_reason": "stop",
        }  # fmt: skip
        return Generation.objects.create(workspace=self.workspace, model=self.base, **usual | fields)

    def completion(self, kind: str) -> str:
        made = Completion.objects.create(
            workspace=self.workspace, user=self.person, kind=kind, model_name="demo", store=True
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
            name="ft:demo:acme:secret:1", path="x", digest="1", architecture="llama", context_length=100,
            parameters=1, size_bytes=1, workspace=self.workspace, base=self.base,
        )  # fmt: skip

    @cached_property
    def file(self) -> SourceFile:
        dataset = Dataset.objects.create(workspace=self.workspace, created_by=self.person, name=SECRET)
        file = SourceFile.objects.create(
            dataset=dataset, name="secret.jsonl", size=len(LINE), received=len(LINE), received_at=timezone.now(),
            state="ready",
        )  # fmt: skip
        path = storage.source_path(file)
        path.parent.mkdir(parents=True)
        path.write_bytes(LINE)
        return file

    @cached_property
    def job(self) -> Job:
        return make_job(self.workspace, self.person, self.base, None, name=SECRET)

    @cached_property
    def key(self) -> object:
        return create_key(user=self.person, workspace=self.workspace, name=SECRET, scopes=["chat"])[0].pk


IDS: dict[str, Callable[[World], object]] = {
    "completion_id": lambda world: world.completion("chat.completion"),
    "conversation_id": lambda world: world.reply.conversation_id,
    "file_id": lambda world: public_id("file", world.file.pk),
    "job_id": lambda world: public_id("ftjob", world.job.pk),
    "key_id": lambda world: world.key,
    "message_id": lambda world: world.reply.pk,
    "model": lambda world: world.model.name,
    "user_id": lambda world: world.person.pk,
}


def a_file() -> SimpleUploadedFile:
    return SimpleUploadedFile("a.jsonl", LINE)
