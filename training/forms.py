"""Forms of the data pages: a name, how a file is read, what a report looks at, the switches of a recipe."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from django import forms
from django.utils.translation import gettext_lazy as _

from inference.access import models_for
from training.datasets import shapes
from training.datasets.code_pages import CODE_PAGES
from training.datasets.recipe import Augment, Recipe, Split
from training.datasets.sources import Layout, Reading, Shape
from training.first_rows import columns_of
from training.models import Dataset, DatasetVersion, SourceFile

LAYOUTS: dict[str, Any] = {
    "jsonl": _("JSON Lines"),
    "json": _("JSON"),
    "csv": _("CSV, TSV"),
    "xlsx": _("Excel (XLSX)"),
    "parquet": _("Parquet"),
    "text": _("Plain text"),
    "markdown": _("Markdown"),
    "html": _("HTML"),
    "pdf": _("PDF"),
    "docx": _("Word (DOCX)"),
    "zip": _("ZIP of such files"),
}
SHAPES: dict[str, Any] = {
    "chat": _("Conversations (messages with roles)"),
    "prompt_completion": _("Prompts and completions"),
    "sharegpt": _("Conversations (ShareGPT)"),
    "alpaca": _("Instructions (Alpaca)"),
    "preference": _("Preferences (a better and a worse answer)"),
    "labelled": _("Texts with labels or numbers"),
    "translation": _("Translations"),
    "document": _("Documents"),
}
# What may be called otherwise in a file, by shape; where an example belongs is said the same in all of them.
_SYSTEM = {"system": _("Instructions to the model")}
_GOOD = {"label": _("Whether the answer is a good one (true, false)")}
_GROUP = {"group": _("Kept together in a split (a person, a conversation)")}
FIELDS: dict[str, dict[str, Any]] = {
    "chat": {"messages": _("Messages"), **_SYSTEM, **_GOOD},
    "prompt_completion": {
        "prompt": _("Prompt"),
        "context": _("What the prompt is about"),
        "completion": _("Completion"),
        **_SYSTEM,
        **_GOOD,
    },
    "sharegpt": {"conversations": _("Conversation"), **_SYSTEM, **_GOOD},
    "alpaca": {
        "instruction": _("Instruction"),
        "input": _("Input"),
        "output": _("Output"),
        **_SYSTEM,
        **_GOOD,
    },
    "preference": {
        "instruction": _("Instruction"),
        "input": _("Prompt"),
        "preferred_output": _("Better answer"),
        "non_preferred_output": _("Worse answer"),
        **_SYSTEM,
    },
    "labelled": {"text": _("Text"), "label": _("Label"), "labels": _("Several labels"), "value": _("Number")},
    "translation": {"source": _("Source"), "target": _("Translation")},
    "document": {"text": _("Text"), "title": _("Title")},
}
FIELDS = {shape: fields | _GROUP for shape, fields in FIELDS.items()}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", *CODE_PAGES, "latin-1")
DELIMITERS = {",": _("comma"), ";": _("semicolon"), "\t": _("tab"), "|": _("bar")}
# What of a reading only some layouts have; of an archive, each file is looked at by itself.
LAYOUTS_WITH: dict[str, tuple[Layout, ...]] = {
    "encoding": ("jsonl", "json", "csv", "text", "markdown", "html"),
    "delimiter": ("csv",),
    "sheet": ("xlsx",),
    "header": ("csv", "xlsx"),
}
NOT_THERE = " "  # no column's name, and not the empty choice, which leaves it to the usual names
PERSONAL_DATA: dict[str, Any] = {
    "email": _("Email addresses"),
    "phone": _("Telephone numbers"),
    "card": _("Card numbers"),
    "iban": _("Bank accounts (IBAN)"),
    "ssn": _("Social security numbers (US)"),
    "ip": _("IP addresses"),
    "key": _("Keys and tokens"),
}
assert set(LAYOUTS) == set(get_args(Layout))
assert set(SHAPES) == set(get_args(Shape)) == set(FIELDS)


class NameForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=120)


class ReadingForm(forms.Form):
    """How a file is read. Of the fields' names, only those of the chosen shape count."""

    layout = forms.ChoiceField(label=_("File format"), choices=[*LAYOUTS.items()])
    shape = forms.ChoiceField(label=_("What a row is"), choices=[*SHAPES.items()])
    encoding = forms.ChoiceField(label=_("Encoding"), choices=[(name, name) for name in ENCODINGS])
    delimiter = forms.ChoiceField(label=_("Columns are separated by"), choices=[*DELIMITERS.items()])
    sheet = forms.CharField(
        label=_("Sheet"),
        max_length=100,
        required=False,
        help_text=_("Empty: the first one with something in it."),
    )
    header = forms.BooleanField(label=_("The first row names the columns"), required=False)

    def __init__(self, data: Any = None, *, file: SourceFile) -> None:
        found = file.reading or {"layout": "text", "shape": "document"}
        reading = msgspec.convert(found, Reading)
        encodings = dict.fromkeys((*ENCODINGS, reading.encoding))
        super().__init__(data, initial=msgspec.structs.asdict(reading))
        self.fields["encoding"].choices = [(name, name) for name in encodings]  # type: ignore[attr-defined]
        # Any character may be named in a table's first line.
        delimiters = {reading.delimiter: f"“{reading.delimiter}”"} | DELIMITERS
        self.fields["delimiter"].choices = [*delimiters.items()]  # type: ignore[attr-defined]
        if sheets := (file.detected or {}).get("sheets"):
            # The first of them is the one that is read where none is asked for.
            names = [("" if name == sheets[0] and not reading.sheet else name, name) for name in sheets]
            self.fields["sheet"] = forms.ChoiceField(label=_("Sheet"), choices=names, required=False)
        for name, layouts in LAYOUTS_WITH.items():
            self.fields[name].widget.attrs["data-layouts"] = " ".join(layouts)
        self._file, self._within = file, reading.within
        self._columns = columns_of(file, header=reading.header)
        self._add_columns(reading)

    def _add_columns(self, reading: Reading) -> None:
        known = dict.fromkeys((*self._columns, *filter(None, reading.columns.values())))
        usual, named = ("", _("as usual")), [(name, name) for name in known]
        for shape, names in FIELDS.items():
            for name, label in names.items():
                usually = shapes.FIELDS[shape].get(name)  # type: ignore[index]
                is_required = usually is not None and usually.required
                field: forms.Field
                if self._columns:
                    absent = [] if is_required else [(NOT_THERE, _("not there"))]
                    field = forms.ChoiceField(label=label, choices=[usual, *absent, *named], required=False)
                else:
                    field = forms.CharField(label=label, max_length=200, required=False)
                if shape == reading.shape and name in reading.columns:
                    field.initial = reading.columns[name] or NOT_THERE
                self.fields[f"{shape}.{name}"] = field

    @property
    def general(self) -> list[forms.BoundField]:
        return [self[name] for name in ("layout", "shape", *LAYOUTS_WITH)]

    @property
    def groups(self) -> list[tuple[str, Any, list[forms.BoundField]]]:
        """Each shape with its label and its columns."""
        return [
            (shape, SHAPES[shape], [self[f"{shape}.{name}"] for name in names])
            for shape, names in FIELDS.items()
        ]

    def reading(self) -> Reading:
        clean = self.cleaned_data
        layout, shape = clean["layout"], clean["shape"]
        has = {name: clean[name] for name, layouts in LAYOUTS_WITH.items() if layout in layouts}
        # Chosen among the names that the columns had so far.
        names = columns_of(self._file, header=has.get("header", True))
        now_called = dict(zip(self._columns, names, strict=False))
        chosen = {name: clean[f"{shape}.{name}"] for name in FIELDS[shape]}
        columns = {name: now_called.get(column, column.strip()) for name, column in chosen.items() if column}
        within = self._within if layout == "json" else ""
        return Reading(layout=layout, shape=shape, within=within, columns=columns, **has)


class ReportForm(forms.Form):
    """What a check compares the data with."""

    model = forms.ChoiceField(
        label=_("Model"), required=False, help_text=_("Lengths are counted in its tokens.")
    )
    max_tokens = forms.IntegerField(
        label=_("Longest example"),
        required=False,
        min_value=0,
        max_value=1_000_000,
        help_text=_("In tokens. What is longer is reported, with what would be lost."),
    )
    evaluation = forms.ChoiceField(
        label=_("Compare with"),
        required=False,
        help_text=_("A frozen dataset you evaluate with: examples that are in both are reported."),
    )

    def __init__(self, data: Any = None, *, dataset: Dataset, initial: dict[str, Any]) -> None:
        super().__init__(data, initial=initial)
        models = [model.name for model in models_for(dataset.workspace) if model.base_id is None]
        frozen = DatasetVersion.objects.filter(
            dataset__workspace=dataset.workspace_id, state=DatasetVersion.State.READY
        ).exclude(dataset=dataset)
        versions = [
            (str(version.pk), f"{version.dataset.name}, {version.number}")
            for version in frozen.select_related("dataset").order_by("dataset__name", "-number")[:200]
        ]
        self._offer("model", [("", _("none: lengths are not counted")), *((name, name) for name in models)])
        self._offer("evaluation", [("", _("nothing")), *versions])
        if not versions:
            del self.fields["evaluation"]

    def _offer(self, name: str, choices: list[tuple[str, Any]]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = choices


class RecipeForm(forms.Form):
    """The switches of a recipe, in the order in which the steps run."""

    repair_unicode = forms.BooleanField(
        label=_("Repair broken letters"), required=False, help_text=_("“cafÃ©” becomes “café”.")
    )
    normalise_unicode = forms.ChoiceField(
        label=_("One form for each letter"),
        required=False,
        choices=[
            ("", _("off")),
            ("NFC", _("composed (NFC)")),
            ("NFKC", _("composed, plain variants (NFKC)")),
        ],
    )
    whitespace = forms.BooleanField(
        label=_("Tidy spaces and blank lines"), required=False, help_text=_("Code is left alone.")
    )
    missing = forms.ChoiceField(
        label=_("Empty fields"),
        choices=[
            ("drop", _("leave the example out")),
            ("fill", _("fill in")),
            ("keep", _("keep as they are")),
        ],
    )
    missing_fill = forms.CharField(label=_("Fill with"), max_length=200, required=False)
    drop_empty = forms.BooleanField(label=_("Leave out examples with nothing to learn"), required=False)
    redact = forms.MultipleChoiceField(
        label=_("Replace personal data"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=[*PERSONAL_DATA.items()],
        help_text=_("By what kind it was: [EMAIL]. Names and addresses in plain words are not recognised."),
    )
    deduplicate = forms.ChoiceField(
        label=_("Leave out repetitions"),
        required=False,
        choices=[("", _("none")), ("exact", _("exact ones")), ("near", _("exact and near ones"))],
    )
    drop_outliers = forms.BooleanField(
        label=_("Leave out outliers"),
        required=False,
        help_text=_("Far from the others in length or make-up."),
    )
    drop_overlap = forms.BooleanField(label=_("Leave out what is in the evaluation data"), required=False)
    max_tokens = forms.IntegerField(
        label=_("Longest example, in tokens"),
        required=False,
        min_value=0,
        max_value=1_000_000,
        help_text=_("0: any length."),
    )
    too_long = forms.ChoiceField(
        label=_("Longer examples"),
        choices=[("keep", _("keep")), ("cut", _("cut")), ("drop", _("leave out"))],
    )
    augment = forms.BooleanField(
        label=_("Add changed copies of labelled texts"),
        required=False,
        help_text=_("In the training split only: words swapped, left out or mistyped; the label stays."),
    )
    copies = forms.IntegerField(label=_("Copies of each"), min_value=1, max_value=10)
    swap = forms.IntegerField(label=_("Words swapped, in %"), min_value=0, max_value=100)
    delete = forms.IntegerField(label=_("Words left out, in %"), min_value=0, max_value=100)
    typo = forms.IntegerField(label=_("Words mistyped, in %"), min_value=0, max_value=100)
    validation = forms.IntegerField(label=_("For validation, in %"), min_value=0, max_value=90)
    test = forms.IntegerField(label=_("For the test, in %"), min_value=0, max_value=90)

    def __init__(self, data: Any = None, *, recipe: Recipe, kind: str) -> None:
        super().__init__(data, initial=_fields_of(recipe))
        self.kind, self._begun_from = kind, recipe
        unfit = []
        if kind != "labelled":
            unfit += ["augment", "copies", "swap", "delete", "typo"]
        if kind not in ("labelled", "translation"):
            unfit += ["missing", "missing_fill"]
        for name in unfit:
            del self.fields[name]

    @property
    def groups(self) -> list[tuple[Any, list[forms.BoundField]]]:
        groups: list[tuple[Any, tuple[str, ...]]] = [
            (_("Text"), ("repair_unicode", "normalise_unicode", "whitespace")),
            (_("Personal data"), ("redact",)),
            (
                _("What is left out"),
                ("drop_empty", "missing", "missing_fill", "deduplicate", "drop_outliers", "drop_overlap"),
            ),
            (_("Length"), ("max_tokens", "too_long")),
            (_("More examples"), ("augment", "copies", "swap", "delete", "typo")),
            (_("Splits"), ("validation", "test")),
        ]
        shown = [(label, [self[name] for name in names if name in self.fields]) for label, names in groups]
        return [(label, fields) for label, fields in shown if fields]

    def clean(self) -> dict[str, Any]:
        clean = super().clean() or self.cleaned_data
        if clean.get("validation", 0) + clean.get("test", 0) > 90:
            self.add_error("test", _("Leave at least 10 % for training."))
        if clean.get("missing") == "fill" and not clean.get("missing_fill"):
            self.add_error("missing_fill", _("Say what to fill in."))
        if clean.get("too_long") in ("cut", "drop") and not clean.get("max_tokens"):
            self.add_error("max_tokens", _("Say how long the longest example may be."))
        return clean

    def recipe(self) -> Recipe:
        clean = self.cleaned_data
        augment = None
        if clean.get("augment"):
            augment = Augment(
                copies=clean["copies"],
                swap=clean["swap"] / 100,
                delete=clean["delete"] / 100,
                typo=clean["typo"] / 100,
                seed=(self._begun_from.augment or Augment()).seed,
            )
        return Recipe(
            repair_unicode=clean["repair_unicode"],
            normalise_unicode=clean["normalise_unicode"],
            whitespace=clean["whitespace"],
            missing=clean.get("missing", "drop"),
            missing_fill=clean.get("missing_fill", ""),
            drop_empty=clean["drop_empty"],
            redact=sorted(clean["redact"]),
            deduplicate=clean["deduplicate"],
            drop_outliers=clean["drop_outliers"],
            drop_overlap=clean["drop_overlap"],
            max_tokens=clean["max_tokens"] or 0,
            too_long=clean["too_long"],
            augment=augment,
            split=Split(clean["validation"] / 100, clean["test"] / 100, self._begun_from.split.salt),
        )


def _fields_of(recipe: Recipe) -> dict[str, Any]:
    """What the form shows of a recipe."""
    augment, split = recipe.augment or Augment(), recipe.split
    return msgspec.structs.asdict(recipe) | {
        "augment": recipe.augment is not None,
        "copies": augment.copies,
        "swap": round(augment.swap * 100),
        "delete": round(augment.delete * 100),
        "typo": round(augment.typo * 100),
        "validation": round(split.validation * 100),
        "test": round(split.test * 100),
    }
