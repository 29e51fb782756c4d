from django.apps import AppConfig


class OpsConfig(AppConfig):
    name = "webapp.ops"
    label = "ops"

    def ready(self) -> None:
        from webapp.core import metrics
        from webapp.ops import figures

        for collect in (
            figures.generations,
            figures.workers,
            figures.jobs,
            figures.queues,
            figures.webhooks,
            figures.migrations,
            figures.broker,
        ):
            metrics.register(collect)
        metrics.register_own(figures.machine)
