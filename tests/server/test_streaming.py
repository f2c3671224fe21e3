"""A stream of events at the level of ASGI: what is written at once, and what waits for a slow client."""

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from api.events import OPENAI_STREAM, to_event
from errors import APIError
from generation import Delta, Sink, Source
from server.event_stream import EventStream, while_connected
from sources import merge
from tests.support.direct_writes import scope_with


def as_events(payloads: Source[bytes]) -> Source[bytes]:
    """What writes JSON payloads, some at a time, as what writes events."""

    async def events(write: Sink[bytes]) -> None:
        await payloads(lambda pieces: write([*map(to_event, pieces)]))

    return events


class Server:
    """What an ASGI server gives an app; `write_now` is there if `is_direct`, and says no when `is_slow`."""

    def __init__(self, is_direct: bool) -> None:
        self.is_direct = is_direct
        self.sent: list[Any] = []
        self.is_slow = False
        self.room = asyncio.Event()
        self.room.set()

    @property
    def scope(self) -> Scope:
        return scope_with(self.write_now if self.is_direct else None)

    def write_now(self, body: bytes) -> bool:
        self.sent.append(body.decode())
        return not self.is_slow

    async def receive(self) -> Message:
        return await asyncio.Future[Message]()

    async def send(self, message: Message) -> None:
        await self.room.wait()
        await asyncio.sleep(0)
        self.sent.append(message.get("status") or message["body"].decode())

    async def stream(self, payloads: Source[bytes]) -> list[Any]:
        await EventStream(as_events(payloads), OPENAI_STREAM, {}, 600, 0)(
            self.scope, self.receive, self.send
        )
        return [piece for piece in self.sent if piece]


@pytest.mark.parametrize("is_direct", [True, False])
def test_events_come_in_order(is_direct: bool) -> None:
    async def payloads(write: Sink[bytes]) -> None:
        for batch in ([b"1", b"2"], [b"3"], [b"4"]):
            if drain := write(batch):
                await drain()

    async def stream() -> None:
        server = Server(is_direct)
        first, second, third, *others = await server.stream(payloads)
        assert (first, second, third) == (200, "data: 1\n\ndata: 2\n\n", "data: 3\n\n")
        assert "".join(others) == "data: 4\n\ndata: [DONE]\n\n"

    asyncio.run(stream())


@pytest.mark.parametrize("is_direct", [True, False])
def test_writers_beside_each_other_keep_the_order_of_their_writes(is_direct: bool) -> None:
    server = Server(is_direct)

    async def payloads(write: Sink[bytes]) -> None:
        async def one(number: int) -> None:
            for at in range(3):
                written.append(f"{number}{at}")
                if drain := write([f"{number}{at}".encode()]):
                    await drain()
                await asyncio.sleep(0.001 * number)

        written: list[str] = []
        server.room.clear()  # the head waits for the client
        asyncio.get_running_loop().call_later(0.01, server.room.set)
        await asyncio.gather(*map(one, range(3)))
        write([("after " + ",".join(written)).encode()])

    async def stream() -> None:
        head, *events = await server.stream(payloads)
        *first, order, done = "".join(events).split("\n\n")[:-1]
        assert (head, done) == (200, "data: [DONE]")
        assert order == "data: after " + ",".join(event.removeprefix("data: ") for event in first)
        assert len(first) == 9

    asyncio.run(stream())


def test_a_slow_client_is_waited_for() -> None:
    async def stream() -> None:
        server = Server(is_direct=True)

        async def payloads(write: Sink[bytes]) -> None:
            drain = write([b"1"])
            assert drain is not None
            await drain()
            server.is_slow = True
            drain = write([b"2"])
            assert drain is not None
            server.room.clear()
            waiting = asyncio.ensure_future(drain())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            server.is_slow = False
            server.room.set()
            await waiting
            assert write([b"3"]) is None

        sent = await server.stream(payloads)
        assert sent == [200, *(f"data: {number}\n\n" for number in (1, 2, 3)), "data: [DONE]\n\n"]

    asyncio.run(stream())


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_failure_is_a_status_before_the_head_and_an_event_after(is_direct: bool) -> None:
    async def at_once(write: Sink[bytes]) -> None:
        raise APIError(503, "full", code="server_overloaded")

    async def later(write: Sink[bytes]) -> None:
        drain = write([b"1"])
        assert drain is not None
        await drain()
        raise APIError(503, "full", code="server_overloaded")

    async def stream() -> None:
        status, body = await Server(is_direct).stream(at_once)
        assert (status, "server_overloaded" in body) == (503, True)
        status, first, *others = await Server(is_direct).stream(later)
        assert (status, first) == (200, "data: 1\n\n")
        error, done, _ = "".join(others).split("\n\n")
        assert error.startswith('data: {"error":')
        assert "server_overloaded" in error
        assert done == "data: [DONE]"

    asyncio.run(stream())


def test_a_failure_beside_a_head_that_waits_has_its_status() -> None:
    """Of two prompts, the first waits to send the head and is cancelled by the failure of the second."""

    async def payloads(write: Sink[bytes]) -> None:
        async def first(sink: Sink[Delta]) -> None:
            drain = sink([Delta(0, "a", (5,))])
            assert drain is not None
            await drain()

        async def second(_: Sink[Delta]) -> None:
            await asyncio.sleep(0.01)
            raise APIError(503, "full", code="server_overloaded")

        await merge([first, second], 1)(
            lambda deltas: write([delta.text.encode() for delta in deltas])
        )

    async def stream() -> None:
        server = Server(is_direct=True)
        server.room.clear()
        asyncio.get_running_loop().call_later(0.05, server.room.set)
        status, body = await server.stream(payloads)
        assert (status, "server_overloaded" in body) == (503, True)

    asyncio.run(stream())


class Client:
    """Leaves when told; its server tells that by a future if `is_direct`, else only by a message."""

    def __init__(self, is_direct: bool) -> None:
        self.left = asyncio.Event()
        self.waits = 0
        self.scope = scope_with((lambda _: True) if is_direct else None)

    def leave(self) -> None:
        self.left.set()
        if "lost" in self.scope:
            self.scope["lost"].set_result(None)

    async def receive(self) -> Message:
        self.waits += 1
        try:
            await self.left.wait()
        finally:
            self.waits -= 1
        return {"type": "http.disconnect"}


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize(
    ("leaves", "is_cancelled"), [(True, False), (False, True), (True, True), (False, False)]
)
def test_work_ends_with_its_client_with_its_time_or_with_the_server(
    leaves: bool, is_cancelled: bool, is_late: bool, is_direct: bool
) -> None:
    async def work(ended: list[str]) -> str:
        try:
            return await asyncio.sleep(0.1, "done")
        except asyncio.CancelledError:
            ended.append("work")
            raise

    async def connected() -> None:
        client = Client(is_direct)
        ended: list[str] = []
        task = asyncio.create_task(
            while_connected(client.scope, client.receive, work(ended), 0.05 if is_late else 5)
        )
        await asyncio.sleep(0.01)
        assert client.waits == (not is_direct)
        if leaves:
            client.leave()
            await asyncio.sleep(0)
        if is_cancelled:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif leaves or is_late:
            with pytest.raises(ClientDisconnect if leaves else APIError):
                await task
            assert task.cancelling() == 0
        else:
            assert await task == "done"
        assert ended == ["work"] * (leaves or is_cancelled or is_late)
        await asyncio.sleep(0)
        assert client.waits == 0, "the listener is still there"

    asyncio.run(connected())


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("goes_on", [True, False])
def test_nothing_is_left_of_a_cancellation_that_comes_with_the_end_of_work(
    goes_on: bool, is_direct: bool
) -> None:
    """The client leaves when the work is done, or the work ends although it is cancelled."""

    async def work(last: asyncio.Future[str]) -> str:
        try:
            return await last
        except asyncio.CancelledError:
            if goes_on:
                return "saved"
            raise

    async def connected() -> None:
        client = Client(is_direct)
        last: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(while_connected(client.scope, client.receive, work(last), 5))
        await asyncio.sleep(0.01)
        client.leave()
        if is_direct:
            last.set_result("done")
        if goes_on:
            assert await task == "saved"
        else:
            with pytest.raises(ClientDisconnect):
                await task
        assert task.cancelling() == 0

    asyncio.run(connected())
