"""What keeps this site from answering right now, as a sentence for the page. Knows nothing of a single reply."""

from __future__ import annotations

from django.utils.translation import gettext as _

from inference.models import ServedModel, Worker


def trouble_with(model: ServedModel | None) -> str:
    """Why the model a conversation is to be with will not be what answers; "" where it will, and for the default."""
    if model is None or model.is_served:
        return ""
    if model.removed_at is not None:
        return _("“%(model)s” has been removed. The model of this site answers from here on.") % {
            "model": model.label
        }
    return _(
        "“%(model)s” is not being served: this site answers with its own model and what was fine-tuned from that."
    ) % {"model": model.label}


def note_on(model: ServedModel | None) -> str:
    """What to know of a model before one talks to it; "" where it talks as the others do."""
    if model is None or model.kind != ServedModel.Kind.TEXT:
        return ""
    return _(
        "“%(model)s” was trained on documents and holds no conversation: it goes on with what you write, and with all "
        "that stands above it."
    ) % {"model": model.label}


def obstacle() -> str:
    """Why a message sent now would have to wait, and what to do; "" where a worker is ready."""
    if not ServedModel.objects.filter(is_default=True).exists():
        return _("No model is installed yet. Whoever runs this site can add one: manage.py models pull.")
    alive = Worker.objects.alive().only("state", "error")
    workers = {worker.state: worker for worker in alive}
    if Worker.State.READY in workers:
        return ""
    if broken := workers.get(Worker.State.BROKEN):
        return _(
            "The model cannot be loaded: %(reason)s Whoever runs this site can look with manage.py doctor."
        ) % {"reason": broken.error}
    if Worker.State.LOADING in workers:
        return _("The model is being loaded. You can write already; the answer comes as soon as it is ready.")
    return _(
        "Nothing is here to answer right now. What you send waits, and is answered when a worker is back."
    )
