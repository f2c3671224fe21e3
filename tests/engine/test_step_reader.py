"""What the engine's process sends is handled in the callback in which it comes, and its end is told to all."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.dispatch import Dispatcher

pytestmark = pytest.mark.engine


class Processor:
    """In the place of vLLM's `OutputProcessor`: notes what it gets."""

    def __init__(self, is_behind: Callable[[], bool]) -> None:
        self.is_behind = is_behind
        self.notes: list[bool | None] = []
        """For each step whether the loop is behind, and None for each other turn of the loop."""
        self.steps: list[list[str]] = []
        self.failures: list[Exception] = []
        self.to_abort: list[str] = []

    def process_outputs(self, outputs: list[Any], *_: object, **__: object) -> Any:
        if any(output.request_id == "unheard of" for output in outputs):
            raise KeyError("unheard of")
        self.steps.append([output.request_id for output in outputs])
        self.notes.append(self.is_behind())
        return SimpleNamespace(reqs_to_abort=self.to_abort)

    def propagate_error(self, failure: Exception) -> None:
        self.failures.append(failure)


class Engine:
    """vLLM's client of a process that a test plays, on a socket in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        import zmq
        import zmq.asyncio
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.engine.core_client import AsyncMPClient, BackgroundResources
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

        path = f"ipc://{folder}/outputs"
        context = zmq.asyncio.Context()
        self.processes = zmq.Context().socket(zmq.PUSH)
        self.processes.bind(path)
        client = AsyncMPClient.__new__(AsyncMPClient)
        client.resources = BackgroundResources(context)
        client.resources.output_socket = context.socket(zmq.PULL)
        client.resources.output_socket.connect(path)
        client.decoder, client.utility_results = MsgpackDecoder(EngineCoreOutputs), {}
        self.aborted: list[str] = []
        client.abort_requests_async = self._abort
        self.dispatcher = dispatcher = Dispatcher()
        self.client, self.processor = client, Processor(lambda: dispatcher.is_behind)
        self.records: list[Any] = []
        logger = SimpleNamespace(record=lambda *stats, **_: self.records.append(stats[0]))
        self.llm: Any = SimpleNamespace(
            engine_core=client,
            output_processor=self.processor,
            output_handler=None,
            logger_manager=logger,
        )
        self._encoder = MsgpackEncoder()

    def send(self, *names: str, **fields: Any) -> None:
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

        outputs = [EngineCoreOutput(name, [7]) for name in names]
        self.processes.send_multipart(
            self._encoder.encode(EngineCoreOutputs(outputs=outputs, **fields))
        )

    async def _abort(self, names: list[str]) -> None:
        self.aborted += names


@asynccontextmanager
async def reading(folder: Path) -> AsyncIterator[Engine]:
    from engine.step_reader import StepReader

    engine = Engine(folder)
    StepReader(engine.llm, engine.dispatcher).start()
    task = engine.llm.output_handler
    assert engine.client.resources.output_queue_task is task
    await asyncio.sleep(0)
    yield engine
    task.cancel()
    await asyncio.wait([task])
    engine.client.resources.output_socket.close(0)
    engine.processes.close(0)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)


def run(test: Callable[[Engine], Awaitable[None]], folder: Path) -> Engine:
    async def whole() -> Engine:
        async with reading(folder) as engine:
            await test(engine)
        return engine

    return asyncio.run(whole())


def test_each_step_is_handled_and_what_comes_at_once_too(tmp_path: Path) -> None:
    from vllm.v1.metrics.stats import SchedulerStats

    async def test(engine: Engine) -> None:
        engine.send("a", "b", scheduler_stats=SchedulerStats(num_running_reqs=2))
        await until(lambda: engine.processor.steps)
        for number in range(200):
            engine.send(f"{number}")
        await until(lambda: len(engine.processor.steps) == 201)
        assert engine.processor.steps[:2] == [["a", "b"], ["0"]]
        assert engine.records[0].num_running_reqs == 2

    run(test, tmp_path)


def test_an_engine_that_is_faster_than_the_loop_leaves_others_their_turns(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        loop, notes = asyncio.get_running_loop(), engine.processor.notes

        def other() -> None:
            if len(engine.processor.steps) < 13:
                notes.append(None)
                loop.call_soon(other)

        for _ in range(13):
            engine.send("a")
        time.sleep(0.1)  # noqa: ASYNC251 - all come before the loop goes on
        other()
        await until(lambda: len(engine.processor.steps) == 13)
        turn = [False, True, True, True]
        begun = notes.index(False)
        assert notes[begun:] == [*turn, None, *turn, None, *turn, None, False]

    run(test, tmp_path)


def test_the_result_of_a_call_reaches_its_caller(tmp_path: Path) -> None:
    from vllm.v1.engine import UtilityOutput
    from vllm.v1.serial_utils import UtilityResult

    async def test(engine: Engine) -> None:
        results = engine.client.utility_results
        results[7], results[8] = asyncio.Future[Any](), asyncio.Future[Any]()
        called, failed = results[7], results[8]
        engine.send(utility_output=UtilityOutput(7, None, UtilityResult("done")))
        engine.send(utility_output=UtilityOutput(8, "no such adapter"))
        assert await called == "done"
        with pytest.raises(Exception, match="no such adapter"):
            await failed
        assert not engine.processor.steps

    run(test, tmp_path)


def test_what_a_stop_string_has_ended_is_aborted(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        engine.processor.to_abort = ["a"]
        engine.send("a")
        await until(lambda: engine.aborted == ["a"])

    run(test, tmp_path)


def test_the_engine_s_end_is_told_once_and_read_no_more(tmp_path: Path) -> None:
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.engine.exceptions import EngineDeadError

    async def test(engine: Engine) -> None:
        engine.processes.send(EngineCoreProc.ENGINE_CORE_DEAD)
        await until(engine.llm.output_handler.done)
        assert engine.client.resources.engine_dead
        engine.send("a")
        await asyncio.sleep(0.02)

    engine = run(test, tmp_path)
    assert [*map(type, engine.processor.failures)] == [EngineDeadError]
    assert not engine.processor.steps


@pytest.mark.parametrize("fault", ["message", "output"])
def test_what_cannot_be_handled_fails_all_requests_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    async def test(engine: Engine) -> None:
        if fault == "message":
            engine.processes.send_multipart([b"\xc1", b""])
        else:
            engine.send("unheard of")
        await until(engine.llm.output_handler.done)

    engine = run(test, tmp_path)
    assert len(engine.processor.failures) == 1
    assert "The engine's outputs cannot be read: " in capsys.readouterr().err


def test_an_end_leaves_no_descriptor_open_and_no_request_waiting(tmp_path: Path) -> None:
    open_before: list[int] = []

    async def test(engine: Engine) -> None:
        open_before.append(len(os.listdir("/proc/self/fd")))
        engine.llm.output_handler.cancel()
        await asyncio.wait([engine.llm.output_handler])
        open_before.append(len(os.listdir("/proc/self/fd")))

    engine = run(test, tmp_path)
    assert open_before[1] == open_before[0] - 1
    assert len(engine.processor.failures) == 1
