"""What keeps this site from answering right now, as a sentence for the page. Knows nothing of a single reply."""

from __future__ import annotations

from django.utils.translation import gettext as _

from inference.models import ServedModel, Worker
from inference.serving import Workers, not_served, without_ready_worker


def trouble_with(model: ServedModel | None) -> str:
    """Why the model a conversation is to be with (None: the site's default) will not be what answers, or why what is
    sent now will be refused; "" where it will be answered."""
    if model is None or model.removed_at is not None:
        default = _default()
        said = [_gone(model) if model else "", _refusal(default) if default else ""]
        return " ".join(filter(None, said))
    if not model.is_served:
        return _(
            "“%(model)s” is not being served: this site answers with its own model and what was fine-tuned from that."
        ) % {"model": model.label}
    return _refusal(model)


def _gone(model: ServedModel) -> str:
    return _("“%(model)s” has been removed. The model of this site answers from here on.") % {
        "model": model.label
    }


def _refusal(model: ServedModel) -> str:
    return "" if Workers().serve(model.whole_id) else not_served(model).message


def note_on(model: ServedModel | None) -> str:
    """What to know of a model before one talks to it; "" where it talks as the others do."""
    if model is None or model.kind != ServedModel.Kind.TEXT:
        return ""
    return _(
        "“%(model)s” was trained on documents and holds no conversation: it goes on with what you write, and with all "
        "that stands above it."
    ) % {"model": model.label}


def obstacle(model: ServedModel | None) -> str:
    """Why a message to this model (None: the site's default) would have to wait now, and what to do; "" where a worker
    that serves it is ready, and where none would ever: that is `trouble_with` it."""
    default = _default()
    if default is None:
        return _("No model is installed yet. Whoever runs this site can add one: manage.py models pull.")
    whole = (default if model is None or model.removed_at is not None else model).whole_id
    if not without_ready_worker([whole]) or not Workers().serve(whole):
        return ""
    alive = Worker.objects.alive().only("state", "error", "serves")
    workers = {worker.state: worker for worker in alive if worker.serves is None or whole in worker.serves}
    if broken := workers.get(Worker.State.BROKEN):
        return _(
            "The model cannot be loaded: %(reason)s Whoever runs this site can look with manage.py doctor."
        ) % {"reason": broken.error}
    if Worker.State.LOADING in workers:
        return _("The model is being loaded. You can write already; the answer comes as soon as it is ready.")
    return _(
        "Nothing is here to answer right now. What you send waits, and is answered when a worker is back."
    )


def _default() -> ServedModel | None:
    return ServedModel.objects.filter(is_default=True).first()
