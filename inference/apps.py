from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self) -> None:
        from inference import deletion, revoked_keys  # noqa: F401  they register themselves
