from django.apps import AppConfig


class OpsConfig(AppConfig):
    name = "webapp.ops"
    label = "ops"

    def ready(self) -> None:
        from webapp.core import metrics
        from webapp.ops import figures

        metrics.register(figures.database)
        for collect in (
            figures.generations,
            figures.workers,
            figures.jobs,
            figures.queues,
            figures.webhooks,
            figures.migrations,
        ):
            metrics.register(figures.of_the_database(collect))
        metrics.register(figures.broker)
        metrics.register_own(figures.machine)
