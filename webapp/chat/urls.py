"""The chat's addresses. The websocket's is in webapp/asgi.py."""

from django.urls import path

from webapp.chat import views

urlpatterns = [
    path("", views.home, name="home"),
    path("c/list", views.conversations, name="conversations"),
    path("c/<uuid:conversation_id>/", views.conversation, name="conversation"),
    path("c/<uuid:conversation_id>/messages", views.messages, name="messages"),
    path("c/message/<uuid:message_id>/source", views.source, name="message_source"),
]
