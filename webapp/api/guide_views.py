"""The guides: a page for each task, with examples that name this site and can be copied. Open to everybody.

Their texts are guides/*.md, in the order of their numbers; a test runs every example in them.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from inference.models import ServedModel
from webapp.chat.context import strings
from webapp.chat.markdown import render as markdown
from webapp.core.errors import NotFound

_FOLDER = Path(__file__).parent / "guides"
_TITLE = re.compile(r"# (.+)\n")
# What the examples call the site's default model, where there is none yet.
_SOME_MODEL = "smollm2-135m-instruct"


class Guide(NamedTuple):
    slug: str
    title: str
    text: str  # Markdown without its title; {site} and {model} stand for what they are here


@cache
def guides() -> dict[str, Guide]:
    """By slug, in their order."""
    found = {}
    for path in sorted(_FOLDER.glob("*.md")):
        text = path.read_text()
        title = _TITLE.match(text)
        assert title is not None, path
        slug = path.stem.partition("-")[2]
        found[slug] = Guide(slug, title[1], text[title.end() :])
    return found


def filled_in(text: str, *, site: str, model: str) -> str:
    return text.replace("{site}", site).replace("{model}", model)


@require_safe
def first(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(reverse("guide", args=[next(iter(guides()))]))


@require_safe
def guide(request: HttpRequest, slug: str) -> HttpResponse:
    found = guides().get(slug)
    if found is None:
        raise NotFound(_("That guide"))
    default = (
        ServedModel.objects.filter(is_default=True, removed_at=None).values_list("name", flat=True).first()
    )
    text = filled_in(found.text, site=settings.SITE_URL, model=default or _SOME_MODEL)
    context = {
        "guides": guides().values(),
        "guide": found,
        "html": _html(text),
        "layout": "base.html" if request.user.is_authenticated else "base_plain.html",
        "section": "guides",
        "strings": strings(),  # of pages without a shell, for who is not logged in
    }
    return render(request, "api/guide.html", context)


def _html(text: str) -> SafeString:
    # `markdown` sanitises, and sets headings two levels down, as an answer's have to be.
    html = markdown(text).replace("<h4>", "<h2>").replace("</h4>", "</h2>")
    return mark_safe(html)  # noqa: S308
