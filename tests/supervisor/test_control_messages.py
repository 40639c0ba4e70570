"""The language of the control socket: whatever comes is a command or a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.supervisor.control_messages import (
    COMMANDS,
    MAX_REQUEST,
    ControlError,
    Request,
    decode_answer,
    decode_request,
    encode_error,
    encode_request,
    encode_result,
)

NO_COUNTS: list[Any] = [0, -1, 1.5, "2", True, [2], float("inf")]
NO_SWITCHES: list[Any] = [1, 0, "yes", None, {}]


def request(**changes: Any) -> bytes:
    message = {"version": 1, "command": "status", "arguments": {}} | changes
    return json.dumps({name: value for name, value in message.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("command", "arguments", "complete"),
    [
        ("status", {}, {}),
        ("reload", {}, {"wait": True}),
        ("reload", {"wait": False}, {"wait": False}),
        ("scale", {"workers": 1}, {"workers": 1}),
        ("restart-worker", {"worker_id": 0}, {"worker_id": 0}),
        ("stop", {}, {"now": False}),
        ("stop", {"now": True}, {"now": True}),
    ],
)
def test_a_command_arrives_with_all_its_arguments(
    command: str, arguments: dict[str, Any], complete: dict[str, Any]
) -> None:
    assert decode_request(encode_request(command, arguments)) == Request(command, complete)


def test_every_command_can_be_said() -> None:
    for command, arguments in COMMANDS.items():
        needed = {name: 1 for name, argument in arguments.items() if argument.default is None}
        assert decode_request(encode_request(command, needed)).command == command


def test_arguments_may_be_left_out_and_what_later_versions_add_is_passed_over() -> None:
    assert decode_request(request(arguments=..., trace="abc")) == Request("status", {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "not a line of JSON"),
        (b"\n", "not a line of JSON"),
        (b"GET / HTTP/1.1\r\n", "not a line of JSON"),
        (b'{"version": 1', "not a line of JSON"),
        (b"\xff\xfe\n", "not a line of JSON"),
        (b"[" * MAX_REQUEST, "not a line of JSON"),
        (b"9" * 10_000, "not a line of JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (request(version=2), "this server speaks version 1 of the control protocol"),
        (request(version=...), "this server speaks version 1 of the control protocol"),
        (request(version="1"), "this server speaks version 1 of the control protocol"),
        (
            request(command="explode"),
            "unknown command; there are status, reload, scale, restart-worker, stop",
        ),
        (
            request(command=["status"]),
            "unknown command; there are status, reload, scale, restart-worker, stop",
        ),
        (request(arguments=[]), "arguments must be an object"),
        (request(arguments=None), "arguments must be an object"),
        (request(arguments={"x": 1}), "status has no argument 'x'"),
        (request(command="scale"), "scale needs the argument 'workers'"),
        (
            request(command="scale", arguments={"workers": None}),
            "scale needs the argument 'workers'",
        ),
        *(
            (
                request(command="scale", arguments={"workers": value}),
                "workers must be a whole number of at least 1",
            )
            for value in NO_COUNTS
        ),
        (
            request(command="restart-worker", arguments={"worker_id": -1}),
            "worker_id must be a whole number of at least 0",
        ),
        *(
            (
                request(command="stop", arguments={"now": value}),
                "now must be true or false",
            )
            for value in NO_SWITCHES
        ),
    ],
)
def test_anything_else_is_refused_with_the_reason(line: bytes, message: str) -> None:
    with pytest.raises(ControlError) as caught:
        decode_request(line)
    assert str(caught.value) == message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.binary()
    | st.builds(
        lambda command, arguments: request(command=command, arguments=arguments),
        st.sampled_from([*COMMANDS]) | json_values,
        json_values
        | st.dictionaries(
            st.sampled_from(["wait", "workers", "worker_id", "now"]) | st.text(), json_values
        ),
    )
)
def test_whatever_comes_is_a_checked_command_or_a_refusal_of_one_line(line: bytes) -> None:
    found, refusal = None, None
    try:
        found = decode_request(line)
    except ControlError as error:
        refusal = str(error)
    if found is not None:
        assert found.arguments.keys() == COMMANDS[found.command].keys()
        for name, value in found.arguments.items():
            assert type(value) is COMMANDS[found.command][name].kind
    else:
        assert refusal
        assert "\n" not in refusal
        assert json.loads(encode_error(refusal)) == {"ok": False, "error": refusal}


def test_a_result_and_an_error_arrive() -> None:
    assert encode_result({"a": 1}) == b'{"ok": true, "result": {"a": 1}}\n'
    assert decode_answer(encode_result({"a": [1, None]})) == {"a": [1, None]}
    assert encode_error("no\nway") == b'{"ok": false, "error": "no\\nway"}\n'
    with pytest.raises(ControlError, match=r"^no way$"):
        decode_answer(encode_error("no way"))


@pytest.mark.parametrize("line", [b'{"ok": true}', b'{"ok": 1, "result": {}}', b"{}", b'{"ok": 0}'])
def test_an_answer_without_a_result_is_no_answer(line: bytes) -> None:
    with pytest.raises(ControlError, match=r"^the answer cannot be understood$"):
        decode_answer(line)


@pytest.mark.parametrize("result", [{"a": float("nan")}, {"a": object()}, {"a": b""}])
def test_what_json_cannot_say_is_no_result(result: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode_result(result)
