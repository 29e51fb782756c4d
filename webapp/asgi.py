"""The web process: Django's pages and the chat's websocket behind one ASGI application."""

import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

from django.core.asgi import get_asgi_application

from webapp.env import SettingsError

try:
    django_application = get_asgi_application()
except SettingsError as error:
    sys.exit(f"flywheel: {error}")

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path

from webapp.chat.consumers import ChatConsumer
from webapp.core.request_metrics import count_sockets
from webapp.ops.lifespan import lifespan

application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": count_sockets(
            AllowedHostsOriginValidator(
                AuthMiddlewareStack(URLRouter([path("ws/chat/", ChatConsumer.as_asgi())]))
            )
        ),
        "lifespan": lifespan,
    }
)
