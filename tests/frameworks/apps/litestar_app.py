"""The common routes of these tests in Litestar."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import Cookie, State, UploadFile
from litestar.enums import RequestEncodingType
from litestar.exceptions import InternalServerException, PermissionDeniedException
from litestar.handlers import head
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import Body, FromPath, FromQuery
from litestar.response import File, Redirect, ServerSentEvent, ServerSentEventMessage, Stream
from litestar.static_files import create_static_files_router

from tests.frameworks.apps import probe

AnyRequest = Request[Any, Any, State]


class Teapot(Exception):
    """Has a handler of its own."""


@get("/hello", media_type=MediaType.TEXT)
async def hello() -> str:
    return "hello"


@head("/hello", media_type=MediaType.TEXT)
async def hello_head() -> None:
    return None


@get(["/items/{name:str}", "/größe/{name:str}"])
async def item(name: FromPath[str], request: AnyRequest) -> dict[str, Any]:
    query = {key: request.query_params.getall(key) for key in request.query_params}
    return {"name": name, "query": query}


@post("/json", status_code=200)
async def echo_json(request: AnyRequest) -> Any:
    return await request.json()


@get("/large", sync_to_thread=True)
def large() -> list[dict[str, object]]:
    return probe.large_document()


@get("/stream")
async def stream(key: FromQuery[str]) -> Stream:
    return Stream(probe.gated_parts(key))


@get("/endless")
async def endless(key: FromQuery[str]) -> Stream:
    return Stream(probe.endless_parts(key))


@get("/failing-stream")
async def failing_stream() -> Stream:
    return Stream(probe.failing_parts())


@get("/sse")
async def sse(key: FromQuery[str]) -> ServerSentEvent:
    async def count() -> AsyncIterator[ServerSentEventMessage]:
        async with contextlib.aclosing(probe.ticking_numbers(key)) as numbers:
            async for number in numbers:
                yield ServerSentEventMessage(data=str(number), event="count", id=number)

    return ServerSentEvent(count())


@post("/upload", status_code=200)
async def upload(
    data: Annotated[dict[str, Any], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    file = data["file"]
    assert isinstance(file, UploadFile)
    content = await file.read()
    return {
        "filename": file.filename,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "note": data["note"],
    }


@post("/digest", status_code=200)
async def digest(request: AnyRequest, key: FromQuery[str] = "") -> dict[str, Any]:
    sha256, size = hashlib.sha256(), 0
    probe.record(key, "began")
    try:
        async for part in request.stream():
            sha256.update(part)
            size += len(part)
    except InternalServerException:
        probe.record(key, "aborted")
        raise
    probe.record(key, "complete")
    return {"sha256": sha256.hexdigest(), "size": size}


@post("/background", status_code=202, media_type=MediaType.TEXT)
async def background(key: FromQuery[str]) -> Response[str]:
    async def work() -> None:
        probe.record(key, "began")
        await probe.pass_gate(key)
        probe.record(key, "ended")

    return Response("accepted", background=BackgroundTask(work))


@get("/error")
async def error() -> None:
    raise ValueError("the handler broke")


@get("/teapot")
async def teapot() -> None:
    raise Teapot("short and stout")


@get("/forbidden")
async def forbidden() -> None:
    raise PermissionDeniedException("not for you")


@get("/cookies")
async def cookies(request: AnyRequest) -> Response[dict[str, str]]:
    return Response(
        dict(request.cookies),
        cookies=[
            Cookie("first", value="1", max_age=60, httponly=True),
            Cookie("second", value="two words"),
        ],
    )


@get("/session")
async def get_session(request: AnyRequest) -> dict[str, Any]:
    return request.session


@post("/session", status_code=200)
async def set_session(request: AnyRequest) -> dict[str, Any]:
    request.session.update(await request.json())
    return request.session


@get("/redirect", status_code=307)
async def redirect() -> Redirect:
    return Redirect("/hello")


@get("/file")
async def file() -> File:
    return File(probe.file_to_serve())


@get("/state")
async def state(request: AnyRequest) -> dict[str, Any]:
    """Litestar takes the lifespan of ASGI, but keeps a state of its own."""
    shared: list[int] = request.app.state.shared
    shared.append(len(shared))
    return {"greeting": request.app.state.greeting, "shared": shared}


@post("/gate", status_code=200, media_type=MediaType.TEXT)
async def open_gate(key: FromQuery[str]) -> str:
    probe.gate(key).set()
    return "open"


@get("/events")
async def events(key: FromQuery[str]) -> list[str]:
    return probe.events(key)


def handle_teapot(request: AnyRequest, exc: Exception) -> Response[dict[str, str]]:
    return Response({"error": str(exc)}, status_code=418)


@contextlib.asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    probe.note_lifespan("startup")
    app.state.greeting = "from startup"
    app.state.shared = []
    yield
    probe.note_lifespan("shutdown")


app = Litestar(
    route_handlers=[
        hello,
        hello_head,
        item,
        echo_json,
        large,
        stream,
        endless,
        failing_stream,
        sse,
        upload,
        digest,
        background,
        error,
        teapot,
        forbidden,
        cookies,
        get_session,
        set_session,
        redirect,
        file,
        state,
        open_gate,
        events,
        create_static_files_router(path="/static", directories=[probe.file_to_serve().parent]),
    ],
    lifespan=[lifespan],
    middleware=[ServerSideSessionConfig().middleware],
    exception_handlers={Teapot: handle_teapot},
    openapi_config=None,
)
