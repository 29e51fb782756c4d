"""One example as a model reads it: token ids, and which of them are learnt. Knows nothing of torch or files.

The report's preview and the trainer both come here, so what is coloured is what is trained; the prompt's tokens are
those the engine serves with, from the same template and vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.text.chat_template import ChatTemplate
from inference.text.tokenizer import Tokenizer
from training.datasets.examples import Example


@dataclass(frozen=True)
class Encoded:
    ids: list[int]
    trained: list[bool]  # of each id: whether predicting it counts


class Encoder:
    """Thread-safe. Of a labelled text only the text is encoded: its label is the head's business."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self._tokenizer, self._template = tokenizer, template

    def encode(self, example: Example) -> Encoded:
        """Raises inference.text.template_host.TemplateError where the template refuses the messages."""
        raise NotImplementedError
