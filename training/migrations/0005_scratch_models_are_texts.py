"""Models from scratch that were stored before their kind was: they have no chat template, and go on with a text."""

from typing import Any

from django.db import migrations


def forwards(apps: Any, schema_editor: Any) -> None:
    Job = apps.get_model("training", "Job")
    ServedModel = apps.get_model("inference", "ServedModel")
    stored = Job.objects.filter(task="scratch", model__isnull=False).values("model")
    ServedModel.objects.filter(pk__in=stored).update(kind="text")


class Migration(migrations.Migration):
    dependencies = [("inference", "0006_kinds_of_models"), ("training", "0004_log_numbers")]

    operations = [migrations.RunPython(forwards, migrations.RunPython.noop)]
