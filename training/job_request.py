"""What is asked for when a fine-tune is begun, alone or as one of a search's. Knows nothing of what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from inference.models import ServedModel
from training.models import DatasetVersion
from webapp.accounts.models import User, Workspace
from webapp.core.request_ids import current_request_id


@dataclass(frozen=True)
class JobRequest:
    """`job_services.check_start` says what of it cannot be so."""

    user: User | None  # whose it is to be; None where they are gone
    workspace: Workspace
    version: DatasetVersion
    base: ServedModel | None  # scratch: none
    task: str
    name: str
    spec: dict[str, Any]  # the knobs that are not left as they are
    metadata: dict[str, str] = field(default_factory=dict)  # whatever a program notes of it
    id: UUID = field(default_factory=uuid4)  # the row's: what is asked for twice by one id is begun once

    @property
    def data_label(self) -> str:
        return f"{self.version.dataset.name}, {self.version.number}"

    def fields(self) -> dict[str, Any]:
        """Of a Job's row."""
        return {
            "id": self.id,
            "workspace": self.workspace,
            "created_by": self.user,
            "name": self.name,
            "task": self.task,
            "version": self.version,
            "data_label": self.data_label,
            "data_hash": self.version.content_hash,
            "base": self.base,
            "spec": self.spec,
            "metadata": self.metadata,
            "request_id": current_request_id(),
        }
