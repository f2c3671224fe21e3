"""What each lighter part of vLLM's client saves the API process: this server against itself with vLLM's own part.

python benchmarks/client_parts.py [--rounds 15] [--loads WORDS ...]

One server for each variant, all with the same engine flags, get the same loads in turn. Savings are computed round by
round, so that a change in the machine's speed affects both targets, and printed as medians and quartiles. All need
about 13 GB of memory: each variant has an engine of its own.
"""

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from statistics import median, quantiles

from compare import LOADS, Rounds, Target, http_target, in_turn, load_figures, median_of, to_loads
from load import Load
from servers import OURS, ROOT, Command, server

sys.path.insert(0, str(ROOT))

import openai_api_server_vllm as command
from generation import Engine
from settings import Settings

WITH_ALL, WITH_NONE = "all", "all of them"
FIGURE = "CPU per token, µs"
PART_LOADS = (LOADS[1], LOADS[-1])
"""Tokens that come in steps of many streams, and requests that come many at a time."""


def commands(parts: Collection[str]) -> dict[str, Command]:
    """The command of each variant, by the part that it does without."""
    serve = (__file__, "--light-parts")
    without = {
        part: Command((*serve, *(other for other in parts if other != part))) for part in parts
    }
    return {WITH_ALL: OURS, **without, WITH_NONE: Command(serve)}


def serve(light_parts: Sequence[str], arguments: Sequence[str]) -> int:
    """Run the server's command with these lighter parts alone."""
    load_engine = command.load_engine

    def load(settings: Settings, others: Sequence[str]) -> Engine:
        engine = load_engine(settings, others)
        engine.light_parts = light_parts  # type: ignore[attr-defined]
        return engine

    command.load_engine = load
    sys.argv[1:] = arguments
    return command.main()


def row(part: str, rounds: Rounds) -> str:
    """A row of the table: the percentage is of what a token costs without the part."""
    pairs = [
        (full[FIGURE], without[FIGURE])
        for full, without in zip(rounds[WITH_ALL], rounds[part], strict=True)
    ]
    percentages = [100 * (1 - full / without) for full, without in pairs]
    low, _, high = quantiles(percentages, n=4, method="inclusive")
    cells = [
        part,
        f"{median_of(rounds[WITH_ALL], FIGURE):.1f}",
        f"{median_of(rounds[part], FIGURE):.1f}",
        f"{median(without - full for full, without in pairs):.1f}",
        f"**{median(percentages):.0f}**",
        f"{low:.0f} to {high:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def print_table(load: Load, rounds: Rounds) -> None:
    heading = f"| part, {load.name} | with all, µs a token | without it, µs a token "
    print(f"{heading}| saves, µs | saves, % | quartiles, % |\n|---|---|---|---|---|---|")
    for part in rounds:
        if part != WITH_ALL:
            print(row(part, rounds))
    print(flush=True)


def measure(targets: Mapping[str, Target], load: Load, rounds: int) -> Rounds:
    """The figures of each variant, after a round that does not count."""
    return in_turn([*targets], lambda name: load_figures(targets[name], load), rounds, warm_ups=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--loads", nargs="+", default=(), help="those of compare.py, by words")
    parser.add_argument("--light-parts", nargs="*", help=argparse.SUPPRESS)
    asked, others = parser.parse_known_args()
    if asked.light_parts is not None:
        return serve(asked.light_parts, others)
    if others:
        parser.error(f"unknown arguments: {' '.join(others)}")
    from engine.vllm_engine import VLLMEngine

    with ExitStack() as stack:
        targets = {
            name: http_target(stack.enter_context(server(variant)))
            for name, variant in commands(VLLMEngine.light_parts).items()
        }
        for load in to_loads(asked.loads) or PART_LOADS:
            print_table(load, measure(targets, load, asked.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
