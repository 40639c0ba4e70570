"""The same WebSockets in each framework: `/echo/NAME` echoes text after a greeting, `/denied` is
refused.

Factories, so that only the one that is served is imported. Annotations are not put off: FastAPI and
Litestar read them, and could not find what is imported in here.
"""

from typing import Any


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    async def echo(socket: WebSocket) -> None:
        await socket.accept(subprotocol="chat")
        await socket.send_json({"name": socket.path_params["name"]})
        try:
            async for text in socket.iter_text():
                await socket.send_text(text)
        except WebSocketDisconnect:
            pass

    async def denied(socket: WebSocket) -> None:
        await socket.send_denial_response(PlainTextResponse("no", status_code=401))

    return Starlette(
        routes=[WebSocketRoute("/echo/{name}", echo), WebSocketRoute("/denied", denied)]
    )


def fastapi() -> Any:
    import fastapi

    app = fastapi.FastAPI()

    @app.websocket("/echo/{name}")
    async def echo(socket: fastapi.WebSocket, name: str) -> None:
        await socket.accept(subprotocol="chat")
        await socket.send_json({"name": name})
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except fastapi.WebSocketDisconnect:
            pass

    @app.websocket("/denied")
    async def denied(socket: fastapi.WebSocket) -> None:
        raise fastapi.WebSocketException(code=1008)

    return app


def litestar() -> Any:
    from litestar import Litestar, WebSocket, websocket
    from litestar.exceptions import WebSocketDisconnect, WebSocketException

    @websocket("/echo/{name:str}")
    async def echo(socket: WebSocket[Any, Any, Any], name: str) -> None:
        await socket.accept(subprotocols="chat")
        await socket.send_json({"name": name})
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect:
            pass

    @websocket("/denied")
    async def denied(socket: WebSocket[Any, Any, Any]) -> None:
        raise WebSocketException(code=1008, detail="no")

    return Litestar([echo, denied])


def channels() -> Any:
    import django  # type: ignore[import-untyped]
    from django.conf import settings  # type: ignore[import-untyped]

    settings.configure(SECRET_KEY="for tests only", ALLOWED_HOSTS=["*"])
    django.setup()
    from channels.generic.websocket import (  # type: ignore[import-untyped]
        AsyncJsonWebsocketConsumer,
        AsyncWebsocketConsumer,
    )
    from channels.routing import ProtocolTypeRouter, URLRouter  # type: ignore[import-untyped]
    from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]
    from django.urls import path  # type: ignore[import-untyped]

    class Echo(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept("chat")
            await self.send_json({"name": self.scope["url_route"]["kwargs"]["name"]})

        async def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
            await self.send(text_data)

    class Denied(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.close()

    router = URLRouter([path("echo/<str:name>", Echo.as_asgi()), path("denied", Denied.as_asgi())])
    return ProtocolTypeRouter({"http": get_asgi_application(), "websocket": router})


def quart() -> Any:
    import quart

    app = quart.Quart(__name__)

    @app.websocket("/echo/<name>")
    async def echo(name: str) -> None:
        await quart.websocket.accept(subprotocol="chat")
        await quart.websocket.send_json({"name": name})
        while True:
            await quart.websocket.send(await quart.websocket.receive())

    @app.websocket("/denied")
    async def denied() -> tuple[str, int]:
        return "no", 401

    return app
