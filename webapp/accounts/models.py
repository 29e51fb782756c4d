"""People, the workspaces they share, and the record of what they did that matters for security."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save()
        return user

    def get_by_natural_key(self, email: str | None) -> User:
        return self.get(email__iexact=email)


class User(AbstractBaseUser, PermissionsMixin):
    """A person. They log in with their email address; `name` is what others see."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(max_length=254, unique=True)
    name = models.CharField(max_length=80, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    date_joined = models.DateTimeField(default=timezone.now)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="user_email_once")]

    def __str__(self) -> str:
        return self.email

    @property
    def display_name(self) -> str:
        return self.name or self.email.split("@")[0]


def display_name(user: User) -> str:
    """For allauth's pages and mail."""
    return user.display_name


class Role(models.TextChoices):
    """What a member may do; each role includes those below it."""

    OWNER = "owner", _("Owner")
    ADMIN = "admin", _("Admin")
    MEMBER = "member", _("Member")


class Workspace(models.Model):
    """A tenant: conversations, data, jobs and releases belong to exactly one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=80)
    # Mixed into prefix-cache keys, so that no tenant can probe another's cache by timing.
    cache_salt = models.UUIDField(default=uuid.uuid4, editable=False)
    members = models.ManyToManyField(User, through="Membership", related_name="workspaces")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.MEMBER)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["workspace", "user"], name="membership_once")]

    @property
    def is_admin(self) -> bool:
        return self.role in (Role.OWNER, Role.ADMIN)


class Invitation(models.Model):
    """A link that lets whoever holds it join a workspace, once, until it expires. Only its hash is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.MEMBER)
    email = models.EmailField(blank=True, help_text="If set, only a person with this address may accept.")
    token_hash = models.CharField(max_length=64, unique=True)
    invited_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)
    accepted_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")


class Scope(models.TextChoices):
    """What a key may be used for; what its person may not do, it may not either."""

    CHAT = "chat", _("Chat: ask models, read and write conversations")
    FILES = "files", _("Files: upload and read data")
    TRAINING = "training", _("Training: start and watch fine-tunes")
    ADMIN = "admin", _("Administration: usage, limits, webhooks")


class ApiKey(models.Model):
    """A program's way in: it acts as the person who made it, in one workspace. Only the key's hash is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="api_keys")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=80)
    prefix = models.CharField(
        max_length=16, unique=True
    )  # the key's beginning: finds the row, tells people which
    key_hash = models.CharField(max_length=64)  # SHA-256 of the whole key
    scopes = models.JSONField(default=list)  # of Scope
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)  # to the minute
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def is_open(self, now: datetime) -> bool:
        """Neither revoked nor expired. (Whether its person may still use it is for api_keys.find_key to say.)"""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


class LimitRule(models.Model):
    """What may be used: by a workspace as a whole, or by one of its people or keys. None: no limit of this kind."""

    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="limit_rules")
    user = models.ForeignKey(User, on_delete=models.CASCADE, null=True, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, null=True, related_name="+")
    requests_per_minute = models.PositiveIntegerField(null=True)
    tokens_per_minute = models.PositiveIntegerField(null=True)
    concurrent_streams = models.PositiveIntegerField(null=True)
    monthly_tokens = models.PositiveBigIntegerField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(user=None) | models.Q(api_key=None), name="limit_of_one_target"
            ),
            models.UniqueConstraint(
                fields=["workspace"],
                condition=models.Q(user=None, api_key=None),
                name="limit_of_workspace_once",
            ),
            models.UniqueConstraint(
                fields=["workspace", "user"],
                condition=models.Q(user__isnull=False),
                name="limit_of_person_once",
            ),
            models.UniqueConstraint(
                fields=["api_key"], condition=models.Q(api_key__isnull=False), name="limit_of_key_once"
            ),
        ]


class AuditEvent(models.Model):
    """A security-relevant act: who did what, when and from where. Never changed, and deleted
    only where RETENTION_AUDIT_DAYS says when."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(auto_now_add=True, db_index=True)
    action = models.CharField(max_length=60)  # "login", "login_failed", "member_removed", ...
    actor = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    workspace = models.ForeignKey(
        Workspace, on_delete=models.SET_NULL, null=True, related_name="audit_events"
    )
    ip = models.GenericIPAddressField(null=True)
    detail = models.JSONField(default=dict)
