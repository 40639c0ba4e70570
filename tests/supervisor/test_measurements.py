"""Where the workers of a master count."""

from __future__ import annotations

import pytest

from pounce.errors import SharedMemoryError
from pounce.metrics import catalogue
from pounce.shm.arena import Arena
from pounce.supervisor.measurements import Place


def test_a_worker_of_another_version_says_what_to_do() -> None:
    with Arena.create(catalogue.layout(2)) as arena:
        assert arena.name is not None
        place = Place(arena=arena.name, slots=3, index=0, has_clients=False)
        with pytest.raises(
            SharedMemoryError, match=r"another version than that of the master.*USR2"
        ):
            place.attach()
