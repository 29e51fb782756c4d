"""OpenID Connect from the environment: whole, absent, or a sentence that says what is missing."""

from __future__ import annotations

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from webapp.accounts.models import User
from webapp.accounts.single_sign_on import issuer_origin, single_sign_on
from webapp.env import Env, SettingsError

WHOLE = {
    "OIDC_ISSUER": "https://id.example.org/realms/acme/",
    "OIDC_CLIENT_ID": "flywheel",
    "OIDC_CLIENT_SECRET": "s3cret",
    "OIDC_NAME": "Acme ID",
}


def test_without_variables_there_is_no_single_sign_on() -> None:
    assert single_sign_on(Env({})) == {}
    assert issuer_origin(Env({})) == []


def test_a_whole_configuration_is_one_provider_with_pkce() -> None:
    (app,) = single_sign_on(Env(WHOLE))["openid_connect"]["APPS"]
    assert (app["name"], app["client_id"], app["secret"]) == ("Acme ID", "flywheel", "s3cret")
    assert app["settings"]["server_url"] == "https://id.example.org/realms/acme"
    assert app["settings"]["oauth_pkce_enabled"] is True
    assert issuer_origin(Env(WHOLE)) == ["https://id.example.org"]


@pytest.mark.parametrize("missing", ["OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"])
def test_a_half_configuration_is_one_sentence_that_names_what_is_missing(missing: str) -> None:
    with pytest.raises(SettingsError, match=f"{missing} must be set as well"):
        single_sign_on(Env({k: v for k, v in WHOLE.items() if k != missing}))


@pytest.mark.parametrize("environment", [{"OIDC_NAME": "Acme"}, WHOLE | {"OIDC_ISSUER": "id.example.org"}])
def test_other_mistakes_are_sentences_too(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"\.$"):
        single_sign_on(Env(environment))


@pytest.mark.django_db
def test_the_login_page_offers_it_by_name_as_a_form(client: Client, alice: User, settings: Settings) -> None:
    settings.SOCIALACCOUNT_PROVIDERS = single_sign_on(Env(WHOLE))
    page = client.get("/accounts/login/").content.decode()
    assert "Log in with Acme ID" in page
    assert 'action="/accounts/oidc/oidc/login/' in page
