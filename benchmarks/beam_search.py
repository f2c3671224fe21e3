"""Compares beam search on this server and on vLLM's own: same model, flags, prompts, width and number of results.

python benchmarks/beam_search.py [--rounds 5]
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace

import httpx
from servers import MODEL, OURS, PEER, ROOT, server

sys.path.insert(0, str(ROOT))
WIDTH = 4
SHORT = range(26, 35)


@dataclass(frozen=True)
class Load:
    """Prompts that are sent at once, and the other fields of their requests."""

    name: str
    prompts: list[list[int]]
    fields: dict[str, object]


def bodies(load: Load, is_ours: bool) -> list[dict[str, object]]:
    """One body for each prompt; all beams are returned, as vLLM's server always does."""
    width = (
        {"num_beams": WIDTH, "n": WIDTH}
        if is_ours
        else {"use_beam_search": True, "n": WIDTH, "temperature": 0}
    )
    return [{"prompt": prompt, **load.fields, **width} for prompt in load.prompts]


async def run(client: httpx.AsyncClient, load: Load, is_ours: bool) -> tuple[float, list[int]]:
    """Seconds until all are answered, and for each reply the mean length of its beams in tokens."""
    began = time.perf_counter()
    replies = await asyncio.gather(
        *(client.post("/v1/completions", json=body) for body in bodies(load, is_ours))
    )
    seconds = time.perf_counter() - began
    for reply in replies:
        reply.raise_for_status()
    return seconds, [reply.json()["usage"]["completion_tokens"] // WIDTH for reply in replies]


async def loads(ours: httpx.AsyncClient) -> list[Load]:
    """Answers that end by themselves, long ones, and eight long ones at once; prompts as ids, the same for both."""
    lines = (MODEL / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["messages"] for line in lines]
    prompts = [
        (await ours.post("/tokenize", json={"messages": messages})).json()["tokens"]
        for messages in questions[::4]
    ]
    short: list[list[int]] = []
    for prompt in prompts:
        reply = await ours.post(
            "/v1/completions", json={"prompt": prompt, "temperature": 0, "repetition_penalty": 1}
        )
        if reply.json()["usage"]["completion_tokens"] in SHORT:
            short.append(prompt)
    long = {"max_tokens": 128, "ignore_eos": True}
    return [
        *(
            Load("a: ends by itself, about 30 tokens", [prompt], {"max_tokens": 512})
            for prompt in short[:3]
        ),
        Load("b: 128 tokens", prompts[:1], long),
        Load("c: 8 times 128 tokens at once", prompts[:8], long),
    ]


async def compare(ours_url: str, peer_url: str, rounds: int) -> None:
    async with (
        httpx.AsyncClient(base_url=ours_url, timeout=600) as ours,
        httpx.AsyncClient(base_url=peer_url, timeout=600) as peer,
    ):
        print("| load | this server, s | vLLM's server, s | times faster |\n|---|---|---|---|")
        for load in await loads(ours):
            ours_seconds, peer_seconds = [], []
            warm_up = replace(load, fields={"max_tokens": 2})
            await run(ours, warm_up, True)
            await run(peer, warm_up, False)
            for _ in range(rounds):
                seconds, lengths = await run(ours, load, True)
                ours_seconds.append(seconds)
                seconds, peer_lengths = await run(peer, load, False)
                peer_seconds.append(seconds)
            mine, theirs = statistics.median(ours_seconds), statistics.median(peer_seconds)
            name = f"{load.name} ({statistics.mean(lengths):.0f} and {statistics.mean(peer_lengths):.0f} a beam)"
            print(f"| {name} | {mine:.3f} | {theirs:.3f} | {theirs / mine:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with server(OURS) as ours, server(PEER) as peer:
        asyncio.run(compare(ours.url, peer.url, rounds))


if __name__ == "__main__":
    main()
