"""Choosing who gets a new connection among the sockets that listen on one address (Linux).

The kernel keeps the sockets of a reuse-port group in an array: listening appends a socket, and
when one leaves, the last one takes its place. Without a program it hashes a connection's
addresses over the whole array. With one, the program names the place; a place past the end means
the hash after all (net/core/sock_reuseport.c). The programs here are classic BPF, which needs no
privilege; they choose at random, because nothing in a packet is sure to differ everywhere (the
receive hash is zero on some devices).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import socket
import struct
import sys
from collections.abc import Collection
from typing import Final

# include/uapi/asm-generic/socket.h; Python does not name them. The numbers are those of every
# architecture but SPARC and PA-RISC, where the options are refused.
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SO_DETACH_REUSEPORT_BPF: Final = 68

# include/uapi/linux/bpf_common.h and filter.h
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_ADD: Final = 0x04  # BPF_ALU | BPF_ADD | BPF_K
_MODULO: Final = 0x94  # BPF_ALU | BPF_MOD | BPF_K
_JUMP_IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_RETURN_IT: Final = 0x16  # BPF_RET | BPF_A
_RANDOM: Final = -0x1000 + 56 & 0xFFFFFFFF  # SKF_AD_OFF + SKF_AD_RANDOM


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


_HASH: Final = _instruction(_RETURN, 0xFFFFFFFF)
"""Names a place past any end, which leaves it to the kernel's hash."""


def program(size: int, excluded: Collection[int]) -> bytes:
    """A program that chooses at random among the places 0 to `size - 1` that are not `excluded`.

    A random place in a row without gaps, which then moves on by one for each excluded place that
    it has not come past yet.
    """
    holes = sorted(set(excluded))
    assert len(holes) < size, "nothing is left to choose"
    steps = [_instruction(_LOAD_WORD, _RANDOM), _instruction(_MODULO, size - len(holes))]
    for hole in holes:
        steps += [_instruction(_JUMP_IF_AT_LEAST, hole, 0, 1), _instruction(_ADD, 1)]
    return b"".join([*steps, _instruction(_RETURN_IT, 0)])


def attach(sock: socket.socket, code: bytes) -> None:
    """Have `code` choose for the whole group of `sock`, at once and in place of another program.

    Raises OSError where the kernel cannot.
    """
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions and where they are
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, header)


def detach(sock: socket.socket) -> None:
    """Leave the choice for the group of `sock` to the kernel again. Raises OSError."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:  # before Linux 5.3
            attach(sock, _HASH)
        elif error.errno != errno.ENOENT:  # there was no program
            raise


@functools.cache
def is_supported() -> bool:
    """Whether connections can be steered here. Some kernels that call themselves Linux cannot."""
    if sys.platform != "linux":
        return False
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            attach(probe, program(1, ()))
        except OSError:
            return False
    return True
