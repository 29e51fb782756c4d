"""Datasets know the highest number that a frozen version of them has had: it is not given again."""

from typing import Any

from django.db import migrations, models
from django.db.models import Max


def take_over(apps: Any, schema_editor: Any) -> None:
    Dataset, DatasetVersion = apps.get_model("training", "Dataset"), apps.get_model("training", "DatasetVersion")
    ready = DatasetVersion.objects.order_by().filter(state="ready")
    for dataset_id, number in ready.values_list("dataset").annotate(highest=Max("number")).iterator():
        Dataset.objects.filter(id=dataset_id).update(highest_version=number)


class Migration(migrations.Migration):
    dependencies = [("training", "0006_request_id")]
    operations = [
        migrations.AddField(
            model_name="dataset",
            name="highest_version",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.RunPython(take_over, migrations.RunPython.noop),
    ]
