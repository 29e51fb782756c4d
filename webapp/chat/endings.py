"""How a reply ended, as a sentence in the reader's language. Knows nothing of pages.

Workers write what went wrong in English, next to a code; where the code says enough, the sentence is ours.
"""

from __future__ import annotations

import re

from django.utils.translation import gettext as _

from inference.models import Generation

State = Generation.State
# excess, size, and most, as `inference.engine.prompt` writes them.
_TOO_LONG = re.compile(r"(\d+) tokens too long: it has (\d+), and the model reads at most (\d+)")


def ending(generation: Generation) -> tuple[str, bool]:
    """What a person should know about how it ended, and whether that is an error; "" for an ordinary end."""
    match generation.state:
        case State.CANCELLED:
            return _("You stopped this reply."), False
        case State.FAILED | State.REFUSED:
            return _trouble(generation), True
        case State.INTERRUPTED:
            return _("This reply broke off. What was written is kept; try again for a whole one."), True
        case State.COMPLETE if generation.finish_reason == "length":
            return _("This reply reached its length limit. Ask it to go on."), False
        case State.COMPLETE if not generation.text.strip():
            return _("The model had nothing to say. Try again, or say it differently."), True
    return "", False


def _trouble(generation: Generation) -> str:
    recorded = generation.error_message
    match generation.error_code:
        case "prompt_too_long" if numbers := _TOO_LONG.search(recorded):
            excess, size, most = (f"{int(number):,}" for number in numbers.groups())
            return _(
                "This message is %(excess)s tokens too long: it has %(size)s, and the model reads at most %(most)s. "
                "Shorten it, or send it in parts."
            ) % {"excess": excess, "size": size, "most": most}
        case "deadline_exceeded" if generation.text:
            return _("This reply took too long and was stopped. What was written so far is kept.")
        case "deadline_exceeded":
            return _("No model worker was free in time. Try again in a moment.")
        case "model_unavailable" if recorded:
            return _("The model cannot answer right now: %(reason)s") % {"reason": recorded}
        case "engine_error":
            return _(
                "The model broke off because of an error on our side. What was written so far is kept; try again."
            )
    return recorded or _("Something went wrong on our side. Try again.")
