"""A Flask application, through the two adapters that users put before WSGI applications."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from a2wsgi import WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi
from flask import Flask, Response, request

flask_app = Flask(__name__)


@flask_app.get("/items/<name>")
def item(name: str) -> dict[str, Any]:
    environ = request.environ
    return {
        "name": name,
        "query": request.args.to_dict(flat=False),
        "scheme": environ["wsgi.url_scheme"],
        "protocol": environ["SERVER_PROTOCOL"],
        "port": environ["SERVER_PORT"],
        "header": request.headers.get("X-Token"),
    }


@flask_app.post("/digest")
def digest() -> dict[str, Any]:
    body = request.get_data()
    return {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}


@flask_app.get("/stream")
def stream() -> Response:
    def parts() -> Iterator[bytes]:
        for number in range(100):
            yield b"part %d\n" % number * 1000

    return Response(parts())


@flask_app.get("/error")
def error() -> str:
    raise ValueError("the handler broke")


a2wsgi_app = WSGIMiddleware(flask_app)  # type: ignore[arg-type]
asgiref_app = WsgiToAsgi(flask_app)  # type: ignore[no-untyped-call]
