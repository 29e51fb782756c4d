from django.apps import AppConfig


class OpsConfig(AppConfig):
    name = "webapp.ops"
    label = "ops"

    def ready(self) -> None:
        from webapp.core import metrics
        from webapp.ops import figures

        for collect in (figures.generations, figures.workers, figures.queues):
            metrics.register(collect)
