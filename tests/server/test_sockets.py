"""The sockets that are listened on at a host's addresses."""

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from server.sockets import bind_sockets
from settings import Settings, StartError


def test_a_name_that_is_no_host() -> None:
    with pytest.raises(StartError, match="no address"):
        bind_sockets(Settings(host="no.such.host.invalid"))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_no_connection_holds_small_events_back(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Whichever loop serves: asyncio's leaves Nagle's delay on where a listening socket does not name its protocol."""

    class Answer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            accepted = transport.get_extra_info("socket")
            transport.write(bytes([accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)]))

    async def connected() -> bytes:
        (bound,) = bind_sockets(Settings(host="127.0.0.1", port=0))
        server = await asyncio.get_running_loop().create_server(Answer, sock=bound)
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        answer = await reader.readexactly(1)
        writer.close()
        server.close()
        return answer

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(connected()) == b"\x01"


def test_every_address_of_localhost_listens_on_one_port() -> None:
    sockets = bind_sockets(Settings(host="localhost", port=0))
    assert len({bound.getsockname()[1] for bound in sockets}) == 1
    for bound in sockets:
        bound.close()
