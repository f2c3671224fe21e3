"""Outputs from collectors to their readers: all in one turn of the loop, at each reader's own pace."""

import asyncio
from dataclasses import dataclass

import pytest

from engine.dispatch import Dispatcher
from generation import Drain


@dataclass
class Output:
    text: str
    finished: bool = False


class Collector:
    """As vLLM's: one output waits, others are merged into it; a failure takes its place."""

    def __init__(self, output: Output | Exception | None = None) -> None:
        self.ready = asyncio.Event()
        self.output = output

    def put(self, output: Output | Exception) -> None:
        if self.output is None or isinstance(output, Exception):
            self.output = output
            self.ready.set()
        elif isinstance(self.output, Output):
            self.output = Output(self.output.text + output.text, output.finished)

    def get_nowait(self) -> Output | None:
        output, self.output = self.output, None
        self.ready.clear()
        if isinstance(output, Exception):
            raise output
        return output


async def turn() -> None:
    await asyncio.sleep(0)


def until(room: asyncio.Event) -> Drain:
    """Make a reader slow until the event is set."""

    async def drain() -> None:
        await room.wait()

    return drain


def test_all_get_what_a_step_has_made_in_one_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def step() -> None:
        dispatcher = Dispatcher()
        collectors = [Collector() for _ in range(3)]
        taken: list[Output] = []
        reads = [
            asyncio.create_task(dispatcher.read(collector, taken.append))
            for collector in collectors
        ]
        await turn()
        callbacks = []
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(
                loop, "call_soon", lambda callback, *_, **__: callbacks.append(callback)
            )
            for number, collector in enumerate(collectors):
                collector.put(Output(f"{number}"))
        (look,) = callbacks
        look()
        assert [output.text for output in taken] == ["0", "1", "2"]
        for collector in collectors:
            collector.put(Output("end", finished=True))
        await asyncio.gather(*reads)
        assert [output.text for output in taken[3:]] == ["end"] * 3

    asyncio.run(step())


def test_what_came_before_the_reader_is_read() -> None:
    async def read() -> None:
        taken: list[Output] = []
        await Dispatcher().read(Collector(Output("a", finished=True)), taken.append)
        assert taken == [Output("a", finished=True)]

    asyncio.run(read())


def test_a_slow_reader_waits_alone_and_gets_the_rest_merged() -> None:
    async def read() -> None:
        dispatcher, slow, quick = Dispatcher(), Collector(), Collector()
        room = asyncio.Event()
        taken: list[str] = []
        others: list[str] = []

        def take_slowly(output: Output) -> Drain:
            taken.append(output.text)
            return until(room)

        reads = [
            asyncio.create_task(dispatcher.read(slow, take_slowly)),
            asyncio.create_task(dispatcher.read(quick, lambda output: others.append(output.text))),
        ]
        for text in "abc":
            await turn()
            slow.put(Output(text))
            quick.put(Output(text))
            await turn()
        assert (taken, others) == (["a"], ["a", "b", "c"])
        room.set()
        for _ in range(4):
            await turn()
        assert taken == ["a", "bc"]
        room.clear()
        slow.put(Output("d", finished=True))
        quick.put(Output("d", finished=True))
        await reads[1]
        await turn()
        assert taken == ["a", "bc", "d"]
        assert not reads[0].done(), "the last output is not drained yet"
        room.set()
        await reads[0]

    asyncio.run(read())


def test_the_failure_of_one_is_that_one_s() -> None:
    async def fail() -> None:
        dispatcher, collectors = Dispatcher(), [Collector() for _ in range(3)]
        taken: list[Output] = []

        def break_down(output: Output) -> None:
            raise ArithmeticError(output.text)

        takes = (taken.append, break_down, taken.append)
        reads = [
            asyncio.create_task(dispatcher.read(collector, take))
            for collector, take in zip(collectors, takes, strict=True)
        ]
        await turn()
        collectors[0].put(ConnectionError("died"))
        collectors[1].put(Output("b"))
        collectors[2].put(Output("c", finished=True))
        with pytest.raises(ConnectionError, match="died"):
            await reads[0]
        with pytest.raises(ArithmeticError, match="b"):
            await reads[1]
        await reads[2]
        assert taken == [Output("c", finished=True)]
        assert not dispatcher._readers

    asyncio.run(fail())


def test_a_failure_while_a_reader_drains_is_raised_after_it() -> None:
    async def fail() -> None:
        dispatcher, collector, room = Dispatcher(), Collector(Output("a")), asyncio.Event()
        read = asyncio.create_task(dispatcher.read(collector, lambda _: until(room)))
        await turn()
        collector.put(ConnectionError("died"))
        collector.put(Output("lost"))
        await turn()
        assert not read.done()
        room.set()
        with pytest.raises(ConnectionError, match="died"):
            await read

    asyncio.run(fail())


def test_who_has_left_is_given_nothing() -> None:
    async def leave() -> None:
        dispatcher, collector = Dispatcher(), Collector()
        taken: list[Output] = []
        read = asyncio.create_task(dispatcher.read(collector, taken.append))
        await turn()
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        collector.put(Output("a"))
        await turn()
        await turn()
        assert not taken
        assert not dispatcher._readers

    asyncio.run(leave())


def test_outputs_wait_and_are_joined_while_the_loop_is_behind() -> None:
    async def steps() -> None:
        dispatcher, collector = Dispatcher(), Collector()
        taken: list[Output] = []
        read = asyncio.create_task(dispatcher.read(collector, taken.append))
        await turn()
        dispatcher.hand(collector, Output("a"))
        assert [output.text for output in taken] == ["a"]
        dispatcher.is_behind = True
        for text in "bcd":
            dispatcher.hand(collector, Output(text))
        assert len(taken) == 1
        dispatcher.is_behind = False
        dispatcher.hand(collector, Output("e", finished=True))
        await read
        assert [output.text for output in taken] == ["a", "bcde"]

    asyncio.run(steps())
