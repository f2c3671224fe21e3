"""Requests are sent in the callback that asks for it, in their order, each with an id of its own."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.engine


class Renderer:
    """Of vLLM's, what is asked for the end token."""

    def __init__(self) -> None:
        self.asked = 0

    def get_eos_token_id(self) -> int:
        self.asked += 1
        return 2


def client_of(socket: Any) -> Any:
    """vLLM's client with this socket, as `send_at_once` sees it."""
    processor = SimpleNamespace(renderer=Renderer(), assign_request_id=None)
    return SimpleNamespace(
        engine_core=SimpleNamespace(input_socket=socket), input_processor=processor
    )


def test_a_message_is_sent_before_it_is_awaited() -> None:
    import zmq
    import zmq.asyncio

    from engine.request_sender import send_at_once

    async def test() -> None:
        context = zmq.asyncio.Context()
        socket, engine = context.socket(zmq.PUSH), zmq.Context(context).socket(zmq.PULL)
        engine.bind("inproc://requests")
        socket.connect("inproc://requests")
        client = client_of(socket)
        send_at_once(client)
        sent = client.engine_core.input_socket.send_multipart((b"ADD", b"first"), copy=False)
        assert engine.recv_multipart(zmq.NOBLOCK) == [b"ADD", b"first"]
        await sent
        socket.close(0)
        engine.close(0)

    asyncio.run(test())


def test_no_message_overtakes_one_that_had_to_wait(tmp_path: Path) -> None:
    import zmq
    import zmq.asyncio

    from engine.request_sender import SendingSocket

    async def test() -> list[bytes]:
        context = zmq.asyncio.Context()
        socket, engine = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        sending = SendingSocket(socket)
        names = [b"%d" % number for number in range(5)]
        # Nobody is there to take them.
        sent = [asyncio.ensure_future(sending.send_multipart([name], copy=True)) for name in names]
        await asyncio.sleep(0)
        assert not any(one.done() for one in sent)
        engine.bind(f"ipc://{tmp_path}/requests")
        socket.connect(f"ipc://{tmp_path}/requests")
        async with asyncio.timeout(5):
            await asyncio.gather(*sent)
            await sending.send_multipart([b"5"], copy=True)
            taken = [(await engine.recv_multipart())[0] for _ in range(6)]
        socket.close(0)
        engine.close(0)
        return taken

    assert asyncio.run(test()) == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_requests_of_one_id_get_ids_of_their_own_and_the_end_token_is_asked_for_once() -> None:
    import zmq
    import zmq.asyncio

    from engine.request_sender import send_at_once

    async def test() -> None:
        socket = zmq.asyncio.Context().socket(zmq.PUSH)
        client = client_of(socket)
        processor = client.input_processor
        renderer = processor.renderer
        send_at_once(client)
        requests = [SimpleNamespace(request_id="cmpl-a", external_req_id=None) for _ in range(3)]
        for request in requests:
            processor.assign_request_id(request)
        assert len({request.request_id for request in requests}) == 3
        assert {request.external_req_id for request in requests} == {"cmpl-a"}
        assert [renderer.get_eos_token_id() for _ in range(3)] == [2, 2, 2]
        assert renderer.asked == 1
        socket.close(0)

    asyncio.run(test())
