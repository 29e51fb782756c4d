"""No column changes: when a worker started is told by the database's clock, as its lease is."""

from django.db import migrations, models

import webapp.core.clock


class Migration(migrations.Migration):
    dependencies = [("inference", "0009_cached_tokens")]

    operations = [
        migrations.AlterField(
            model_name="worker",
            name="started_at",
            field=models.DateTimeField(default=webapp.core.clock.now),
        ),
    ]
