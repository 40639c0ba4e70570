"""The middlewares of Starlette and FastAPI between the server and a few routes."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from tests.frameworks.apps import probe
from tests.frameworks.apps.record_messages import RecordMessages

TEXT = "".join(f"{number}: the quick brown fox\n" for number in range(20_000))

app = FastAPI()


class AddHeader(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-middleware"] = "class"
        return response


@app.middleware("http")
async def add_header(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["x-function"] = "function"
    return response


app.add_middleware(AddHeader)
app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(
    CORSMiddleware,
    allow_origins=["https://app.example"],
    allow_methods=["GET", "PUT"],
    allow_headers=["X-Token"],
    allow_credentials=True,
)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
app.add_middleware(RecordMessages)


@app.get("/hello", response_class=PlainTextResponse)
async def hello() -> str:
    return "hello"


@app.get("/text", response_class=PlainTextResponse)
async def text() -> str:
    return TEXT


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body())


@app.get("/stream")
async def stream(key: str) -> Response:
    return StreamingResponse(probe.gated_parts(key))


@app.get("/endless")
async def endless(key: str) -> Response:
    return StreamingResponse(probe.endless_parts(key))


@app.get("/file")
async def file() -> Response:
    return FileResponse(probe.file_to_serve())


@app.get("/error")
async def error() -> Response:
    raise ValueError("the handler broke")


@app.get("/failing-stream")
async def failing_stream() -> Response:
    return StreamingResponse(probe.failing_parts())


@app.post("/background")
async def background(key: str) -> Response:
    async def work() -> None:
        probe.record(key, "began")
        await probe.pass_gate(key)
        probe.record(key, "ended")

    return PlainTextResponse("accepted", status_code=202, background=BackgroundTask(work))


@app.post("/gate")
async def open_gate(key: str) -> None:
    probe.gate(key).set()


@app.get("/events")
async def events(key: str) -> list[str]:
    return probe.events(key)
