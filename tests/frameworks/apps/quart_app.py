"""The common routes of these tests in Quart."""

from __future__ import annotations

import hashlib
from typing import Any

from quart import (
    Quart,
    Response,
    ResponseReturnValue,
    abort,
    jsonify,
    make_response,
    redirect,
    request,
    send_file,
    session,
    url_for,
)

from tests.frameworks.apps import probe

app = Quart(__name__)
app.secret_key = "for tests only"
app.config["RESPONSE_TIMEOUT"] = None


class Teapot(Exception):
    """Has a handler of its own."""


@app.before_serving
async def startup() -> None:
    probe.note_lifespan("startup")
    app.config["GREETING"] = "from startup"
    app.config["SHARED"] = []


@app.after_serving
async def shutdown() -> None:
    probe.note_lifespan("shutdown")


@app.errorhandler(Teapot)
async def handle_teapot(error: Teapot) -> ResponseReturnValue:
    return {"error": str(error)}, 418


@app.get("/hello")
async def hello() -> ResponseReturnValue:
    return "hello", {"Content-Type": "text/plain"}


@app.get("/items/<name>")
@app.get("/größe/<name>")
async def item(name: str) -> ResponseReturnValue:
    return {"name": name, "query": request.args.to_dict(flat=False)}


@app.post("/json")
async def echo_json() -> ResponseReturnValue:
    return jsonify(await request.get_json())


@app.get("/large")
async def large() -> ResponseReturnValue:
    return jsonify(probe.large_document())


@app.get("/stream")
async def stream() -> ResponseReturnValue:
    return Response(probe.gated_parts(request.args["key"]))


@app.get("/endless")
async def endless() -> ResponseReturnValue:
    return Response(probe.endless_parts(request.args["key"]))


@app.get("/failing-stream")
async def failing_stream() -> ResponseReturnValue:
    return Response(probe.failing_parts())


@app.post("/upload")
async def upload() -> ResponseReturnValue:
    file = (await request.files)["file"]
    content = file.read()
    return {
        "filename": file.filename,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "note": (await request.form)["note"],
    }


@app.post("/digest")
async def digest() -> ResponseReturnValue:
    key = request.args.get("key", "")
    sha256, size = hashlib.sha256(), 0
    complete = False
    probe.record(key, "began")
    try:
        async for part in request.body:
            sha256.update(part)
            size += len(part)
        complete = True
    finally:
        probe.record(key, "complete" if complete else "aborted")
    return {"sha256": sha256.hexdigest(), "size": size}


@app.post("/background")
async def background() -> ResponseReturnValue:
    async def work(key: str) -> None:
        probe.record(key, "began")
        await probe.pass_gate(key)
        probe.record(key, "ended")

    app.add_background_task(work, request.args["key"])
    return "accepted", 202


@app.get("/error")
async def error() -> ResponseReturnValue:
    raise ValueError("the handler broke")


@app.get("/teapot")
async def teapot() -> ResponseReturnValue:
    raise Teapot("short and stout")


@app.get("/forbidden")
async def forbidden() -> ResponseReturnValue:
    abort(403, "not for you")


@app.get("/cookies")
async def cookies() -> ResponseReturnValue:
    response = await make_response(dict(request.cookies))
    response.set_cookie("first", "1", max_age=60, httponly=True)
    response.set_cookie("second", "two words")
    return response


@app.route("/session", methods=["GET", "POST"])
async def session_values() -> ResponseReturnValue:
    if request.method == "POST":
        session.update(await request.get_json())
    return dict(session)


@app.get("/redirect")
async def redirect_to_hello() -> ResponseReturnValue:
    return redirect(url_for("hello"), 307)


@app.get("/file")
async def file() -> ResponseReturnValue:
    return await send_file(probe.file_to_serve(), conditional=True)


@app.get("/state")
async def state() -> dict[str, Any]:
    """Quart takes the lifespan of ASGI, but not its state: this is its own configuration."""
    shared: list[int] = app.config["SHARED"]
    shared.append(len(shared))
    return {"greeting": app.config["GREETING"], "shared": shared}


@app.post("/gate")
async def open_gate() -> ResponseReturnValue:
    probe.gate(request.args["key"]).set()
    return "open"


@app.get("/events")
async def events() -> ResponseReturnValue:
    return jsonify(probe.events(request.args["key"]))


@app.get("/with-slash/")
async def with_slash() -> ResponseReturnValue:
    return "slash"
