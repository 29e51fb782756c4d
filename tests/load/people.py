"""Many people at once: rows and login sessions written straight into a site's database, as if they had signed up."""

from __future__ import annotations

import uuid
from importlib import import_module

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.models import Session

from tests.services import Site
from webapp.accounts.models import Membership, Role, User, Workspace


def cookies(site: Site, count: int) -> list[str]:
    """Makes `count` people of one workspace and returns each one's Cookie header."""
    secret = (site.home / "secret_key").read_text().strip()
    store = import_module(settings.SESSION_ENGINE).SessionStore
    usual, settings.SECRET_KEY = settings.SECRET_KEY, secret
    try:
        with site.rows():
            workspace = Workspace.objects.create(name="Many")
            people = [User(email=f"{uuid.uuid4().hex}@example.org", password="!") for _ in range(count)]
            User.objects.bulk_create(people)
            Membership.objects.bulk_create(
                [Membership(workspace=workspace, user=person, role=Role.MEMBER) for person in people]
            )
            sessions = []
            for person in people:
                data = {
                    SESSION_KEY: str(person.pk),
                    BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
                    HASH_SESSION_KEY: person.get_session_auth_hash(),
                }
                session = store()
                session._session_key = session._get_new_session_key()
                session.update(data)
                sessions.append(session.create_model_instance(session._get_session()))
            Session.objects.bulk_create(sessions)
    finally:
        settings.SECRET_KEY = usual
    return [f"flywheel_session_{site.port}={session.session_key}" for session in sessions]
