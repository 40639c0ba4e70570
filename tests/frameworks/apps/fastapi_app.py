"""The common routes of these tests in FastAPI, with the means it adds: dependencies, models,
declared parameters, background tasks, server-sent events."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated, Any

from fastapi import (
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    Form,
    HTTPException,
    Request,
    Response,
    UploadFile,
)
from fastapi.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect

from tests.frameworks.apps import probe


class Teapot(Exception):
    """Has a handler of its own."""


class Order(BaseModel):
    product: str
    count: int


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    probe.note_lifespan("startup")
    yield {"greeting": "from startup", "shared": []}
    probe.note_lifespan("shutdown")


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key="for tests only")


@app.exception_handler(Teapot)
async def handle_teapot(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": str(exc)}, status_code=418)


async def resource(key: str) -> AsyncIterator[str]:
    """A dependency that has to be given back."""
    probe.record(key, "acquired")
    yield "resource"
    probe.record(key, "released")


@app.get("/hello", response_class=PlainTextResponse)
async def hello() -> str:
    return "hello"


@app.head("/hello", response_class=PlainTextResponse)
async def hello_head() -> str:
    return "hello"


@app.get("/items/{name}")
@app.get("/größe/{name}")
async def item(name: str, request: Request) -> dict[str, object]:
    query = {key: request.query_params.getlist(key) for key in request.query_params}
    return {"name": name, "query": query}


@app.post("/json")
async def echo_json(request: Request) -> Any:
    return await request.json()


@app.post("/orders")
async def order(order: Order) -> Order:
    return order


@app.get("/dependency")
async def dependency(key: str, held: Annotated[str, Depends(resource)]) -> dict[str, object]:
    return {"held": held, "events": list(probe.events(key))}


@app.get("/thread")
def in_thread(name: str) -> dict[str, str]:
    """Not async: FastAPI runs it in its pool of threads."""
    return {"name": name}


@app.get("/large")
async def large() -> Response:
    return JSONResponse(probe.large_document())


@app.get("/stream")
async def stream(key: str) -> Response:
    return StreamingResponse(probe.gated_parts(key))


@app.get("/endless")
async def endless(key: str) -> Response:
    return StreamingResponse(probe.endless_parts(key))


@app.get("/failing-stream")
async def failing_stream() -> Response:
    return StreamingResponse(probe.failing_parts())


@app.get("/sse", response_class=EventSourceResponse)
async def sse(key: str) -> AsyncIterable[ServerSentEvent]:
    async with contextlib.aclosing(probe.ticking_numbers(key)) as numbers:
        async for number in numbers:
            yield ServerSentEvent(data={"number": number}, event="count", id=str(number))


@app.post("/upload")
async def upload(file: UploadFile, note: Annotated[str, Form()]) -> dict[str, object]:
    content = await file.read()
    return {
        "filename": file.filename,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "note": note,
    }


@app.post("/digest")
async def digest(request: Request, key: str = "") -> dict[str, object]:
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
    return {"sha256": sha256.hexdigest(), "size": size}


@app.post("/background", status_code=202, response_class=PlainTextResponse)
async def background(key: str, tasks: BackgroundTasks) -> str:
    async def work() -> None:
        probe.record(key, "began")
        await probe.pass_gate(key)
        probe.record(key, "ended")

    tasks.add_task(work)
    return "accepted"


@app.get("/error")
async def error() -> None:
    raise ValueError("the handler broke")


@app.get("/teapot")
async def teapot() -> None:
    raise Teapot("short and stout")


@app.get("/forbidden")
async def forbidden() -> None:
    raise HTTPException(403, "not for you")


@app.get("/cookies")
async def cookies(
    response: Response,
    first: Annotated[str | None, Cookie()] = None,
    second: Annotated[str | None, Cookie()] = None,
) -> dict[str, str]:
    response.set_cookie("first", "1", max_age=60, httponly=True)
    response.set_cookie("second", "two words")
    sent = {"first": first, "second": second}
    return {name: value for name, value in sent.items() if value is not None}


@app.get("/session")
async def get_session(request: Request) -> dict[str, Any]:
    return request.session


@app.post("/session")
async def set_session(request: Request, values: dict[str, Any]) -> dict[str, Any]:
    request.session.update(values)
    return request.session


@app.get("/redirect")
async def redirect(request: Request) -> Response:
    return RedirectResponse(request.url_for("hello"))


@app.get("/file")
async def file() -> Response:
    return FileResponse(probe.file_to_serve())


@app.head("/file")
async def file_head() -> Response:
    return FileResponse(probe.file_to_serve())


@app.get("/state")
async def state(request: Request) -> dict[str, object]:
    greeting = request.state.greeting
    request.state.greeting = "overwritten"
    request.state.shared.append(len(request.state.shared))
    return {"greeting": greeting, "shared": request.state.shared}


@app.post("/gate", response_class=PlainTextResponse)
async def open_gate(key: str) -> str:
    probe.gate(key).set()
    return "open"


@app.get("/events")
async def events(key: str) -> list[str]:
    return probe.events(key)
