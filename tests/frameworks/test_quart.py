"""Quart, with ranges of files and what it keeps from startup."""

from __future__ import annotations

import httpx

from tests.frameworks.contract import FrameworkContract
from tests.frameworks.served_app import FILE_CONTENT

APP = "tests.frameworks.apps.quart_app:app"


class TestQuart(FrameworkContract):
    options_status = 200

    def test_what_startup_made_is_there(self, client: httpx.Client) -> None:
        assert client.get("/state").json()["greeting"] == "from startup"

    def test_serves_a_range_of_a_file(self, client: httpx.Client) -> None:
        response = client.get("/file", headers={"Range": "bytes=1000-200999"})
        assert response.status_code == 206
        assert response.headers["content-range"] == f"bytes 1000-200999/{len(FILE_CONTENT)}"
        assert response.content == FILE_CONTENT[1000:201000]

    def test_a_missing_slash_is_appended(self, client: httpx.Client) -> None:
        response = client.get("/with-slash?a=1")
        assert response.status_code == 308
        assert client.base_url.join(response.headers["location"]).path == "/with-slash/"
