from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "webapp.api"
    label = "api"

    def ready(self) -> None:
        from webapp.api import erasure, webhook_events  # noqa: F401  they register themselves, and listen to jobs
