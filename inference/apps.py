from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self) -> None:
        from inference import deletion, erasure, revoked_keys, usage  # noqa: F401  they register themselves
