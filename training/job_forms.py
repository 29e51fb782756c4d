"""The three forms that begin a fine-tune: what is learnt from, by which model and how, and with which knobs."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import Any, NamedTuple

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from inference.models import ServedModel
from training import knob_fields, storage
from training.datasets.examples import ChatExample, Example, TranslationExample
from training.datasets.frozen import read_split
from training.datasets.problems import DataError
from training.knobs import tasks_for
from training.models import DatasetVersion, Job
from training.overview import doubts_of
from webapp.accounts.models import Workspace

MOST_VERSIONS = 200
MOST_PROMPTS = 8  # each is answered at every checkpoint, twenty tokens a second on a small machine
_MOST_PROMPT = 2000  # characters
_MOST_KEPT = 20_000  # of what stands in a field
_SHOWN_PROMPTS, _LOOKED_AT, _GLANCE = 3, 20, 200
PROMPTLESS = (Job.Task.CLASSIFICATION, Job.Task.REGRESSION)  # what they learn answers nothing
# Knobs that mean nothing for the other tasks; the trainer refuses most of them there.
_ONLY_FOR: dict[str, tuple[Job.Task, ...]] = {
    "sample_tokens": tuple(task for task in Job.Task if task not in PROMPTLESS),
    "label_smoothing": tuple(task for task in Job.Task if task != Job.Task.REGRESSION),
    "class_weights": (Job.Task.CLASSIFICATION,),
}
METHODS: dict[str, Any] = {
    "lora": _("An adapter (LoRA): little memory, and the base model stays as it is"),
    "full": _("All weights: more can change, for several times the memory"),
}


class Offer(NamedTuple):
    """A version and what can be learnt from it."""

    version: DatasetVersion
    choices: list[tuple[str, Any]]  # "VERSION:TASK" and the task's name
    doubts: list[str]  # sentences about its splits


def offers(workspace: Workspace) -> list[Offer]:
    """The workspace's frozen versions, the newest first; what nothing can be learnt from is left out."""
    versions = DatasetVersion.objects.filter(
        dataset__workspace=workspace, state=DatasetVersion.State.READY, train__gt=0
    ).select_related("dataset")
    found = []
    for version in versions.order_by("-created_at", "-number")[:MOST_VERSIONS]:
        tasks = tasks_for(version)
        choices = [(f"{version.pk}:{task}", task.label) for task in tasks]
        if choices:
            found.append(Offer(version, choices, doubts_of(version)))
    return found


class DataForm(forms.Form):
    """One choice, of a version and of what to learn from it: no pair can be chosen that does not fit."""

    source = forms.ChoiceField(
        label=_("Data"),
        widget=forms.RadioSelect,
        error_messages={
            "required": _("Choose what it learns from."),
            "invalid_choice": _("That version is gone, or cannot be learnt from this way. Choose another."),
        },
    )  # fmt: skip

    def __init__(self, data: Any = None, *, offers: list[Offer], initial: dict[str, Any]) -> None:
        super().__init__(data, initial=initial)
        self.offers = offers
        field = self.fields["source"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [choice for offer in offers for choice in offer.choices]

    @property
    def cards(self) -> list[tuple[Offer, list[forms.boundfield.BoundWidget]]]:
        """Each version with its buttons."""
        buttons = iter(self["source"])
        return [(offer, [next(buttons) for _choice in offer.choices]) for offer in self.offers]


class MethodForm(forms.Form):
    """By which model, and how much of it changes. What is learnt from scratch has a SizeForm."""

    base = forms.ModelChoiceField(
        ServedModel.objects.none(), label=_("Base model"), empty_label=None, to_field_name="pk"
    )
    method = forms.ChoiceField(label=_("Method"), widget=forms.RadioSelect, choices=[*METHODS.items()])

    def __init__(self, data: Any = None, *, initial: dict[str, Any]) -> None:
        super().__init__(data, initial={"method": "lora"} | initial)
        field = self.fields["base"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = bases()

    def spec(self) -> dict[str, Any]:
        method = self.cleaned_data["method"]
        return {} if method == "lora" else {"method": method}


class Dial(forms.NumberInput):
    """A slider; the page says the number beside it."""

    input_type = "range"


class SizeForm(forms.Form):
    """What stands there instead for a model from scratch."""

    def __init__(self, data: Any = None, *, initial: dict[str, Any]) -> None:
        super().__init__(data, initial=initial)
        for name in knob_fields.OF_SCRATCH:
            self.fields[name] = knob_fields.field_of(knob_fields.KNOBS[name])
        size = self.fields["size"]
        limits = size.widget.attrs  # min, max
        size.widget = Dial(limits)

    def spec(self) -> dict[str, Any]:
        return knob_fields.given(self.cleaned_data)


def second_form(task: str, data: Any, *, initial: dict[str, Any]) -> MethodForm | SizeForm:
    return (SizeForm if task == Job.Task.SCRATCH else MethodForm)(data, initial=initial)


def bases() -> Any:
    """The installed models: `job_services` begins with no other."""
    return ServedModel.objects.filter(workspace=None, base=None)


class KnobsForm(forms.Form):
    """The name, what it is asked at each checkpoint, and every knob that means something for the task and method."""

    name = forms.CharField(
        label=_("Name"), max_length=64, help_text=_("The model that comes of it is called so, too.")
    )
    prompts = forms.CharField(
        label=_("Asked at each checkpoint"),
        required=False,
        max_length=MOST_PROMPTS * _MOST_PROMPT,
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text=_(
            "A question a line, none is fine too. You see its answers beside those of the base model."
        ),
    )

    def __init__(self, data: Any = None, *, task: str, method: str, initial: dict[str, Any]) -> None:
        super().__init__(data, initial=initial)
        self.task, self.method = task, method
        if task in PROMPTLESS:
            del self.fields["prompts"]
        self.knobs = [name for name in knob_fields.KNOBS if self._means_something(name)]
        for name in self.knobs:
            self.fields[name] = knob_fields.field_of(knob_fields.KNOBS[name])

    def _means_something(self, name: str) -> bool:
        if name.startswith("lora."):
            return self.method == "lora"
        if name in (*knob_fields.OF_SCRATCH, *knob_fields.OF_FOLDS):
            return False  # asked before, and with what begins several jobs
        if name == "dropout":
            return self.method != "lora"  # an adapter has its own
        return self.task in _ONLY_FOR.get(name, Job.Task)

    @property
    def front(self) -> list[forms.BoundField]:
        return [self[name] for name in knob_fields.FRONT if name in self.fields]

    @property
    def groups(self) -> list[tuple[Any, list[forms.BoundField]]]:
        return [(label, [self[name] for name in names]) for label, names in knob_fields.groups({*self.knobs})]

    @property
    def errors_inside(self) -> bool:
        """Whether something is wrong with a knob of the disclosure: it must be open then."""
        return any(name in self.errors for _label, fields in self.groups for name in (f.name for f in fields))

    def clean_prompts(self) -> list[str]:
        prompts = [line.strip() for line in self.cleaned_data["prompts"].splitlines() if line.strip()]
        if len(prompts) > MOST_PROMPTS:
            raise forms.ValidationError(
                gettext("Ask at most %(most)s questions."), params={"most": MOST_PROMPTS}
            )
        if any(len(prompt) > _MOST_PROMPT for prompt in prompts):
            raise forms.ValidationError(
                gettext("A question may have at most %(most)s letters."), params={"most": _MOST_PROMPT}
            )
        return prompts

    def spec(self) -> dict[str, Any]:
        """What of the trainer's spec is not its default."""
        clean = self.cleaned_data
        spec = knob_fields.given({name: clean[name] for name in self.knobs})
        if clean.get("prompts"):
            spec["prompts"] = clean["prompts"]
        return spec


def written(form: forms.Form) -> dict[str, Any]:
    """What stands in a form as it was sent, right or wrong, to be shown again."""
    sent = {name: form[name].data for name in form.fields}
    return {name: data[:_MOST_KEPT] if isinstance(data, str) else data for name, data in sent.items()}


def first_prompts(version: DatasetVersion) -> list[str]:
    """What people ask in the data itself, preferably in what is not learnt from; else two questions of anybody."""
    folder = storage.version_folder(version)
    found: list[str] = []
    for split in ("validation", "train"):
        with contextlib.suppress(DataError, OSError):
            asked = (_question(example) for example in islice(read_split(folder, split), _LOOKED_AT))
            found += [line for line in asked if line and line not in found]
        if len(found) >= _SHOWN_PROMPTS:
            return found[:_SHOWN_PROMPTS]
    return found or [
        gettext("Who are you, and what can you do?"),
        gettext("Explain in two sentences why the sky is blue."),
    ]


def _question(example: Example) -> str:
    """In one line; "" where it is none, or too long to be read at a glance."""
    text = ""
    if isinstance(example, ChatExample):
        text = next((said.content for said in example.messages if said.role == "user"), "")
    elif isinstance(example, TranslationExample):
        text = example.source
    line = " ".join(text.split())
    return line if len(line) <= _GLANCE else ""
