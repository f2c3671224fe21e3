"""What this server needs of vLLM: that the installed one has it, and what happens where one has not."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from settings import StartError
from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.replies import events
from tests.support.server_process import Server

pytestmark = pytest.mark.engine

QUESTION = "告诉我中国的首都在哪里"
STORY = "给我讲一些有关杭州的故事吧"
ASKS = {
    "greedy": (COMPLETIONS, {"prompt": QUESTION, "temperature": 0}),
    "sampled": (CHAT, {"messages": STORY, "temperature": 1.0, "seed": 3, "n": 3}),
    "best of": (
        COMPLETIONS,
        {"prompt": STORY, "best_of": 3, "n": 2, "seed": 3, "temperature": 1.0},
    ),
    "beams": (COMPLETIONS, {"prompt": STORY, "num_beams": 4, "n": 2, "max_tokens": 60}),
    "stop": (COMPLETIONS, {"prompt": STORY, "stop": ["，"], "temperature": 0}),
    "log-probabilities": (
        CHAT,
        {"messages": QUESTION, "logprobs": True, "top_logprobs": 3, "temperature": 0},
    ),
    "scores": (COMPLETIONS, {"prompt": QUESTION, "echo": True, "logprobs": 1, "max_tokens": 0}),
    "choice": (
        CHAT,
        {
            "messages": QUESTION,
            "structured_outputs": {"choice": ["北京", "上海"]},
            "temperature": 0,
        },
    ),
    "batch": (
        COMPLETIONS,
        {"prompt": [QUESTION, STORY], "temperature": 0, "return_token_ids": True},
    ),
    "length": (COMPLETIONS, {"prompt": STORY, "max_tokens": 3, "temperature": 0}),
}


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    """A server on vLLM's own parts alone."""
    server = Server(
        "--port", "0", "--drain-timeout", "1", program="tests/support/vllms_own_parts.py"
    )
    server.wait_for_banner()
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0


def said(reply: httpx.Response, stream: bool) -> object:
    """A reply without what differs from request to request; of a stream each choice as its pieces join."""
    assert reply.status_code == 200, reply.text
    if not stream:
        return {
            name: value for name, value in reply.json().items() if name not in ("id", "created")
        }
    choices: dict[int, dict[str, list[Any]]] = {}
    for event in events(reply.text):
        for choice in event["choices"]:
            joined = choices.setdefault(
                choice["index"], {"text": [], "tokens": [], "ids": [], "ends": []}
            )
            joined["text"] += choice.get("text") or choice.get("delta", {}).get("content") or ""
            logprobs = choice.get("logprobs") or {}
            joined["tokens"] += logprobs.get("content") or logprobs.get("tokens") or []
            joined["ids"] += choice.get("token_ids") or []
            joined["ends"] += [choice["finish_reason"]] if choice["finish_reason"] else []
    return choices


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ASKS)
def test_vllms_own_parts_give_the_same_replies(
    http: httpx.Client, plain: Server, name: str, stream: bool
) -> None:
    path, body = ASKS[name]
    body = {**body, "stream": stream}
    replies = [
        said(client(path, json=body, timeout=60), stream)
        for client in (http.post, plain_post(plain))
    ]
    assert replies[0] == replies[1]


def plain_post(plain: Server) -> Callable[..., httpx.Response]:
    return lambda path, **asked: httpx.post(plain.url + path, **asked)


def test_a_client_that_leaves_frees_vllms_own_parts(plain: Server) -> None:
    endless = {"prompt": STORY, "max_tokens": 1500, "ignore_eos": True, "stream": True, "n": 2}
    with httpx.stream("POST", plain.url + COMPLETIONS, json=endless, timeout=60) as reply:
        next(reply.iter_lines())
    shown = ""
    for _ in range(100):
        shown = httpx.get(f"{plain.url}/metrics").text
        if re.search(r"^engine_requests_unfinished 0", shown, re.MULTILINE):
            return
    raise AssertionError(shown)


def test_who_runs_too_long_is_told_that_vllms_own_parts_shut_down(plain: Server) -> None:
    """The last test of that server."""
    endless = {"prompt": STORY, "max_tokens": 1900, "ignore_eos": True, "stream": True, "n": 40}
    with httpx.stream("POST", plain.url + COMPLETIONS, json=endless, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        plain.process.terminate()
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
    assert plain.process.wait(60) == 0


def test_the_installed_vllm_has_all_that_is_needed() -> None:
    import vllm

    from engine import vllm_contract as contract

    contract.check_vllm(vllm.__version__)
    assert contract.missing_for_requests() is None
    assert contract.missing_for_dispatch() is None
    assert contract.missing_for_steps() is None
    assert contract.missing_for_outputs() is None
    assert contract.missing_for_statistics() is None
    assert contract.missing_for_forks() is None


@pytest.mark.parametrize(
    ("version", "fault"),
    [
        ("0.30.1", "is too old"),
        ("0.34.0", "is too new"),
        ("0.32.0", "does not fit"),
        ("0.33.0rc1", "does not fit"),
    ],
)
def test_what_nothing_works_without_ends_the_start_in_words(
    monkeypatch: pytest.MonkeyPatch, version: str, fault: str
) -> None:
    from engine import vllm_contract as contract

    monkeypatch.setattr(contract, "ENGINE_ARGUMENTS", (*contract.ENGINE_ARGUMENTS, "no_such_flag"))
    sentence = f"vLLM {version} {fault}: AsyncEngineArgs has no no_such_flag (this server knows 0.31 to 0.33)."
    with pytest.raises(StartError, match=re.escape(sentence)):
        contract.check_vllm(version)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SAMPLING_PARAMETERS", ("flat",), "SamplingParams has no flat"),
        ("REQUEST_FIELDS", ("id",), "EngineCoreRequest does not begin with id"),
    ],
)
def test_what_has_moved_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: tuple[str, ...], sentence: str
) -> None:
    from engine import vllm_contract as contract

    monkeypatch.setattr(contract, name, value)
    with pytest.raises(StartError, match=sentence):
        contract.check_vllm("0.33.0")


@pytest.mark.parametrize(
    ("part", "name", "value", "sentence"),
    [
        ("outputs", "ADD_PARAMETERS", ("it",), "OutputProcessor.add_request has other parameters"),
        ("outputs", "CORE_OUTPUT_FIELDS", ("tokens",), "EngineCoreOutput has no tokens"),
        ("outputs", "PROCESSOR_FIELDS", ("requests",), "OutputProcessor has no requests"),
        ("requests", "REQUEST_PARTS", ("get_end",), "BaseRenderer has no get_end"),
        ("steps", "STEP_FIELDS", ("step",), "EngineCoreOutputs has no step"),
        ("steps", "RESOURCES", ("socket",), "BackgroundResources has no socket"),
    ],
)
def test_a_lighter_part_says_what_it_lacks_of_vllm(
    monkeypatch: pytest.MonkeyPatch, part: str, name: str, value: tuple[str, ...], sentence: str
) -> None:
    from engine import vllm_contract as contract

    monkeypatch.setattr(contract, name, value)
    missing = getattr(contract, f"missing_for_{part}")()
    assert missing is not None
    assert missing.startswith(sentence)


def test_forks_say_what_they_lack_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import vllm_contract as contract

    monkeypatch.setattr(contract, "START_METHOD", "VLLM_NO_SUCH_METHOD")
    missing = "vllm.envs has no environment_variables with VLLM_NO_SUCH_METHOD"
    assert contract.missing_for_forks() == missing


def test_statistics_are_summed_over_engines_and_take_all_that_vllm_calls() -> None:
    from vllm.v1.metrics.stats import SchedulerStats

    from engine.light_client import SchedulerStatistics

    statistics = SchedulerStatistics.__new__(SchedulerStatistics)
    statistics._latest = {}
    statistics.record(
        SchedulerStats(num_running_reqs=3, num_waiting_reqs=1, kv_cache_usage=0.5),
        None,
        None,
        engine_idx=0,
    )
    statistics.record(SchedulerStats(num_running_reqs=4, kv_cache_usage=0.1), None, engine_idx=1)
    statistics.record(None, None)
    statistics.record_sleep_state(1, 1)
    statistics.record_admission_rejection("full")
    statistics.log()
    statistics.log_engine_initialized()
    assert (statistics._running(), statistics._waiting()) == (7, 1)
    assert statistics._usage() == pytest.approx(0.3)
