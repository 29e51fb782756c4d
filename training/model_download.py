"""What a fine-tune made, as a ZIP archive: an adapter as PEFT reads it, or a model of the kind it began with."""

from __future__ import annotations

import logging
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET
from zipstream import ZipStream

from inference import model_storage
from training import access
from webapp.accounts.requests import person
from webapp.core.downloads import attachment
from webapp.core.errors import NotFound, UserError
from webapp.core.shared_storage import StorageError

logger = logging.getLogger(__name__)


@never_cache
@login_required
@require_GET
def model(request: HttpRequest, job_id: UUID) -> StreamingHttpResponse:
    """Read as it is sent, and as long as it was said to be. Raises NotFound, and UserError `model_not_there`."""
    job = access.get_job(person(request), job_id)
    if job.model is None or job.model.removed_at is not None:
        raise NotFound(_("That model"))
    name = f"{'adapter' if job.model.base_id else 'model'}-{job.pk.hex[:8]}"
    archive = ZipStream(sized=True)
    try:
        for file in model_storage.stored_files(model_storage.Kept(job.model.path, job.model.manifest)):
            archive.add(file.pieces, f"{name}/{file.name}", size=file.size)
    except (StorageError, OSError) as error:
        logger.error("%s cannot be downloaded: %s", job.model.name, error)
        message = _("The files of this model cannot be read right now. Tell whoever runs this site.")
        raise UserError("model_not_there", message, status=503) from error
    return attachment(iter(archive), name=f"{name}.zip", size=len(archive), content_type="application/zip")
