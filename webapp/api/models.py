"""What programs asked for, and what the site tells programs: rows only the API reads and writes."""

from __future__ import annotations

import uuid

from django.db import models

from webapp.accounts.models import ApiKey, User, Workspace
from webapp.core import clock


class Completion(models.Model):
    """One answer of an endpoint that asks a model: its choices, or what each of its inputs was read for, are the
    generations whose `call_id` is its id. One that was not to be stored goes, with them, once nobody can resume it."""

    class Kind(models.TextChoices):
        CHAT = "chat.completion"
        TEXT = "text_completion"
        RESPONSE = "response"
        EMBEDDING = "embedding"
        MODERATION = "moderation"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="completions")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    model_name = models.CharField(max_length=200)  # as it was asked for
    request = models.JSONField(default=dict)  # what of the request its answer repeats
    metadata = models.JSONField(default=dict)
    store = models.BooleanField(default=False)
    previous = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        indexes = [
            models.Index(fields=["created_at"], condition=models.Q(store=False), name="completion_passing")
        ]


class IdempotentRequest(models.Model):
    """A POST that came with an Idempotency-Key, and its answer, for whoever sends it again."""

    id = models.BigAutoField(primary_key=True)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="+")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)  # SHA-256 of method, path and body
    status = models.PositiveIntegerField(null=True)  # None: it is being worked on
    body = models.TextField(blank=True)
    # Where the answer is a stream: what to follow instead of repeating a body.
    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, null=True, related_name="+")
    created_at = models.DateTimeField(default=clock.now, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace", "user", "key"], name="idempotency_key_once")
        ]


class Webhook(models.Model):
    """An address of a customer's that is told of events, each signed with its secret (Standard Webhooks)."""

    class Off(models.TextChoices):
        """Why it is switched off."""

        NOT = ""
        PERSON = "person"  # somebody did it
        GONE = "gone"  # its server answered 410
        FAILING = "failing"  # for days nothing arrived

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="webhooks")
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    name = models.CharField(max_length=80)
    url = models.URLField(max_length=500)
    secret = models.CharField(max_length=80)  # "whsec_" and base64: it signs, so it cannot be kept as a hash
    # The one before it signs, too, for as long as the receiver may take to change it.
    previous_secret = models.CharField(max_length=80, blank=True)
    previous_until = models.DateTimeField(null=True)
    events = models.JSONField(default=list)  # types, as "fine_tuning.job.succeeded"
    is_active = models.BooleanField(default=True)
    off_because = models.CharField(max_length=8, choices=Off.choices, default=Off.NOT, blank=True)
    failing_since = models.DateTimeField(null=True)  # when the first event did not arrive that none has since
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now_add=True)  # when a person last changed it

    class Meta:
        ordering = ["created_at", "id"]

    @property
    def secret_hint(self) -> str:
        """Enough to tell one from another."""
        return f"whsec_…{self.secret.rstrip('=')[-4:]}"


class WebhookDelivery(models.Model):
    """One event on its way to one address; the log of what was tried."""

    class State(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        FAILED = "failed"  # given up

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)  # the webhook-id header
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    type = models.CharField(max_length=60)
    body = models.TextField()  # JSON, exactly as it is signed
    is_test = models.BooleanField(default=False)  # tried once, and its failure counts for nothing
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(null=True, db_index=True)  # when it is tried next; None: never
    status = models.PositiveIntegerField(null=True)  # of the last answer
    # Of the last attempt: an English sentence that pages translate.
    error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    tried_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "-id"]

    @property
    def is_under_way(self) -> bool:
        """An attempt has begun of which nothing is known yet."""
        return self.state == self.State.PENDING and self.attempts > 0 and not (self.status or self.error)


class Widget(models.Model):
    """A chat bubble on a customer's site: which pages may show it, who answers in it, and how much."""

    id = models.UUIDField(
        primary_key=True, default=uuid.uuid4, editable=False
    )  # public: it is in the script tag
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="widgets")
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    name = models.CharField(max_length=80)
    origins = models.JSONField(default=list)  # ["https://shop.example"]
    model = models.ForeignKey(
        "inference.ServedModel", on_delete=models.SET_NULL, null=True, related_name="+"
    )  # None: the site's default
    instructions = models.TextField(blank=True)  # the system message of its conversations
    greeting = models.CharField(max_length=300, blank=True)
    theme = models.CharField(max_length=5, default="auto")  # "auto", "light", "dark"
    accent = models.CharField(max_length=7, blank=True)  # "#1f6feb"
    messages_per_hour = models.PositiveIntegerField(default=30)  # of one visitor
    messages_per_day = models.PositiveIntegerField(default=1000)  # of all
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at", "id"]


class WidgetSession(models.Model):
    """An anonymous visitor's conversation. `turns` are the messages so far; the last answer is a generation's."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    widget = models.ForeignKey(Widget, on_delete=models.CASCADE, related_name="sessions")
    token_hash = models.CharField(max_length=64, unique=True)  # the visitor's browser holds the token
    created_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField(db_index=True)


class WidgetMessage(models.Model):
    """One turn: a visitor's text, or the generation that answers."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(WidgetSession, on_delete=models.CASCADE, related_name="messages")
    position = models.PositiveIntegerField()
    text = models.TextField(blank=True)
    generation = models.OneToOneField(
        "inference.Generation", on_delete=models.CASCADE, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["session", "position"], name="widget_message_position_once")
        ]
