"""What every page's shell needs: filled in by chat/context.shell."""

from django.http import HttpRequest


def shell(request: HttpRequest) -> dict[str, object]:
    return {}
