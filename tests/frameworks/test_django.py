"""Django, with asynchronous and synchronous views."""

from __future__ import annotations

from typing import ClassVar

import httpx

from tests.frameworks.contract import FrameworkContract

APP = "tests.frameworks.apps.django_app:app"


class TestDjango(FrameworkContract):
    # It has no lifespan, and a view is not called before the body is complete.
    lifespan_events: ClassVar[list[str]] = []
    truncated_upload_events: ClassVar[list[str]] = []
    redirect_status = 302
    etag = False

    def test_a_missing_slash_is_appended(self, client: httpx.Client) -> None:
        response = client.get("/with-slash?a=1")
        assert response.status_code == 301
        assert response.headers["location"] == "/with-slash/?a=1"
