"""Unmasking, with the C function and without."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.protocol.ws import masking
from tests.protocol.ws_frames import masked


def without(**patches: str | None) -> Callable[[Any, bytes], bytes]:
    """What the module takes where something of websockets is not as it should be."""
    spec = importlib.util.find_spec(masking.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        if "speedups" in patches:
            patch.setitem(sys.modules, "websockets.speedups", None)
        else:
            patch.setattr("websockets.version.tag", patches["tag"])
        spec.loader.exec_module(module)
    function: Callable[[Any, bytes], bytes] = module.apply_mask
    return function


@pytest.mark.parametrize(
    "function", [masking.apply_mask, without(speedups=None), without(tag="15.0.1")]
)
@given(data=st.binary(max_size=300), key=st.binary(min_size=4, max_size=4))
def test_each_byte_is_masked_in_its_turn(
    function: Callable[[Any, bytes], bytes], data: bytes, key: bytes
) -> None:
    assert function(data, key) == masked(data, key)
    assert function(memoryview(data), key) == masked(data, key)


def test_the_c_function_is_taken_where_it_may_be() -> None:
    speedups = pytest.importorskip("websockets.speedups")
    assert masking.apply_mask is speedups.apply_mask
    assert without(tag="16.0") is speedups.apply_mask
    assert without(tag="15.0.1") is not speedups.apply_mask
