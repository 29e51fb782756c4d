"""The web process: Django's pages, the chat's websocket and that of jobs behind one ASGI application."""

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
from channels.security.websocket import WebsocketDenier
from django.urls import path, re_path

from training.consumers import JobConsumer
from webapp.api.application import ApiApplication, is_upload, largest_body, short_way
from webapp.chat.consumers import ChatConsumer
from webapp.core.body_limit import limit_bodies
from webapp.core.origin import SameOriginValidator
from webapp.core.request_metrics import count_sockets
from webapp.core.streamed_body import StreamedRequest, stream_bodies
from webapp.ops.lifespan import lifespan

django_application.request_class = StreamedRequest
application = ProtocolTypeRouter(
    {
        "http": limit_bodies(
            stream_bodies(short_way(ApiApplication(), django_application), is_upload),
            allowance=largest_body,
        ),
        "websocket": count_sockets(
            SameOriginValidator(
                AuthMiddlewareStack(
                    # Where there is nothing, a socket is turned away, not an error.
                    URLRouter(
                        [
                            path("ws/chat/", ChatConsumer.as_asgi()),
                            path("ws/jobs/", JobConsumer.as_asgi()),
                            re_path("", WebsocketDenier.as_asgi()),
                        ]
                    )
                )
            )
        ),
        "lifespan": lifespan,
    }
)
