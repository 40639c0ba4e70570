"""FastAPI, with what it adds to Starlette: dependencies, models, threads, server-sent events."""

from __future__ import annotations

import httpx

from tests.frameworks.contract import FrameworkContract
from tests.frameworks.served_app import FILE_CONTENT, Client
from tests.frameworks.steering import assert_events_arrive_when_made, wait_for_events

APP = "tests.frameworks.apps.fastapi_app:app"


class TestFastAPI(FrameworkContract):
    def test_requests_get_copies_of_the_lifespan_state(self, client: httpx.Client) -> None:
        first = client.get("/state").json()
        second = client.get("/state").json()
        assert first["greeting"] == second["greeting"] == "from startup"
        assert second["shared"] == [*first["shared"], len(first["shared"])]

    def test_validates_a_body_against_its_model(self, client: httpx.Client) -> None:
        order = {"product": "Käse", "count": 3}
        assert client.post("/orders", json=order).json() == order
        response = client.post("/orders", json={"product": "Käse", "count": "many"})
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "count"]

    def test_a_dependency_is_released_after_the_response(
        self, client: httpx.Client, key: str
    ) -> None:
        response = client.get("/dependency", params={"key": key})
        assert response.json() == {"held": "resource", "events": ["acquired"]}
        wait_for_events(client, key, "acquired", "released")

    def test_a_function_that_is_not_async_runs_in_a_thread(self, client: httpx.Client) -> None:
        for name in ("one", "zwölf"):
            assert client.get("/thread", params={"name": name}).json() == {"name": name}

    def test_events_arrive_when_they_are_made(self, client: Client, key: str) -> None:
        assert_events_arrive_when_made(client, key)

    def test_serves_a_range_of_a_file(self, client: httpx.Client) -> None:
        response = client.get("/file", headers={"Range": "bytes=1000-200999"})
        assert response.status_code == 206
        assert response.content == FILE_CONTENT[1000:201000]

    def test_describes_itself(self, client: httpx.Client) -> None:
        paths = client.get("/openapi.json").json()["paths"]
        assert "/größe/{name}" in paths
        assert client.get("/docs").status_code == 200
