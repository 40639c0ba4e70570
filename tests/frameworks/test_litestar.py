"""Litestar, with its static files and server-sent events."""

from __future__ import annotations

import httpx

from tests.frameworks.contract import FrameworkContract
from tests.frameworks.served_app import FILE_CONTENT, Client
from tests.frameworks.steering import assert_events_arrive_when_made

APP = "tests.frameworks.apps.litestar_app:app"


class TestLitestar(FrameworkContract):
    error_log = None
    head_length = "0"
    options_status = 204
    redirect_status = 302
    redirect_below_root_path = "/hello"  # The path that the application says is taken as it is.

    def test_the_state_of_the_lifespan_is_there(self, client: httpx.Client) -> None:
        assert client.get("/state").json()["greeting"] == "from startup"

    def test_serves_static_files(self, client: httpx.Client) -> None:
        response = client.get("/static/file.bin")
        assert response.content == FILE_CONTENT
        assert client.get("/static/none.bin").status_code == 404

    def test_events_arrive_when_they_are_made(self, client: Client, key: str) -> None:
        assert_events_arrive_when_made(client, key)
