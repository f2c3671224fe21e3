"""The sockets that the server listens on: bound to every address of a host, or to a path."""

import atexit
import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from settings import Settings, StartError

MAX_PATH_BYTES = 107
"""Linux has 108, the last of which is a zero."""
UNAVAILABLE_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def to_sockets(settings: Settings) -> list[socket.socket]:
    """Bound sockets for `--host` and `--port`, or for `--uds`; raises StartError."""
    if settings.uds is not None:
        return [UnixSocket(settings.uds)]
    return bind_sockets(settings)


def to_port(bound: socket.socket) -> int:
    """The port that a socket is bound to; 0 for a unix socket."""
    return 0 if bound.family == socket.AF_UNIX else int(bound.getsockname()[1])


def bind_sockets(settings: Settings) -> list[socket.socket]:
    """Bound sockets for every address of `--host`; raises StartError if the port is taken."""
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
            # For its connections: events go out at once.
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
    """A listening socket at a path, open to every user of the machine who reaches its directory."""

    def __init__(self, path: str) -> None:
        """Bind it; raises StartError if something else is there."""
        super().__init__(socket.AF_UNIX)
        self._path, self._process = Path(path), os.getpid()
        self._identity: tuple[int, ...] = ()
        try:
            self._bind()
        except StartError:
            super().close()
            raise
        except (OSError, ValueError) as failure:  # ValueError: a zero in the path
            super().close()
            reason = (
                os.strerror(failure.errno or 0) if isinstance(failure, OSError) else str(failure)
            )
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
        self._path.chmod(0o666)  # as uvicorn's; who may enter its directory is the user's to say
        self.listen()  # at once: a socket that nobody listens to is taken for stale

    def _remove_stale(self) -> None:
        if not stat.S_ISSOCK(self._path.lstat().st_mode):
            raise StartError(f"--uds {self._path} is there, and is no socket.")
        with socket.socket(socket.AF_UNIX) as other:
            other.setblocking(False)  # with a full queue, it would wait
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
        """Take it away, unless another process has put its own there meanwhile."""
        with suppress(OSError):  # it is gone, or its directory is
            if os.getpid() == self._process and _identity(self._path) == self._identity:
                self._path.unlink()


def _identity(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_mtime_ns
