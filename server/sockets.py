"""The sockets that the server listens on: for every address of a host, or at a path (a unix socket)."""

import atexit
import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from settings import Settings, StartError

MAX_PATH_BYTES = 107
"""Linux has 108 bytes for the path of a unix socket (man 7 unix), the last of which is a zero."""
UNAVAILABLE_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address that the host's name stands for and this machine does not have, such as one of IPv6."""


def to_sockets(settings: Settings) -> list[socket.socket]:
    """Listening sockets for `--uds`, or else for `--host` and `--port`; raises StartError."""
    if settings.uds is not None:
        return [UnixSocket(settings.uds)]
    return bind_sockets(settings)


def to_port(bound: socket.socket) -> int:
    """The port that a socket is bound to; 0 for a unix socket."""
    return 0 if bound.family == socket.AF_UNIX else int(bound.getsockname()[1])


def network_host(host: str) -> str:
    """By what name other machines reach this one if it listens at every address (`host`); empty if it has none.

    It is the address that packets to elsewhere would come from (one of RFC 5737 or 3849, which nobody has), else the
    machine's name. Nothing is sent.
    """
    family, elsewhere = socket.AF_INET, "192.0.2.1"
    if host == "::":
        family, elsewhere = socket.AF_INET6, "2001:db8::1"
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((elsewhere, 9))
        return str(probe.getsockname()[0])
    name = socket.gethostname()
    return "" if name.startswith("localhost") else name


def bind_sockets(settings: Settings) -> list[socket.socket]:
    """Listening sockets for every address of `--host`, all on one port; with `--port 0`, on one that is free.

    Raises StartError if the host has no address on this machine, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
        )
    except socket.gaierror as failure:
        raise StartError(f"There is no address for --host {settings.host}.") from failure
    sockets: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(found):
        port = sockets[0].getsockname()[1] if sockets else settings.port
        try:
            bound = socket.create_server((address[0], port, *address[2:]), family=family)
            # Connections inherit it: small events are sent at once, not collected (Nagle's algorithm).
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets.append(bound)
        except OSError as failure:
            if failure.errno not in UNAVAILABLE_ADDRESS:
                reason = f"Port {settings.port} on {settings.host} cannot be used: {os.strerror(failure.errno or 0)}."
                raise StartError(reason) from failure
    if not sockets:
        raise StartError(f"This machine has no address {settings.host}.")
    return sockets


class UnixSocket(socket.socket):
    """A listening unix socket; every user of the machine who may enter its directory can connect to it.

    Its file is removed when it is closed and when the process exits, unless another process has replaced it.
    """

    def __init__(self, path: str) -> None:
        """Bind and listen; raises StartError if there is a file other than a socket to which nobody listens."""
        super().__init__(socket.AF_UNIX)
        self._path = Path(path)
        self._process = os.getpid()
        self._identity: tuple[int, ...] = ()
        try:
            self._bind()
        except StartError:
            super().close()
            raise
        except (OSError, ValueError) as failure:  # ValueError: the path has a zero byte
            super().close()
            reason = getattr(failure, "strerror", None) or failure
            raise StartError(f"--uds {path} cannot be used: {reason}.") from failure
        atexit.register(self.remove)

    def _bind(self) -> None:
        path = os.fspath(self._path)
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise StartError(
                f"--uds {path} is too long: the path of a socket has at most {MAX_PATH_BYTES} bytes."
            )
        if os.path.lexists(path):
            self._remove_stale()
        self.bind(path)
        self._identity = _identity(self._path)
        # As uvicorn does; the directory's permissions say who may connect.
        self._path.chmod(0o666)
        # At once: another server that starts removes a socket to which nobody listens.
        self.listen()

    def _remove_stale(self) -> None:
        """Remove a socket to which nobody listens, as a killed server leaves it; raises StartError for other files."""
        if not stat.S_ISSOCK(self._path.lstat().st_mode):
            raise StartError(f"--uds {self._path} is there, and is no socket.")
        with socket.socket(socket.AF_UNIX) as other:
            # Else it would wait where the other's queue of connections is full.
            other.setblocking(False)
            try:
                other.connect(os.fspath(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
                return
            except BlockingIOError:
                pass
        raise StartError(f"--uds {self._path} is in use: another process listens to it.")

    def close(self) -> None:
        self.remove()
        super().close()

    def remove(self) -> None:
        """Remove the socket's file, unless another process has replaced it or this is a forked child."""
        with suppress(OSError):  # the file or its directory no longer exists
            if os.getpid() == self._process and _identity(self._path) == self._identity:
                self._path.unlink()


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a file from one that replaces it: an inode's number may be used again, so its time is needed too."""
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_mtime_ns
