"""The flags of `cluster.py`, and what Ray, HAProxy and Prometheus are told, before anything is started."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest

import cluster
from cluster import (
    HAPROXY_ERRORS,
    ClusterSettings,
    Families,
    build,
    environment,
    haproxy_defaults,
    longest_request,
    needs,
    read_arguments,
    wanted_replicas,
)
from server.connection import ARRIVAL_SECONDS, MAX_HEAD_BYTES
from settings import StartError
from tests.support.fronts import HAPROXY_CONFIG
from tests.support.server_process import USERS_COMMAND, run_command


def test_the_command_takes_the_flags_of_the_server_and_of_vllm() -> None:
    settings, for_vllm = read_arguments(["--replicas", "1:8", *USERS_COMMAND.split()])
    assert (settings.replicas, settings.port) == ((1, 8), 8000)
    assert settings.model_names == ("chinese-llama-alpaca-2",)
    assert for_vllm == ["--tensor-parallel-size", "1"]


@pytest.mark.parametrize(("text", "found"), [("2", (2, 2)), ("1:8", (1, 8)), ("3:3", (3, 3))])
def test_replicas_are_a_number_or_a_range(text: str, found: tuple[int, int]) -> None:
    assert read_arguments(["--replicas", text])[0].replicas == found


@pytest.mark.parametrize("text", ["0", "2:1", "0:3", "many", "1:", ":2", "1:2:3"])
def test_other_replicas_are_told_by_the_parser(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_arguments([f"--replicas={text}"])
    assert "--replicas: invalid replica_range value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--uds", "/tmp/s"], "--uds is not for several replicas: HAProxy listens on a port."),
        (["--port", "0"], "--port 0 is not for several replicas"),
        (["--allow-lora-updates", "--api-key", "k"], "--allow-lora-updates is not for several"),
        (["--requests-per-replica", "0"], "--requests-per-replica 0 must be 1 or more."),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 is not for several replicas: it is 0.0.0.0"),
        (["--host", "::"], "--host :: is not for several replicas"),
        (["--timeout-keep-alive", "0"], "--timeout-keep-alive 0 is not for several replicas"),
        (["--lora-modules", "a=/x", "a=/y"], "two models cannot both be named a"),
    ],
)
def test_flags_that_replicas_cannot_have_are_one_sentence(flags: list[str], sentence: str) -> None:
    with pytest.raises(StartError, match=re.escape(sentence)):
        read_arguments(flags)


def test_a_certificate_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "check_settings", lambda _: None)  # of the certificate itself
    with pytest.raises(StartError, match="put a proxy that does before it"):
        read_arguments(["--ssl-certfile", str(tmp_path / "cert")])


def test_a_start_that_cannot_work_ends_with_one_sentence_and_starts_no_ray() -> None:
    done = run_command("--model", "/no/such/model", program="cluster.py")
    assert done.returncode == 1
    assert done.stderr == "error: There is no directory /no/such/model.\n"


def test_times_are_longer_than_a_request_may_take() -> None:
    for flags, seconds in (
        ([], 600),
        (["--request-timeout", "0.5"], 1),
        (["--request-timeout=0"], 86400),
    ):
        settings, _ = read_arguments(flags)
        assert longest_request(settings) == seconds
        variables = environment(settings)
        assert int(variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) == seconds + 60


def test_haproxy_holds_what_the_server_reads_of_a_head_and_waits_longer() -> None:
    variables = environment(ClusterSettings())
    assert int(variables["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]) >= MAX_HEAD_BYTES + 1024
    [waits] = re.findall(r"timeout http-request (\d+)s", haproxy_defaults(sticky=False))
    assert int(waits) == 2 * ARRIVAL_SECONDS


def test_both_haproxies_say_the_same_errors() -> None:
    """That of Ray, and that of `cluster/haproxy.cfg`."""
    lines = re.findall(r"^ *(http-error .*)$", HAPROXY_CONFIG.read_text("utf-8"), re.MULTILINE)
    assert len(lines) == len(HAPROXY_ERRORS)
    assert [line.strip() for line in haproxy_defaults(sticky=True).splitlines()][-6:] == lines


GPUS = ["--tensor-parallel-size", "2", "-pp=3", "--data-parallel-size=2", "--max-model-len", "5"]


@pytest.mark.parametrize(("is_cpu", "found"), [(True, 0), (False, 12)])
def test_the_gpus_of_a_replica_follow_from_vllms_flags(
    monkeypatch: pytest.MonkeyPatch, is_cpu: bool, found: int
) -> None:
    monkeypatch.setattr(cluster, "is_cpu_build", lambda: is_cpu)
    assert needs(GPUS) == {"num_cpus": 1, "num_gpus": found}
    assert needs([])["num_gpus"] == (0 if is_cpu else 1)


@pytest.mark.parametrize(
    ("unfinished", "wanted"),
    [({}, 1), ({"a": 0.0}, 1), ({"a": 8.0}, 1), ({"a": 8.0, "b": 1.0}, 2), ({"a": 20, "b": 12}, 4)],
)
def test_replicas_follow_the_unfinished_requests_of_all_engines(
    unfinished: dict[str, float], wanted: int
) -> None:
    metrics: dict[str, Any] = {"unfinished": unfinished}
    config = SimpleNamespace(target_ongoing_requests=8)
    context: Any = SimpleNamespace(aggregated_metrics=metrics, config=config)
    assert wanted_replicas(context) == (wanted, {})
    context.aggregated_metrics = None
    assert wanted_replicas(context) == (1, {})


TEXT = """# HELP asked_total Requests
# TYPE asked_total counter
asked_total{path="/a"} 3.0
# HELP took_seconds Time
# TYPE took_seconds histogram
took_seconds_bucket{le="1.0"} 2.0
took_seconds_bucket{le="+Inf"} 3.0
took_seconds_count 3.0
took_seconds_sum 4.5
"""


def test_metrics_of_replicas_stand_together_with_their_names() -> None:
    merged = generate_latest(Families({"one": TEXT, "two": TEXT})).decode()
    assert merged.count("# TYPE asked_total counter") == 1
    assert merged.count("# TYPE took_seconds histogram") == 1
    samples = {line for line in merged.splitlines() if not line.startswith("#")}
    for replica in ("one", "two"):
        assert f'asked_total{{path="/a",replica="{replica}"}} 3.0' in samples
        assert f'took_seconds_bucket{{le="+Inf",replica="{replica}"}} 3.0' in samples
    assert len(samples) == 10


@pytest.mark.parametrize("name", ["port", "root-path", "timeout_keep_alive", "sticky"])
def test_the_builder_refuses_what_ray_serve_was_started_with(name: str) -> None:
    with pytest.raises(StartError, match="has no effect here, but in Ray's own config"):
        build({"model": "/models/m", name: 1})
