"""What machines ask of the site: /healthz, /readyz and /metrics. No sessions, no people."""

from __future__ import annotations

import hmac
import ipaddress

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import split_domain_port
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from webapp.core import snapshots
from webapp.ops import health


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Alive: asks nothing of anybody else, so a restart is not tried where it cannot help."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Able to answer a message now. Sentences may name hosts, users and folders: visitors get the codes alone."""
    checks, is_told = health.checks(), _may_scrape(request) or _is_local(request)
    ready = all(check.ok for check in checks)
    body = {
        "status": "ok" if ready else "unavailable",
        "checks": {
            check.name: {"ok": check.ok, "code": check.code, "message": check.message if is_told else ""}
            for check in checks
        },
    }
    response = JsonResponse(body, status=200 if ready else 503)
    # Django logs each answer of 500 and above as an error; this one is the expected answer while starting.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


@never_cache
@require_safe
def prometheus(request: HttpRequest) -> HttpResponse:
    """For loopback, or for who bears METRICS_TOKEN."""
    if not _may_scrape(request):
        first = "Send METRICS_TOKEN" if settings.METRICS_TOKEN else "Set METRICS_TOKEN and send it"
        return HttpResponse(f"{first} as a bearer token.\n", status=401, content_type="text/plain")
    body, content_type = snapshots.exposition()
    return HttpResponse(body, content_type=content_type)


def _may_scrape(request: HttpRequest) -> bool:
    token = settings.METRICS_TOKEN
    if token:
        given = request.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
    return _is_local(request)


def _is_local(request: HttpRequest) -> bool:
    # Behind a proxy on this host every visitor comes from loopback: a forwarded request is not local.
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    # Neither is one that comes by a name: of a proxy that does not say whom it stands for, or of another site's page,
    # whose name was made to lead here.
    host = split_domain_port(request.headers.get("Host", ""))[0].strip("[]")
    try:
        if host not in ("", "localhost"):
            ipaddress.ip_address(host)
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
