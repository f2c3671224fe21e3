"""A network for tests that is theirs alone: Linux's network namespaces."""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
SET_FLAGS, IS_UP = 0x8914, 0x1
"""SIOCSIFFLAGS and IFF_UP (man 7 netdevice)."""
LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and what it starts, to a network with nothing but a loopback interface, and back at the end.

    Only root may do so; for others the block runs in the network of the machine.
    """
    if os.geteuid() != 0:
        yield
        return
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        check(LIBC.unshare(CLONE_NEWNET))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", IS_UP))
        yield
    finally:
        check(LIBC.setns(before, CLONE_NEWNET))
        os.close(before)


def check(result: int) -> None:
    """Raise OSError for a call of libc that has failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
