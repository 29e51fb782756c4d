"""The knobs of a training job as fields of a form, made from the trainer's own Spec. Knows no job and no request.

Types, defaults and ranges are Spec's; what is said here is what a person reads. A knob that Spec gains is offered under
its own name until it has words here.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from django import forms
from django.utils.formats import number_format
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from training.knobs import OURS
from training.trainer.spec import MODULES, RANGES, Lora, Spec

Words = Any  # a string, or one in the reader's language

# Not asked for as knobs: what the site itself says (`knobs.OURS`), and what the wizard's other fields do.
ELSEWHERE = {*OURS, "method", "lora", "prompts"}
FRONT = ("epochs", "learning_rate", "batch_size")
OF_SCRATCH = ("size", "vocabulary")
OF_FOLDS = ("folds", "fold")
GROUPS: list[tuple[Words, tuple[str, ...]]] = [
    (
        _("How it learns"),
        ("optimizer", "momentum", "schedule", "warmup", "learning_rate_multiplier", "max_steps", "patience"),
    ),
    (_("Against learning by heart"), ("weight_decay", "l1", "label_smoothing", "dropout", "max_grad_norm")),
    (_("The new model"), OF_SCRATCH),
    (_("The adapter"), ("lora.r", "lora.alpha", "lora.dropout", "lora.initialisation", "lora.rslora", "lora.targets")),
    (
        _("Time and memory"),
        ("max_length", "microbatch_tokens", "accumulation", "precision", "packing", "gradient_checkpointing"),
    ),
    (_("Labels"), ("class_weights", *OF_FOLDS)),
    (_("Checkpoints and samples"), ("checkpoint_every", "keep_checkpoints", "sample_tokens", "seed")),
]  # fmt: skip
WORDS: dict[str, tuple[Words, Words]] = {
    "epochs": (_("Epochs"), _("How often every example is seen.")),
    "max_steps": (_("Steps at most"), _("0: as many as the epochs have.")),
    "batch_size": (_("Batch size"), _("Examples that one step learns from.")),
    "accumulation": (_("Accumulation"), _("Passes a step is divided into at least: more need less memory.")),
    "microbatch_tokens": (_("Tokens of a pass"), _("At most: fewer need less memory.")),
    "max_length": (_("Longest example"), _("In tokens. What is beyond is cut off; documents are divided.")),
    "packing": (_("Several examples in one pass"), _("Faster, with the same result.")),
    "learning_rate": (_("Learning rate"), _("How far each step goes.")),
    "learning_rate_multiplier": (_("Learning rate times"), _("0.5: half of the rate that is set or chosen.")),
    "schedule": (_("Schedule"), _("How the learning rate falls.")),
    "warmup": (_("Warm-up"), _("The share of the steps in which the learning rate rises.")),
    "optimizer": (_("Optimizer"), _("How a step is made of the gradients.")),
    "momentum": (_("Momentum"), _("Of SGD: how much of the last step goes on.")),
    "weight_decay": (_("Weight decay"), _("Pulls weights towards zero.")),
    "l1": (_("L1 penalty"), _("Pushes weights that do little to zero.")),
    "label_smoothing": (_("Label smoothing"), _("Leaves some room for other answers than the right one.")),
    "max_grad_norm": (_("Gradient clipping"), _("Longer gradients are shortened to this. 0: none are.")),
    "precision": (_("Number format"), _("bf16 takes less memory, and is faster where the machine has it.")),
    "gradient_checkpointing": (_("Compute activations twice"), _("Less memory for about a third more time.")),
    "seed": (_("Seed"), _("The same seed on the same data learns the same.")),
    "checkpoint_every": (_("Checkpoint every"), _("So many steps. It is evaluated and asked the prompts then, too.")),
    "keep_checkpoints": (_("Checkpoints kept"), _("Beside the best one.")),
    "patience": (_("Patience"), _("Evaluations without a better one before it stops early. 0: it never does.")),
    "sample_tokens": (_("Length of sample answers"), _("In tokens.")),
    "dropout": (_("Dropout"), _("The share of what each block adds that is left out, by chance.")),
    "size": (_("Size"), _("Layers. Each makes the model 64 wider, too: twice the size is eight times the weights.")),
    "vocabulary": (_("Vocabulary"), _("How many different tokens it knows.")),
    "class_weights": (_("Weights of labels"), _("Balanced: as if all labels were equally common.")),
    "folds": (_("Cross-validation"), _("Parts the training split is divided into. 0: none.")),
    "fold": (_("Part held back"), _("From 1: it is judged by this part, and learns from the others.")),
    "lora.r": (_("Rank"), _("How much the adapter can hold.")),
    "lora.alpha": (_("Alpha"), _("How much weight the adapter has: alpha / rank.")),
    "lora.dropout": (_("Dropout"), _("The share of its input that it does without, by chance.")),
    "lora.initialisation": (_("How it begins"), _("Either way the model answers as before until it has learnt.")),
    "lora.rslora": (_("Divide by the rank's root (rsLoRA)"), _("For ranks above 64.")),
    "lora.targets": (_("Layers it changes"), ""),
}  # fmt: skip
_OF_THE_SITE: dict[str, Words] = {"device": _("Computes on"), "fsdp": _("Weights shared out over processes")}
_CHOICES: dict[str, Words] = {
    "auto": _("auto"),
    "constant": _("constant"),
    "linear": _("linear"),
    "cosine": _("cosine"),
    "adamw": "AdamW",
    "adam": "Adam",
    "default": _("as usual"),
    "gaussian": _("Gaussian"),
    "orthogonal": _("orthogonal"),
    "none": _("none"),
    "balanced": _("balanced"),
    "sgd": _("SGD with momentum"),
    "all": _("all layers"),
    "attention": _("attention"),
    "queries_values": _("queries and values"),
    "feed_forward": _("feed-forward"),
}

# Sets of layers that an adapter may change, by name: what a search chooses among.
TARGETS: dict[str, tuple[str, ...]] = {
    "all": MODULES,
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "queries_values": ("q_proj", "v_proj"),
    "feed_forward": ("gate_proj", "up_proj", "down_proj"),
}

_ANYTHING = 1e12  # a range up to here is not worth saying


@dataclass(frozen=True)
class Knob:
    name: str  # "epochs", "lora.r"
    type: Any
    default: Any

    @property
    def label(self) -> Words:
        return WORDS[self.name][0] if self.name in WORDS else self.name.replace("_", " ").capitalize()


def _knobs() -> dict[str, Knob]:
    found = [_knob(field, "") for field in msgspec.structs.fields(Spec) if field.name not in ELSEWHERE]
    found += [_knob(field, "lora.") for field in msgspec.structs.fields(Lora)]
    return {knob.name: knob for knob in found}


def _knob(field: msgspec.structs.FieldInfo, prefix: str) -> Knob:
    made = field.default_factory
    default = made() if callable(made) else field.default
    return Knob(prefix + field.name, field.type, default)


KNOBS = _knobs()


def label_of(name: str) -> Words:
    """What a knob is called where people read of it."""
    if name in KNOBS:
        return KNOBS[name].label
    return _OF_THE_SITE.get(name) or name.replace("_", " ").capitalize()


def groups(names: set[str]) -> list[tuple[Words, list[str]]]:
    """The knobs among `names` that are not up front, by what they are about; those without a group come last."""
    grouped = [(label, [name for name in group if name in names]) for label, group in GROUPS]
    placed = {*FRONT, *(name for _label, group in GROUPS for name in group)}
    grouped.append((_("More"), [name for name in KNOBS if name in names - placed]))
    return [(label, group) for label, group in grouped if group]


def field_of(knob: Knob) -> forms.Field:
    help_text = WORDS.get(knob.name, ("", ""))[1]
    arguments: dict[str, Any] = {"label": knob.label, "required": False}
    if knob.type is bool:
        return forms.BooleanField(**arguments, help_text=help_text, initial=knob.default)
    if get_origin(knob.type) is list:
        choices = [(name, name) for name in MODULES]
        return forms.MultipleChoiceField(
            **arguments, choices=choices, initial=knob.default, widget=forms.CheckboxSelectMultiple
        )
    if get_origin(knob.type) is Literal:
        named = [(value, choice_label(value)) for value in get_args(knob.type)]
        return forms.ChoiceField(**arguments, choices=named, initial=knob.default, help_text=help_text)
    return _number(knob, help_text, arguments)


def choices_of(knob: Knob) -> list[Any]:
    """All values of a knob that is not a number; of layers, the names of sets of them."""
    if knob.name == "lora.targets":
        return list(TARGETS)
    return [True, False] if knob.type is bool else list(get_args(knob.type))


def choice_label(value: object) -> Words:
    """What a choice is called where people read of it."""
    return _CHOICES.get(value, value) if isinstance(value, str) else value


def _number(knob: Knob, help_text: Words, arguments: dict[str, Any]) -> forms.Field:
    """An empty one is the default: what is chosen for the data, where that is "auto"."""
    kinds = get_args(knob.type) if get_origin(knob.type) in (Union, UnionType) else (knob.type,)
    low, high = RANGES.get(knob.name, (None, None))
    if low is not None and high is not None and high < _ANYTHING:
        between = format_lazy(_("From {low} to {high}."), low=_said(low), high=_said(high))
        help_text = format_lazy("{} {}", help_text, between)
    field: forms.IntegerField
    if float in kinds:
        field = forms.FloatField(**arguments, help_text=help_text, min_value=low, max_value=high)
    else:
        lowest, highest = (None if limit is None else int(limit) for limit in (low, high))
        field = forms.IntegerField(**arguments, help_text=help_text, min_value=lowest, max_value=highest)
    if knob.default == "auto":
        field.widget.attrs["placeholder"] = _("auto")
    else:
        field.initial = int(knob.default) if knob.default == int(knob.default) else knob.default
    return field


def _said(limit: float) -> str:
    return number_format(Decimal(f"{limit:.8f}").normalize(), force_grouping=True)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The cleaned values of a form as a job's spec: only what is not the default, LoRA's in a place of its own."""
    spec: dict[str, Any] = {}
    for name, knob in KNOBS.items():
        value = values.get(name)
        if name not in values or value in (None, "") or value == knob.default:
            continue
        holder = spec.setdefault("lora", {}) if name.startswith("lora.") else spec
        holder[name.removeprefix("lora.")] = value
    return spec


def values_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The other way round: what a form shows of a job's spec."""
    lora = {f"lora.{name}": value for name, value in spec.get("lora", {}).items()}
    return {name: value for name, value in (spec | lora).items() if name in KNOBS and value != "auto"}
