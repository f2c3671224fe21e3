"""The benchmark against vLLM's servers: who is asked when, what its table says, and whose CPU time it counts."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from compare import (
    ALONE,
    LOADS,
    OTHER,
    RUST,
    THIS,
    Figures,
    in_turn,
    print_heading,
    print_rows,
    to_loads,
)
from load import Connection, Timings
from servers import Server, cpu_seconds, front_ends
from token_way import Crowd, Notes, Traced, Way

from tests.support.polling import wait_for

SLEEP = os.path.realpath(shutil.which("sleep") or "")

ROUNDS = {
    THIS: [{"ms": 1.0}, {"ms": 30.0}, {"ms": 3.0}],
    OTHER: [{"ms": 2.0}, {"ms": 60.0}, {"ms": 4.0}],
    RUST: [{"ms": 1.0}, {"ms": 20.0}, {"ms": 2.0}],
    ALONE: [{"ms": 0.5}, {"ms": 5.0}, {"ms": 0.7}],
}


def test_each_server_is_asked_first_in_one_round_of_as_many_as_there_are_servers() -> None:
    asked: list[str] = []

    def measure(target: str) -> Figures:
        asked.append(target)
        return {"place": float(len(asked))}

    made = in_turn(["a", "b", "c"], measure, rounds=3, warm_ups=1)
    assert "".join(asked) == "abcbcacababc"
    assert [figures["place"] for figures in made["a"]] == [6, 8, 10]


@pytest.mark.parametrize("left_out", [{RUST}, {ALONE}, set()], ids=str)
def test_each_server_has_its_ratio_beside_it_taken_round_by_round(
    left_out: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [target for target in ROUNDS if target not in left_out]
    print_heading(targets)
    print_rows("a load", {target: ROUNDS[target] for target in targets}, targets)
    heading, line, row = (
        [cell.strip() for cell in text.strip("|").split("|")]
        for text in capsys.readouterr().out.splitlines()
    )
    assert len(heading) == len(line) == len(row)
    assert row[:3] == ["a load", "ms", "3.0"]
    assert heading[:5] == ["load", "figure", THIS, OTHER, "ratio"]
    assert row[3:5] == ["4.0", "**0.50**"]
    if RUST in targets:
        at = heading.index(RUST)
        assert heading[at + 1] == "ratio"
        assert row[at : at + 2] == ["2.0", "**1.50**"]
    if ALONE in targets:
        assert (heading[-1], row[-1]) == (ALONE, "0.7")


def test_what_a_target_has_no_figure_of_is_left_blank(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("start", {THIS: ROUNDS[THIS], OTHER: ROUNDS[OTHER]}, [THIS, OTHER, ALONE])
    assert capsys.readouterr().out == "| start | ms | 3.0 | 4.0 | **0.50** |  |\n"


def test_loads_are_chosen_by_words_of_their_names() -> None:
    assert to_loads(["32 streams of 128", "plain replies of 16"]) == [LOADS[1], LOADS[6]]
    assert to_loads([]) == []
    with pytest.raises(SystemExit, match="no load has 'streems'"):
        to_loads(["32 streams", "streems"])


@pytest.fixture
def supervisor() -> Iterator[psutil.Process]:
    """A process of Python that has started `sleep` and another Python; the end of its input ends all three."""
    code = """
import subprocess, sys
commands = ["sleep", "60"], [sys.executable, "-c", "import time; time.sleep(60)"]
started = [subprocess.Popen(command) for command in commands]
sys.stdin.read()
for one in started:
    one.kill()
    one.wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as started:
        process = psutil.Process(started.pid)
        assert wait_for(lambda: SLEEP in [child.exe() for child in process.children()], 30)
        assert wait_for(lambda: len(process.children()) == 2, 30)
        yield process


def test_a_front_end_is_its_own_program_with_what_started_it(supervisor: psutil.Process) -> None:
    (sleep,) = (child.pid for child in supervisor.children() if child.exe() == SLEEP)
    assert front_ends(supervisor.pid, SLEEP) == (supervisor.pid, sleep)
    assert front_ends(supervisor.pid, "") == (supervisor.pid,)
    with pytest.raises(SystemExit, match="no process of the server runs /no/such"):
        front_ends(supervisor.pid, "/no/such")


def test_the_cpu_time_and_memory_of_a_front_end_are_those_of_its_processes(
    supervisor: psutil.Process,
) -> None:
    children = supervisor.children()
    front_end = (supervisor.pid, children[0].pid)
    before = sum(map(cpu_seconds, front_end))
    server = Server("", supervisor.pid, 0.0, front_end)
    assert before <= server.cpu <= sum(map(cpu_seconds, front_end))
    assert server.cpu > cpu_seconds(children[0].pid)
    assert server.memory == sum(psutil.Process(pid).memory_info().rss for pid in front_end)
    shares = [one.memory_full_info().pss for one in (supervisor, *children)]
    assert server.all_memory == pytest.approx(sum(shares), rel=0.3)
    assert server.all_memory > max(shares)


@pytest.mark.parametrize(
    ("role", "space"),
    [
        ('{"role":"assistant","content":""}', None),
        ('{"role":"assistant","content":""}', '{"content":" "}'),
        ('{"role": "assistant"}', '{"content": " "}'),
    ],
)
def test_text_begins_after_the_space_that_some_servers_make_an_event_of(
    monkeypatch: pytest.MonkeyPatch, role: str, space: str | None
) -> None:
    timings = Timings()
    arrivals = [(0.0, ""), (1.0, role), (3.0, '{"content":"中"}'), (7.0, '{"content":" "}')]
    if space is not None:
        arrivals.insert(2, (2.0, space))

    async def test() -> None:
        connection = Connection(timings)
        connection.connection_made(Mock(asyncio.Transport))
        times = iter([time for time, _ in arrivals])
        monkeypatch.setattr("load.time.perf_counter", lambda: next(times))
        asked = asyncio.create_task(connection.ask(b"", 1))
        await asyncio.sleep(0)
        connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n" + event(arrivals[1][1]))
        for _, delta in arrivals[2:-1]:
            connection.data_received(event(delta))
        end = b'data: {"usage":{"completion_tokens":1}}\n\n\r\n0\r\n\r\n'
        connection.data_received(event(arrivals[-1][1]) + end)
        await asked

    asyncio.run(test())
    assert (timings.first_texts, timings.gaps) == ([3.0], [4.0])


def event(delta: str) -> bytes:
    return f'data: {{"choices":[{{"delta":{delta}}}]}}\n\n'.encode()


def test_the_way_of_a_token_is_divided_at_the_step_that_made_it() -> None:
    way = Way()
    way.add([1.0, 2.0, 3.0, 4.0], [(0.8, 0.9), (1.7, 1.8), (2.6, 2.9), (3.7, 3.8)])
    assert way.to_server == pytest.approx([0.1, 0.1, 0.3, 0.1])
    assert way.to_client == pytest.approx([0.1, 0.2, 0.1, 0.2])
    assert way.steps == pytest.approx([0.9, 1.1])
    assert way.gaps == pytest.approx([1, 1, 1])
    assert way.row("a").split(" | ")[:3] == ["| a", "1", "1000000"]


def test_of_a_crowd_first_median_and_last_are_kept() -> None:
    crowd = Crowd()
    crowd.add(10.0, [14.0, 12.0, 13.0], Notes([], [10.3, 10.1, 10.2], [11.5, 11.0, 11.0]))
    assert [round(ms) for [ms] in ([s * 1000 for s in kind] for kind in crowd.kinds.values())] == [
        *(100, 200, 300),
        *(1000, 1000),
        3000,
    ]


def test_what_a_server_has_noted_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("asked 1.5\nstep 2.0 2.5\nanswered 2.0\n")
    traced = Traced("", file)
    notes = traced.notes()
    assert (notes.asked, notes.steps, notes.answered) == ([1.5], [(2.0, 2.5)], [2.0])
    with file.open("a") as more:
        more.write("asked 3.0\n")
    assert traced.notes() == Notes(asked=[3.0])
