"""The common routes of these tests in Django, in one module: settings, views, URLs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import warnings
from typing import Any

import django  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]

settings.configure(
    DEBUG=False,
    SECRET_KEY="for tests only",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "tests.frameworks.apps.django_app.TeapotMiddleware",
    ],
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "loggers": {"django": {"handlers": ["console"], "level": "ERROR", "propagate": False}},
    },
)
django.setup()

# Of Django itself, under any server: its own FileResponse is a synchronous iterator.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous")

from asgiref.sync import iscoroutinefunction, markcoroutinefunction  # noqa: E402
from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]  # noqa: E402
from django.core.exceptions import PermissionDenied  # type: ignore[import-untyped]  # noqa: E402
from django.http import (  # type: ignore[import-untyped]  # noqa: E402
    FileResponse,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path, reverse  # type: ignore[import-untyped]  # noqa: E402
from django.views.decorators.http import (  # type: ignore[import-untyped]  # noqa: E402
    require_GET,
    require_POST,
    require_safe,
)

from tests.frameworks.apps import probe  # noqa: E402

_tasks: set[asyncio.Task[None]] = set()


class Teapot(Exception):
    """Has a handler of its own, in a middleware."""


class TeapotMiddleware:
    """A middleware for async applications."""

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    async def __call__(self, request: Any) -> Any:
        return await self.get_response(request)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        if isinstance(exception, Teapot):
            return JsonResponse({"error": str(exception)}, status=418)
        return None


async def hello(request: Any) -> Any:
    return HttpResponse("hello", content_type="text/plain")


async def item(request: Any, name: str) -> Any:
    return JsonResponse({"name": name, "query": dict(request.GET.lists())})


async def echo_json(request: Any) -> Any:
    return JsonResponse(json.loads(request.body), safe=False)


def large(request: Any) -> Any:
    """Not async: Django runs it in a thread."""
    return JsonResponse(probe.large_document(), safe=False)


async def stream(request: Any) -> Any:
    return StreamingHttpResponse(probe.gated_parts(request.GET["key"]))


async def endless(request: Any) -> Any:
    return StreamingHttpResponse(probe.endless_parts(request.GET["key"]))


async def failing_stream(request: Any) -> Any:
    return StreamingHttpResponse(probe.failing_parts())


def upload(request: Any) -> Any:
    sha256 = hashlib.sha256()
    file = request.FILES["file"]
    for chunk in file.chunks():
        sha256.update(chunk)
    return JsonResponse(
        {
            "filename": file.name,
            "sha256": sha256.hexdigest(),
            "size": file.size,
            "note": request.POST["note"],
        }
    )


async def digest(request: Any) -> Any:
    probe.record(request.GET.get("key", ""), "complete")
    sha256, size = hashlib.sha256(), 0
    while part := request.read(65536):
        sha256.update(part)
        size += len(part)
    return JsonResponse({"sha256": sha256.hexdigest(), "size": size})


async def background(request: Any) -> Any:
    """Django has no background tasks of its own: a task of the event loop that serves."""
    key = request.GET["key"]

    async def work() -> None:
        probe.record(key, "began")
        await probe.pass_gate(key)
        probe.record(key, "ended")

    task = asyncio.get_running_loop().create_task(work())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return HttpResponse("accepted", status=202)


async def error(request: Any) -> Any:
    raise ValueError("the handler broke")


async def teapot(request: Any) -> Any:
    raise Teapot("short and stout")


async def forbidden(request: Any) -> Any:
    raise PermissionDenied("not for you")


async def cookies(request: Any) -> Any:
    response = JsonResponse(request.COOKIES)
    response.set_cookie("first", "1", max_age=60, httponly=True)
    response.set_cookie("second", "two words")
    return response


def session(request: Any) -> Any:
    if request.method == "POST":
        request.session.update(json.loads(request.body))
    return JsonResponse(dict(request.session))


async def redirect(request: Any) -> Any:
    return HttpResponseRedirect(reverse("hello"))


def file(request: Any) -> Any:
    return FileResponse(probe.file_to_serve().open("rb"))


async def open_gate(request: Any) -> Any:
    probe.gate(request.GET["key"]).set()
    return HttpResponse("open")


async def events(request: Any) -> Any:
    return JsonResponse(probe.events(request.GET["key"]), safe=False)


urlpatterns = [
    path("hello", require_safe(hello), name="hello"),
    path("items/<name>", item),
    path("größe/<name>", item),
    path("json", require_POST(echo_json)),
    path("large", large),
    path("stream", stream),
    path("endless", endless),
    path("failing-stream", failing_stream),
    path("upload", upload),
    path("digest", digest),
    path("background", require_POST(background)),
    path("error", error),
    path("teapot", teapot),
    path("forbidden", require_GET(forbidden)),
    path("cookies", cookies),
    path("session", session),
    path("redirect", redirect),
    path("file", file),
    path("gate", open_gate),
    path("events", events),
    path("with-slash/", hello),
]

app = get_asgi_application()
