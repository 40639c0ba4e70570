"""Stacks as text."""

from __future__ import annotations

from types import FrameType
from typing import Final

_MAX_FRAMES: Final = 100


def describe_frames(frame: FrameType | None) -> str:
    """A line for each frame, the innermost first, as faulthandler has it. Reads no source files,
    which could block."""
    lines: list[str] = []
    while frame is not None and len(lines) < _MAX_FRAMES:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_qualname}\n')
        frame = frame.f_back
    return "".join(lines)
