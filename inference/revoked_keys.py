"""What a key began ends when the key is revoked. Knows nothing of who reads the tokens: their streams end with them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.dispatch import receiver

from inference.models import Generation
from inference.services import cancel_generation
from webapp.accounts.api_keys import keys_revoked


@receiver(keys_revoked)
def end_what_they_began(sender: object, key_ids: list[UUID], **_: Any) -> None:
    unfinished = Generation.objects.filter(
        api_key__in=key_ids, state__in=(Generation.State.QUEUED, Generation.State.RUNNING)
    )
    for generation_id in unfinished.values_list("id", flat=True):
        cancel_generation(generation_id=generation_id)
