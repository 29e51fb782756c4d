"""No column changes: when a request began is told by the database's clock, by which other hosts judge it."""

from django.db import migrations, models

import webapp.core.clock


class Migration(migrations.Migration):
    dependencies = [("api", "0002_passing_completions")]

    operations = [
        migrations.AlterField(
            model_name="idempotentrequest",
            name="created_at",
            field=models.DateTimeField(default=webapp.core.clock.now, db_index=True),
        ),
    ]
