"""Conversations and their messages. A reply's text lives in its Generation, never twice."""

from __future__ import annotations

import uuid

from django.db import models

from inference.models import Generation, ServedModel
from webapp.accounts.models import User, Workspace


class Conversation(models.Model):
    """A thread between one person and a model, inside a workspace. Only that person sees it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="conversations")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="conversations")
    title = models.CharField(max_length=120)
    # "first_words" until the model has named it; a title the person typed is never replaced.
    title_source = models.CharField(max_length=12, default="first_words")  # "first_words", "model", "person"
    title_generation = models.OneToOneField(
        Generation, on_delete=models.SET_NULL, null=True, related_name="titled_conversation"
    )
    model = models.ForeignKey(
        ServedModel, on_delete=models.SET_NULL, null=True, related_name="+"
    )  # None: the site's default
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField()  # of the last message: the list is ordered by it

    class Meta:
        indexes = [models.Index(fields=["user", "workspace", "-updated_at"], name="conversation_list")]


class Message(models.Model):
    """One turn. A user's message has `text`; a reply has a `generation`, whose text and state are the reply's."""

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    position = models.PositiveIntegerField()  # dense from 0 within the conversation
    role = models.CharField(max_length=10, choices=Role.choices)
    text = models.TextField(blank=True)
    generation = models.OneToOneField(
        Generation, on_delete=models.RESTRICT, null=True, related_name="chat_message"
    )
    # Chosen by the browser, so that a message sent again after a lost acknowledgement is not stored twice.
    client_id = models.UUIDField(null=True, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["conversation", "position"], name="message_position_once"),
        ]
