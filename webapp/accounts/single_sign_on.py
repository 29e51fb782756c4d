"""Single sign-on from environment variables, as allauth wants it told. Knows nothing of Django."""

from __future__ import annotations

from typing import Any

from webapp.env import Env, SettingsError

PROVIDER_ID = "oidc"


def single_sign_on(env: Env) -> dict[str, Any]:
    """SOCIALACCOUNT_PROVIDERS with the one OpenID Connect provider of OIDC_*, or with none."""
    names = ("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET")
    values = {name: env.raw(name) for name in names}
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == len(names):
        if env.raw("OIDC_NAME"):
            raise SettingsError(
                f"OIDC_NAME is set, but {', '.join(names)} are not: set them too, or remove it."
            )
        return {}
    if missing:
        raise SettingsError(f"Single sign-on is half set up: {' and '.join(missing)} must be set as well.")
    issuer = env.url("OIDC_ISSUER", ("https", "http")) or ""
    return {
        "openid_connect": {
            "APPS": [
                {
                    "provider_id": PROVIDER_ID,
                    "name": env.str("OIDC_NAME", "single sign-on"),
                    "client_id": values["OIDC_CLIENT_ID"],
                    "secret": values["OIDC_CLIENT_SECRET"],
                    "settings": {
                        "server_url": issuer.rstrip("/"),
                        "fetch_userinfo": True,
                        "oauth_pkce_enabled": True,
                    },
                }
            ]
        }
    }


def issuer_origin(env: Env) -> list[str]:
    """Where the login form may lead besides this site: the issuer's scheme and host, or nothing."""
    issuer = env.raw("OIDC_ISSUER")
    return ["/".join(issuer.split("/", 3)[:3])] if issuer else []
