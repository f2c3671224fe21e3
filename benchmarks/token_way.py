"""Follows tokens from the engine's steps to the client, and prompts from the client to these, here and in `vllm serve`.

python benchmarks/token_way.py [--rounds 40] [--crowds 32 128] [--crowd-rounds 20]

Both servers run side by side and are asked in turn, another one first in each round. vLLM's engine says of each step
when it ended, by the clock that all processes of a machine share; the servers note when they begin to handle it and
when they send a request to the engine, and the client when its events come.

With one stream, the time between two events is divided into what the engine takes and what the two hops behind it take:
medians and 99th percentiles over the tokens of all rounds. Of a crowd whose requests are sent at once, the table has
when, after that, the engine is sent the first, the median and the last of them, when the first and the median of the
steps that answer them end, and when the median of their first texts comes: medians over all rounds.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop
from load import Connection, Load, Timings, to_request
from servers import NAME, OURS, PEER, ROOT, SERVE, Command, server

sys.path.insert(0, str(ROOT))
from compare import questions

LOAD = Load("1 stream of 128 tokens", 1, 128)
CROWD_TOKENS = 16
THIS, OTHER = "this server", "vllm serve"


class NotingConnection(Connection):
    """A connection that notes when the texts of its stream come, the first of them with or after the role."""

    def __init__(self) -> None:
        super().__init__(Timings())
        self.arrivals: list[float] = []

    def _count_events(self, events: int, now: float) -> None:
        if self._events + events >= 2:  # the first event is the role alone
            self.arrivals.append(now)
        super()._count_events(events, now)


@dataclass
class Way:
    """Times of the tokens of one server, in seconds."""

    steps: list[float] = field(default_factory=list)
    """Between the ends of consecutive steps of the engine."""
    to_server: list[float] = field(default_factory=list)
    """From the end of a step until the server begins to handle it."""
    to_client: list[float] = field(default_factory=list)
    """From there until the client has its event."""
    gaps: list[float] = field(default_factory=list)
    """Between consecutive events."""
    rates: list[float] = field(default_factory=list)
    """Tokens per second of each stream."""

    def add(self, arrivals: Sequence[float], steps: Sequence[tuple[float, float]]) -> None:
        """Add a stream: its events, and the ends of steps with the times at which they were begun to be handled."""
        handled = [begun for _, begun in steps]
        for arrival in arrivals:
            ended, begun = steps[bisect_right(handled, arrival) - 1]
            self.to_server.append(begun - ended)
            self.to_client.append(arrival - begun)
        of_stream = [ended for ended, begun in steps if arrivals[0] <= begun <= arrivals[-1]]
        self.steps += [after - before for before, after in pairwise(of_stream)]
        self.gaps += [after - before for before, after in pairwise(arrivals)]
        self.rates.append((len(arrivals) - 1) / (arrivals[-1] - arrivals[0]))

    def row(self, name: str) -> str:
        cells = [f"{median(self.rates):.0f}"]
        for times in (self.gaps, self.steps, self.to_server, self.to_client):
            last = quantiles(times, n=100, method="inclusive")[98]
            cells += [f"{median(times) * 1e6:.0f}", f"{last * 1e6:.0f}"]
        return f"| {name} | {' | '.join(cells)} |"


@dataclass
class Crowd:
    """Times of the prompts of one server after they were sent, in seconds, one of each kind a round."""

    kinds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, sent: float, texts: Sequence[float], notes: "Notes") -> None:
        """Add a round: when it was sent, and when the first texts came."""
        asked = sorted(time - sent for time in notes.asked)
        answered = sorted(time - sent for time in notes.answered)
        figures = {
            "sent to the engine, first": asked[0],
            "sent, median": median(asked),
            "sent, last": asked[-1],
            "first token made, first": answered[0],
            "first token made, median": median(answered),
            "first text, median": median(texts) - sent,
        }
        for kind, seconds in figures.items():
            self.kinds[kind].append(seconds)

    def row(self, name: str) -> str:
        cells = [f"{median(times) * 1e3:.1f}" for times in self.kinds.values()]
        return f"| {name} | {' | '.join(cells)} |"


@dataclass
class Notes:
    """What a server has noted since it was last asked for."""

    steps: list[tuple[float, float]] = field(default_factory=list)
    """The ends of steps, and when it began to handle them."""
    asked: list[float] = field(default_factory=list)
    """When it sent requests to the engine."""
    answered: list[float] = field(default_factory=list)
    """For each request, the end of the first step that answers it."""


class Traced:
    """A server that notes its steps in a file."""

    def __init__(self, url: str, file: Path) -> None:
        self.url, self._file, self._read = url, file, 0

    def notes(self) -> Notes:
        lines = self._file.read_text().splitlines()
        notes = Notes()
        for line in lines[self._read :]:
            kind, *times = line.split()
            if kind == "step":
                notes.steps.append((float(times[0]), float(times[1])))
            else:
                (notes.asked if kind == "asked" else notes.answered).append(float(times[0]))
        self._read = len(lines)
        return notes


async def ask(url: str, load: Load, asked: Sequence[str]) -> tuple[float, list[list[float]]]:
    """Ask for a stream for each question, at once; returns when, and when the events of each came."""
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    made = []
    for _ in asked:
        _, connection = await loop.create_connection(NotingConnection, host, int(port))
        made.append(connection)
    requests = [to_request(url, load.path, load.body(question, NAME)) for question in asked]
    sent = time.monotonic()
    await asyncio.gather(
        *(
            connection.ask(request, load.tokens)
            for connection, request in zip(made, requests, strict=True)
        )
    )
    for connection in made:
        connection.close()
    return sent, [connection.arrivals for connection in made]


def note_steps(file: Path) -> None:
    """Let this process note in a file what `Notes` has."""
    from vllm.v1.engine.core_client import AsyncMPClient
    from vllm.v1.engine.output_processor import OutputProcessor

    from engine.light_client import PlainRequests

    notes = file.open("w", buffering=1)
    answered: set[str] = set()
    add_request = AsyncMPClient.add_request_async

    async def add_noting(self: Any, request: Any) -> None:
        notes.write(f"asked {time.monotonic()}\n")
        await add_request(self, request)

    def noting(process_outputs: Callable[..., Any]) -> Callable[..., Any]:
        def process(self: Any, outputs: Any, ended: Any, *others: Any, **named: Any) -> Any:
            if outputs:
                notes.write(f"step {ended} {time.monotonic()}\n")
            for new in {output.request_id for output in outputs} - answered:
                answered.add(new)
                notes.write(f"answered {ended}\n")
            return process_outputs(self, outputs, ended, *others, **named)

        return process

    AsyncMPClient.add_request_async = add_noting
    for owner in (OutputProcessor, PlainRequests):
        owner.process_outputs = noting(owner.process_outputs)  # type: ignore[method-assign]


def serve(name: str, file: Path, arguments: Sequence[str]) -> None:
    """Run one of the two servers with its steps noted."""
    note_steps(file)
    sys.argv[1:] = arguments
    if name == THIS:
        import openai_api_server_vllm

        openai_api_server_vllm.main()
    else:
        exec(SERVE)


def measure_stream(servers: dict[str, Traced], rounds: int) -> None:
    """Print the table of one stream."""
    ways = {name: Way() for name in servers}
    for number in range(-1, rounds):
        for name in sorted(servers, reverse=bool(number % 2)):
            _, [arrivals] = uvloop.run(ask(servers[name].url, LOAD, [questions()[number]]))
            notes = servers[name].notes()
            if number >= 0:  # the first round warms up
                ways[name].add(arrivals, notes.steps)
    heads = ("between events", "engine's steps", "step to server", "server to client")
    columns = [f"{head}, µs {point}" for head in heads for point in ("p50", "p99")]
    print(f"| {LOAD.name} | tokens/s | {' | '.join(columns)} |\n|{'---|' * (2 + len(columns))}")
    for name, way in ways.items():
        print(way.row(name))


def measure_crowd(servers: dict[str, Traced], streams: int, rounds: int) -> None:
    """Print the table of so many requests at once."""
    load = Load(f"{streams} prompts at once", streams, CROWD_TOKENS)
    crowds = {name: Crowd() for name in servers}
    for number in range(-1, rounds):
        asked = [questions()[(number * streams + at) % len(questions())] for at in range(streams)]
        for name in sorted(servers, reverse=bool(number % 2)):
            sent, arrivals = uvloop.run(ask(servers[name].url, load, asked))
            notes = servers[name].notes()
            if number >= 0:
                crowds[name].add(sent, [texts[0] for texts in arrivals], notes)
    columns = [f"{kind}, ms" for kind in crowds[THIS].kinds]
    print(f"\n| {load.name} | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name, crowd in crowds.items():
        print(crowd.row(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--crowds", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--crowd-rounds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {}
        for name, command in ((THIS, OURS), (OTHER, PEER)):
            file = Path(folder, name)
            own = command.arguments[command.arguments.index("serve") :] if name == OTHER else ()
            arguments = (__file__, "--serve", name, str(file), *own)
            servers[name] = Traced(stack.enter_context(server(Command(arguments))).url, file)
        measure_stream(servers, asked.rounds)
        for streams in asked.crowds:
            measure_crowd(servers, streams, asked.crowd_rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        main()
