"""The common routes of these tests in Starlette."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.frameworks.apps import probe
from tests.frameworks.apps.record_messages import RecordMessages


class Teapot(Exception):
    """Has a handler of its own."""


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def item(request: Request) -> Response:
    query = {name: request.query_params.getlist(name) for name in request.query_params}
    return JSONResponse({"name": request.path_params["name"], "query": query})


async def echo_json(request: Request) -> Response:
    return JSONResponse(await request.json())


async def large(request: Request) -> Response:
    return JSONResponse(probe.large_document())


async def stream(request: Request) -> Response:
    return StreamingResponse(probe.gated_parts(request.query_params["key"]))


async def endless(request: Request) -> Response:
    return StreamingResponse(probe.endless_parts(request.query_params["key"]))


async def failing_stream(request: Request) -> Response:
    return StreamingResponse(probe.failing_parts())


async def sse(request: Request) -> Response:
    async def count() -> AsyncIterator[str]:
        async with contextlib.aclosing(probe.ticking_numbers(request.query_params["key"])) as all_:
            async for number in all_:
                yield f"event: count\nid: {number}\ndata: {number}\n\n"

    return StreamingResponse(
        count(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def hints(request: Request) -> Response:
    await request.send_early_hints("</style.css>; rel=preload; as=style")
    return PlainTextResponse("styled")


async def wait_for_disconnect(request: Request) -> Response:
    key = request.query_params["key"]
    probe.record(key, "waiting")
    while not await request.is_disconnected():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    probe.record(key, "gone")
    return PlainTextResponse("too late")


async def reused_buffer(request: Request) -> Response:
    """Parts that are views of one buffer, which is filled again for each."""

    async def parts() -> AsyncIterator[memoryview]:
        buffer = bytearray(4)
        for number in range(100):
            buffer[:] = b"%03d\n" % number
            yield memoryview(buffer)

    headers = {"content-length": "400"} if "length" in request.query_params else None
    return StreamingResponse(parts(), headers=headers)


async def where(request: Request) -> Response:
    return JSONResponse(
        {"url": str(request.url), "base": str(request.base_url), "client": request.client}
    )


async def upload(request: Request) -> Response:
    async with request.form() as form:
        file = form["file"]
        assert isinstance(file, UploadFile)
        content = await file.read()
        return JSONResponse(
            {
                "filename": file.filename,
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "note": form["note"],
            }
        )


async def digest(request: Request) -> Response:
    key = request.query_params.get("key", "")
    sha256, size = hashlib.sha256(), 0
    probe.record(key, "began")
    try:
        async for part in request.stream():
            sha256.update(part)
            size += len(part)
    except ClientDisconnect:
        probe.record(key, "aborted")
        raise
    probe.record(key, "complete")
    return JSONResponse({"sha256": sha256.hexdigest(), "size": size})


async def background(request: Request) -> Response:
    key = request.query_params["key"]

    async def work() -> None:
        probe.record(key, "began")
        await probe.pass_gate(key)
        probe.record(key, "ended")

    return PlainTextResponse("accepted", status_code=202, background=BackgroundTask(work))


async def error(request: Request) -> Response:
    raise ValueError("the handler broke")


async def teapot(request: Request) -> Response:
    raise Teapot("short and stout")


async def forbidden(request: Request) -> Response:
    raise HTTPException(403, "not for you")


async def cookies(request: Request) -> Response:
    response = JSONResponse(dict(request.cookies))
    response.set_cookie("first", "1", max_age=60, httponly=True)
    response.set_cookie("second", "two words")
    return response


async def session(request: Request) -> Response:
    if request.method == "POST":
        request.session.update(await request.json())
    return JSONResponse(dict(request.session))


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.url_for("hello"))


async def file(request: Request) -> Response:
    return FileResponse(probe.file_to_serve())


async def state(request: Request) -> Response:
    greeting = request.state.greeting
    request.state.greeting = "overwritten"
    request.state.shared.append(len(request.state.shared))
    return JSONResponse({"greeting": greeting, "shared": request.state.shared})


async def open_gate(request: Request) -> Response:
    probe.gate(request.query_params["key"]).set()
    return PlainTextResponse("open")


async def events(request: Request) -> Response:
    return JSONResponse(probe.events(request.query_params["key"]))


async def handle_teapot(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": str(exc)}, status_code=418)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    probe.note_lifespan("startup")
    yield {"greeting": "from startup", "shared": []}
    probe.note_lifespan("shutdown")


routes = [
    Route("/hello", hello),
    Route("/items/{name}", item),
    Route("/größe/{name}", item),
    Route("/json", echo_json, methods=["POST"]),
    Route("/large", large),
    Route("/stream", stream),
    Route("/endless", endless),
    Route("/failing-stream", failing_stream),
    Route("/sse", sse),
    Route("/hints", hints),
    Route("/wait-for-disconnect", wait_for_disconnect),
    Route("/reused-buffer", reused_buffer),
    Route("/where", where),
    Mount("/static", StaticFiles(directory=probe.file_to_serve().parent)),
    Mount("/mounted", routes=[Route("/where", where)]),
    Route("/upload", upload, methods=["POST"]),
    Route("/digest", digest, methods=["POST"]),
    Route("/background", background, methods=["POST"]),
    Route("/error", error),
    Route("/teapot", teapot),
    Route("/forbidden", forbidden),
    Route("/cookies", cookies),
    Route("/session", session, methods=["GET", "POST"]),
    Route("/redirect", redirect),
    Route("/file", file),
    Route("/state", state),
    Route("/gate", open_gate, methods=["POST"]),
    Route("/events", events),
]

app = Starlette(
    routes=routes,
    lifespan=lifespan,
    middleware=[
        Middleware(RecordMessages),
        Middleware(SessionMiddleware, secret_key="for tests only"),
    ],
    exception_handlers={Teapot: handle_teapot},
)
