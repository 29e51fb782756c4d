from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("inference", "0010_workers_clock"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="generation",
            index=models.Index(fields=["state", "sent_at"], name="generation_by_state"),
        ),
        migrations.RemoveIndex(
            model_name="generation",
            name="generation_unfinished",
        ),
    ]
