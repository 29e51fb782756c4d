"""Jobs go on numbering their logs where they were; one that a worker was checking the data of is one that runs."""

from typing import Any

from django.db import migrations
from django.db.models import Max


def take_over(apps: Any, schema_editor: Any) -> None:
    Job, JobEvent = apps.get_model("training", "Job"), apps.get_model("training", "JobEvent")
    highest = JobEvent.objects.order_by().values_list("job").annotate(highest=Max("number"))
    for job_id, number in highest.iterator():
        Job.objects.filter(id=job_id).update(last_event=number)
    Job.objects.filter(state="validating_files").update(state="running")


class Migration(migrations.Migration):
    dependencies = [("training", "0003_jobs_of_programs")]
    operations = [migrations.RunPython(take_over, migrations.RunPython.noop)]
