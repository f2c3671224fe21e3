"""Measures without vLLM what a chunk of a stream, and a plain request, cost the server's process, hop by hop.

python benchmarks/hot_path.py [--check]

A fake engine hands out prepared deltas, one for each stream in each step, as vLLM does. Each hop of a request's way is
measured with all hops before it, in CPU time; its own share is the difference. The last hop is the whole server, a
process of its own, asked over loopback. All is compared with `json.dumps` of the same chunks in the same run, so that a
slow or busy machine changes both; `--check` fails if a cost is more than twice the recorded multiple of it.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import uvicorn
import uvloop
from load import RESPONSES, Load, run
from servers import NAME, ROOT, cpu_seconds, process

sys.path.insert(0, str(ROOT))

from pydantic_core import to_json
from starlette.requests import Request as HTTPRequest

from api.admission import Admission
from api.app import build_app
from api.chat import chat_chunks, chat_completion
from api.events import OPENAI_STREAM
from engine.dispatch import Dispatcher
from engine.process import GARBAGE_THRESHOLDS
from generation import Decoding, Delta, Generation, Prompt, Sink, Source
from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2
from protocol import ChatCompletionRequest
from server.event_stream import EventStream
from server.request_record import STATE_KEY, RequestRecord
from server.sockets import bind_sockets
from server.uvicorn_server import uvicorn_config
from settings import DEMO_MODEL, Settings

QUESTION = "请介绍一下北京的历史和文化。"
WORDS = (
    "北京",
    "是中国",
    "的",
    "首都",
    "，",
    "三千",
    "多年",
    "\n",
    " the",
    "“Great”",
    "长城",
    "🙂",
)
STREAM = Load("a chunk of a stream", 32, 256)
RESPONSE = replace(STREAM, name="an event of a streamed response", path=RESPONSES)
PLAIN = Load("a plain request", 32, 16, 16, is_streamed=False)
SHAPES = ((32, 128), (32, 2000), (256, 128))
ROUNDS = 5
STEP_SECONDS = 40e-6
"""Seconds that a step takes for each stream in it: 25,000 tokens a second, which the client can read."""
RECORDED = {STREAM.name: 2.7, PLAIN.name: 70.0}
"""The whole server's cost, as a multiple of `json.dumps` of one chunk."""

Work = Callable[[], Awaitable[object]]


@dataclass
class Output:
    """What a step has generated for one request, as vLLM's `RequestOutput`."""

    deltas: list[Delta]
    finished: bool


class Collector:
    """The outputs of one request, as in vLLM's `RequestOutputCollector`."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.output: Output | None = None

    def put(self, output: Output) -> None:
        if self.output is None:
            self.output = output
            self.ready.set()
        else:
            self.output.deltas += output.deltas
            self.output.finished = output.finished

    def get_nowait(self) -> Output | None:
        output, self.output = self.output, None
        self.ready.clear()
        return output


class ReadyEngine:
    """An `Engine` that answers with `max_tokens` prepared deltas: in each step one for each running stream."""

    max_model_len = 4096
    memory = ""

    def __init__(self) -> None:
        self._dispatcher = Dispatcher()
        self._running: dict[Collector, Iterator[Output]] = {}

    async def _steps(self) -> None:
        while self._running:
            await asyncio.sleep(len(self._running) * STEP_SECONDS)
            for collector, outputs in [*self._running.items()]:
                output = next(outputs)
                collector.put(output)
                if output.finished:
                    del self._running[collector]

    async def start(self) -> None: ...

    def stop(self) -> None: ...

    is_dead = False
    unfinished = 0

    def drain(self) -> None: ...

    def abort(self) -> None: ...

    def check_ready(self) -> None: ...

    def admit(self, choices: int) -> None: ...

    def generate(self, prompt: Prompt, decoding: Decoding, request_id: str) -> Source[Delta]:
        max_tokens = decoding.max_tokens

        async def source(sink: "Sink[Delta]") -> None:
            collector = Collector()
            if decoding.stream:
                self._running[collector] = script(max_tokens)
                if len(self._running) == 1:
                    self._stepping = asyncio.create_task(self._steps())
            else:
                collector.put(
                    Output([Delta(0, "".join(WORDS), range(max_tokens), "length")], finished=True)
                )
            await self._dispatcher.read(collector, lambda output: sink(output.deltas))

        return source


def script(tokens: int) -> Iterator[Output]:
    for at in range(tokens - 1):
        yield Output([Delta(0, WORDS[at % len(WORDS)], (at,))], finished=False)
    yield Output([Delta(0, "", (2,), "length")], finished=True)


class Hops:
    """The way of one request through the server: each `to_…` goes from its beginning to a later hop."""

    def __init__(self, load: Load) -> None:
        self.body = load.body(QUESTION, NAME)
        self.engine = ReadyEngine()
        self.template = PromptTemplate(
            ALPACA_2, SentencePieceEncoder(DEMO_MODEL / "tokenizer.model")
        )
        self.admission = Admission(self.engine, self.template, Settings(served_model_name=(NAME,)))

    def read(self) -> ChatCompletionRequest:
        return ChatCompletionRequest.model_validate_json(self.body)

    async def accept(self) -> tuple[Generation, ChatCompletionRequest]:
        body = self.read()
        record = RequestRecord("id", "SQg9qhXDhGP5hkqMiqHLhe", body_bytes=len(self.body))
        request = HTTPRequest({"type": "http", "state": {STATE_KEY: record}})
        return await self.admission.accept(body, request), body

    async def to_body(self) -> None:
        self.read()

    async def to_generation(self) -> None:
        await self.accept()

    async def to_deltas(self) -> None:
        await (await self.accept())[0].source(ignore)

    async def to_chunks(self) -> None:
        await chat_chunks(*await self.accept(), self.template.encoder)(ignore)

    async def to_events(self) -> None:
        loop = asyncio.get_running_loop()
        connection = {
            "write_now": discard_now,
            "connection_loop": loop,
            "lost": loop.create_future(),
        }
        await EventStream(
            chat_chunks(*await self.accept(), self.template.encoder), OPENAI_STREAM, {}, 600, 15
        )({**connection, "state": {STATE_KEY: None}}, hold, discard)

    async def to_reply(self) -> None:
        to_json(await chat_completion(*await self.accept(), self.template.encoder))


def ignore(_: object) -> None: ...


async def hold() -> dict[str, Any]:
    """ASGI's `receive` for a client that stays connected."""
    return await asyncio.get_running_loop().create_future()


async def discard(_: object) -> None: ...


def discard_now(_: bytes) -> bool:
    return True


def own_cpu(work: Work, load: Load) -> float:
    """Seconds of CPU that this process spends on a load."""

    async def all_at_once() -> None:
        for _ in range(load.requests):
            await asyncio.gather(*(work() for _ in range(load.connections)))

    began = time.process_time()
    uvloop.run(all_at_once())
    return time.process_time() - began


def server_cpu(load: Load, url: str, pid: int) -> float:
    """Seconds of CPU that the server's process spends on a load."""
    began = cpu_seconds(pid)
    uvloop.run(run(url, load, [QUESTION], NAME))
    return cpu_seconds(pid) - began


def compare(url: str, pid: int) -> None:
    """Print what an event of a response costs the whole server beside a chunk of a chat, asked in turn."""
    costs = [
        [server_cpu(load, url, pid) / load.all_tokens for load in (STREAM, RESPONSE)]
        for _ in range(2 * ROUNDS + 1)
    ][1:]
    chat, response = (median(column) * 1e6 for column in zip(*costs, strict=True))
    ratio = median(response / chat for chat, response in costs)
    print(f"{RESPONSE.name}: {response:.2f} µs, {ratio:.2f} times {STREAM.name} ({chat:.2f} µs)\n")


def dumps() -> float:
    """Seconds of CPU that `json.dumps` of one chunk takes."""
    choice: dict[str, Any] = {
        "index": 0,
        "delta": {"content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    chunk = {
        "id": "chatcmpl-SQg9qhXDhGP5hkqMiqHLhe",
        "object": "chat.completion.chunk",
        "created": 1795401746,
    }
    chunk |= {"model": NAME, "choices": [choice]}
    began = time.process_time()
    for at in range(STREAM.all_tokens):
        choice["delta"]["content"] = WORDS[at % len(WORDS)]
        b"data: %b\n\n" % json.dumps(chunk, ensure_ascii=False).encode()
    return (time.process_time() - began) / STREAM.all_tokens


@contextmanager
def served() -> Iterator[tuple[str, int]]:
    """Start a server on the fake engine; gives its URL and process id."""
    with process([__file__, "--serve"], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        yield started.stdout.readline().strip(), started.pid


def serve() -> None:
    sockets = bind_sockets(Settings(port=0))
    settings = Settings(port=sockets[0].getsockname()[1])
    template = PromptTemplate(ALPACA_2, SentencePieceEncoder(DEMO_MODEL / "tokenizer.model"))
    print(settings.url, flush=True)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    uvicorn.Server(uvicorn_config(build_app(ReadyEngine(), template, settings), settings)).run(
        sockets
    )


def measure(load: Load, hops: list[tuple[str, Work]], url: str, pid: int) -> float:
    """Print the hops of a load; returns the whole server's cost as a multiple of `json.dumps` of one chunk."""
    pieces = load.all_tokens if load.is_streamed else load.all_requests
    ways: list[tuple[str, Callable[[], float]]] = [
        *((name, lambda work=work: own_cpu(work, load) / pieces) for name, work in hops),
        ("HTTP over loopback", lambda: server_cpu(load, url, pid) / pieces),
        ("json.dumps of one chunk", dumps),
    ]
    seconds: dict[str, list[float]] = {name: [] for name, _ in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways:
            seconds[name].append(way())
    costs = {name: median(rounds[1:]) for name, rounds in seconds.items()}
    yardstick = costs.pop("json.dumps of one chunk")
    print(f"| {load.name}, up to | µs | own share, µs |\n|---|---|---|")
    before = 0.0
    for name, cost in costs.items():
        print(f"| {name} | {cost * 1e6:.2f} | {(cost - before) * 1e6:.2f} |")
        before = cost
    print(
        f"\n{before / yardstick:.1f} times json.dumps of one chunk ({yardstick * 1e6:.2f} µs)\n",
        flush=True,
    )
    return before / yardstick


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="fail at more than twice the recorded ratios"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve()
        return 0
    stream, plain = Hops(STREAM), Hops(PLAIN)
    with served() as (url, pid):
        ratios = {
            STREAM.name: measure(
                STREAM,
                [
                    ("deltas of the engine's script", stream.to_deltas),
                    *(("chunks", stream.to_chunks), ("events", stream.to_events)),
                ],
                *(url, pid),
            ),
            PLAIN.name: measure(
                PLAIN,
                [
                    ("its body", plain.to_body),
                    ("its generation", plain.to_generation),
                    ("its reply", plain.to_reply),
                ],
                *(url, pid),
            ),
        }
        compare(url, pid)
        for connections, tokens in SHAPES:
            load = replace(STREAM, connections=connections, tokens=tokens)
            cost = median(server_cpu(load, url, pid) for _ in range(ROUNDS)) / load.all_tokens
            print(
                f"{connections} streams of {tokens} tokens: {cost * 1e6:.2f} µs a chunk", flush=True
            )
    slow = [name for name, ratio in ratios.items() if ratio > 2 * RECORDED[name]]
    for name in slow:
        print(
            f"{name} costs {ratios[name]:.1f} times json.dumps, and {RECORDED[name]} are recorded",
            file=sys.stderr,
        )
    return 1 if asked.check and slow else 0


if __name__ == "__main__":
    sys.exit(main())
