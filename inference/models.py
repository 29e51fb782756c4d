"""What is served and what was asked: the rows behind every reply. The web process reads them without torch."""

from __future__ import annotations

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models

from inference import model_storage
from webapp.accounts.models import ApiKey, User, Workspace
from webapp.core import clock, shared_storage
from webapp.core.request_ids import MAX_LENGTH

# Who used a usage row's tokens, where no person or key did.
NOBODY = uuid.UUID(int=0)


class ServedModel(models.Model):
    """A model this site can answer with: a GGUF file or a Hugging Face folder on this machine, or an adapter to one.

    What came of a workspace's own training is that workspace's; everything else is everybody's.
    """

    class Kind(models.TextChoices):
        """What it does with what it is given."""

        CHAT = "chat"  # answers messages
        TEXT = "text"  # has no chat template: goes on with a text
        CLASSIFIER = "classifier"  # judges a text: probabilities of labels, or a number

    name = models.CharField(
        max_length=200, unique=True
    )  # "smollm2-135m-instruct", "ft:BASE:WORKSPACE:SUFFIX:ID"
    workspace = models.ForeignKey(
        Workspace, on_delete=models.CASCADE, null=True, related_name="served_models"
    )  # None: everybody's
    # Of an adapter: the model it changes, whose architecture, context length and parameters are named here, too.
    # RESTRICT, not PROTECT: a workspace goes with both its models and the adapters made for them.
    base = models.ForeignKey("self", on_delete=models.RESTRICT, null=True, related_name="adapters")
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.CHAT)
    # Absolute, or relative to $FLYWHEEL_HOME/models; of a workspace's own: relative to $FLYWHEEL_HOME.
    path = models.CharField(max_length=500)
    # In the shared storage: the digest of its manifest (`webapp.core.contents`). "": it is on one host only.
    manifest = models.CharField(max_length=64, default="", blank=True)
    digest = models.CharField(max_length=64)  # SHA-256 of the content: what "exactly this model" means
    architecture = models.CharField(max_length=40)
    context_length = models.PositiveIntegerField()  # tokens, prompt and answer together
    parameters = models.PositiveBigIntegerField()
    size_bytes = models.PositiveBigIntegerField()
    is_default = models.BooleanField(default=False)  # what conversations use
    # An earlier state of what a workspace trained: programs ask it by its name, and pages do not offer it.
    is_checkpoint = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    # Its files are gone; the row stays for the replies it gave, which name it.
    removed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-is_default", "created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"], condition=models.Q(is_default=True), name="one_default_model"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def location(self) -> Path:
        """Where its files are on this host, once `local_models.hold` has them there."""
        return model_storage.cache().path(self.manifest) if self.is_stored else self.original

    @property
    def original(self) -> Path:
        """Where its files lay before there was a storage that all hosts share, on the host that had them."""
        return Path(settings.FLYWHEEL_HOME if self.workspace_id else settings.MODELS_DIR) / self.path

    @property
    def kept(self) -> model_storage.Kept:
        """Of a workspace's own: where it is kept."""
        return model_storage.Kept(self.path, self.manifest)

    @property
    def is_stored(self) -> bool:
        """Whether it comes from the storage that all hosts share."""
        return bool(self.manifest) and shared_storage.is_shared()

    @property
    def whole_id(self) -> int:
        """The whole model that an engine has for it."""
        return self.base_id or self.pk

    @property
    def label(self) -> str:
        """What people call it: of "ft:BASE:WORKSPACE:SUFFIX:ID" the suffix."""
        parts = self.name.split(":")
        return ":".join(parts[3:-1]) if parts[0] == "ft" and len(parts) > 4 else self.name

    @property
    def is_served(self) -> bool:
        """Whether workers answer with it: adapters are taken as they are asked for, and so are other models than the
        default one, where a worker may have more than one."""
        whole = self.base or self
        is_there = self.removed_at is None and whole.removed_at is None
        return is_there and (whole.is_default or settings.INFERENCE_MAX_MODELS > 1)


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> WorkerQuerySet:
        """Those whose lease runs."""
        return self.filter(lease_expires_at__gt=clock.now())


class Worker(models.Model):
    """An inference worker process and its lease. Its generations are its own while the lease runs."""

    class State(models.TextChoices):
        LOADING = "loading"
        READY = "ready"
        BROKEN = "broken"  # its model cannot be loaded; `error` says why
        STOPPING = "stopping"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    hostname = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.LOADING)
    model = models.CharField(max_length=200, blank=True)
    # Ids of the whole models it serves, with all adapters to them; None: any.
    serves = models.JSONField(null=True)
    error = models.TextField(blank=True)
    # Both on the clock of `webapp.core.clock`.
    started_at = models.DateTimeField(default=clock.now)
    lease_expires_at = models.DateTimeField(db_index=True)

    objects = WorkerQuerySet.as_manager()


class Generation(models.Model):
    """One prompt and the text a model made of it. Its state changes only by compare-and-set in `inference`."""

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        COMPLETE = "complete"
        CANCELLED = "cancelled"  # someone pressed stop; the text so far is kept
        FAILED = "failed"  # our fault; error_code and error_message say what
        REFUSED = "refused"  # never admitted: too long, bad parameters
        INTERRUPTED = "interrupted"  # its workers died three times; the text so far is kept

    TERMINAL = (State.COMPLETE, State.CANCELLED, State.FAILED, State.REFUSED, State.INTERRUPTED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="generations")
    # Whose it is, for usage and limits. None: nobody's, as a visitor's of a widget, or somebody's who is gone.
    user = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+")
    # "reply", "title", "api", "embedding", "classification", "widget"
    purpose = models.CharField(max_length=20, default="reply")
    # RESTRICT, not PROTECT: a workspace goes with both its models and what they said.
    model = models.ForeignKey(ServedModel, on_delete=models.RESTRICT, related_name="+")
    # The input is `messages`, or where it does not go through a chat template, `prompt`.
    messages = models.JSONField(default=list)  # [{"role": "system"|"user"|"assistant", "content": str}]
    prompt = models.JSONField(null=True)  # a text, or a list of token ids
    # Of the choices an API call asked for: the call, and which of them this is.
    call_id = models.UUIDField(null=True, db_index=True)
    choice = models.PositiveIntegerField(default=0)
    # What asked for it, as logs name it everywhere: an HTTP request, or a socket's command. (With a default in the
    # database, since during an upgrade processes that do not know of it go on adding rows.)
    request_id = models.CharField(max_length=MAX_LENGTH, blank=True, default="", db_default="")
    params = models.JSONField(
        default=dict
    )  # the fields of inference.parameters.SamplingParams that were given
    seed = models.BigIntegerField()

    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    worker = models.ForeignKey(Worker, on_delete=models.SET_NULL, null=True, related_name="generations")
    attempt = models.PositiveIntegerField(default=0)  # fencing number: grows with every claim
    crashes = models.PositiveIntegerField(default=0)  # claims whose worker's lease ran out
    cancel_requested = models.BooleanField(default=False)
    deadline = models.DateTimeField()
    # When its task was last sent; the reaper sends it again if nobody claims it.
    sent_at = models.DateTimeField()

    text = models.TextField(blank=True)
    # What was asked for besides the text: "logprobs", "prompt_logprobs", "embedding", "scores" (see
    # inference.extras). Of a refused one that is too long: "prompt_tokens", "context_length".
    extras = models.JSONField(default=dict)
    finish_reason = models.CharField(max_length=20, blank=True)  # "stop", "length"
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    prompt_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(
        default=0, db_default=0
    )  # of the prompt's, those that need not be computed
    completion_tokens = models.PositiveIntegerField(default=0)
    model_digest = models.CharField(max_length=64, blank=True)  # of what really answered
    created_at = models.DateTimeField(auto_now_add=True)
    admitted_at = models.DateTimeField(null=True)
    first_token_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            # Of all, although only the unfinished are looked for: SQLite would use one of those alone where a query
            # says the same condition, word for word, and read the whole table for `state = 'queued'`.
            models.Index(fields=["state", "sent_at"], name="generation_by_state")
        ]

    @property
    def is_finished(self) -> bool:
        return self.state in self.TERMINAL

    def last_event(self) -> tuple[str, dict[str, object]]:
        """Type and data of the event that ends this generation's log, from the finished row."""
        if self.state == self.State.REFUSED:
            return "refused", {"code": self.error_code, "message": self.error_message, **self.extras}
        return "done", {
            "state": self.state,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "error_code": self.error_code,
            "error_message": self.error_message,
        }


class UsageDay(models.Model):
    """Tokens of one day (UTC), by who used them and which model made them. Added to in the transaction that ends a
    generation, so that each is counted once; it outlives generations, people, keys and models."""

    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="usage")
    day = models.DateField()
    user_id = models.UUIDField(default=NOBODY)
    api_key_id = models.UUIDField(default=NOBODY)
    model_name = models.CharField(max_length=200)
    source = models.CharField(max_length=12)  # "chat", "api", "widget"
    requests = models.PositiveBigIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "day", "user_id", "api_key_id", "model_name", "source"],
                name="usage_once",
            )
        ]
