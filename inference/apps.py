from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self) -> None:
        from inference import deletion, erasure, usage  # noqa: F401  they register themselves
