"""The dashboard, the alerts and the scrape config: their queries ask for what `/metrics` has."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import BUCKETS
from tests.support.bodies import ASK, CHAT, COMPLETIONS, TALK
from tests.support.paths import ROOT

CLUSTER = ROOT / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana.json").read_text(encoding="utf-8"))
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
PROMETHEUS = yaml.safe_load((CLUSTER / "prometheus.yaml").read_text(encoding="utf-8"))
JOBS = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
[ALERT_GROUP] = yaml.safe_load((CLUSTER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
ALERTS = {rule["alert"]: rule for rule in ALERT_GROUP["rules"]}

PROMETHEUS_LABELS = {"job", "instance"}
"""What Prometheus adds to every series that it scrapes."""
OF_PROMETHEUS: dict[str, set[str]] = {"up": set()}
"""Metrics that Prometheus makes of each scrape."""
OF_A_LINUX_PROCESS: dict[str, set[str]] = {"process_start_time_seconds": set()}
LABEL_VALUES = re.compile(r"label_values\((?P<series>.*), (?P<label>\w+)\)")

QUIET: list[dict[str, str]] = [
    {"series": 'up{job="alpaca",instance="a"}', "values": "1x60"},
    {"series": 'process_start_time_seconds{job="alpaca",instance="a"}', "values": "1000x60"},
    {
        "series": 'http_requests_total{job="alpaca",instance="a",path="/v1/completions",status="200"}',
        "values": "0+600x60",
    },
    {
        "series": 'http_requests_total{job="alpaca",instance="a",path="/health",status="503"}',
        "values": "0+60x60",
    },
    {"series": 'vllm:num_requests_waiting{job="alpaca",instance="a"}', "values": "0x60"},
    {"series": 'vllm:kv_cache_usage_perc{job="alpaca",instance="a"}', "values": "0.6x60"},
    {
        "series": 'time_to_first_token_seconds_bucket{job="alpaca",instance="a",le="2.5"}',
        "values": "0+600x60",
    },
    {
        "series": 'time_to_first_token_seconds_bucket{job="alpaca",instance="a",le="+Inf"}',
        "values": "0+600x60",
    },
]
"""An hour of a server that is well, a sample each minute: requests are answered, and probes of a start got 503."""
TROUBLES: dict[str, tuple[str, list[dict[str, str]]]] = {
    "503s": (
        "AlpacaNoRoom",
        [
            {
                "series": 'http_requests_total{job="alpaca",instance="a",path="/v1/completions",status="503"}',
                "values": "0+60x60",
            }
        ],
    ),
    "a queue": (
        "AlpacaNoRoom",
        [{"series": 'vllm:num_requests_waiting{job="alpaca",instance="a"}', "values": "7x60"}],
    ),
    "no answer": (
        "AlpacaEngineDead",
        [{"series": 'up{job="alpaca",instance="a"}', "values": "1x25 0x35"}],
    ),
    "another start": (
        "AlpacaEngineDead",
        [
            {
                "series": 'process_start_time_seconds{job="alpaca",instance="a"}',
                "values": "1000x25 9000x35",
            }
        ],
    ),
    "late tokens": (
        "AlpacaFirstTokenLate",
        [
            {
                "series": 'time_to_first_token_seconds_bucket{job="alpaca",instance="a",le="2.5"}',
                "values": "0+540x60",
            },
            {
                "series": 'time_to_first_token_seconds_bucket{job="alpaca",instance="a",le="5"}',
                "values": "0+540x60",
            },
            {
                "series": 'time_to_first_token_seconds_bucket{job="alpaca",instance="a",le="10"}',
                "values": "0+600x60",
            },
        ],
    ),
    "a full cache": (
        "AlpacaKVCacheFull",
        [{"series": 'vllm:kv_cache_usage_perc{job="alpaca",instance="a"}', "values": "0.97x60"}],
    ),
}
"""By what is wrong: the alert that tells it, and the series that take the place of quiet ones or come to them."""


def panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", [])


def without_grafanas_variables(query: str) -> str:
    """A query as Grafana sends it, with some value for each variable."""
    query = query.replace("$__rate_interval", "1m").replace("$__range", "1h")
    return re.sub(r"\$(\w+)", lambda found: f"value of {found[1]}", query)


def queries() -> Iterator[tuple[str, str]]:
    """Each query with where it stands."""
    for panel in panels():
        for target in panel["targets"]:
            yield (
                f"{panel['title']} {target['refId']}",
                without_grafanas_variables(target["expr"]),
            )
    for name, rule in ALERTS.items():
        yield name, rule["expr"]
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            found = LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert found is not None
            series = without_grafanas_variables(found["series"])
            yield f"variable {name}", f"count by ({found['label']}) ({series})"


QUERIES = dict(queries())


def nodes(query: str) -> list[promql_parser.Expr]:
    """The parts of a query; raises ValueError if it is none, or a function gets another type than it takes."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(query), found.append)
    return found


def asked(query: str) -> tuple[set[str], set[str]]:
    """The metrics of a query, and the labels that it selects and groups by."""
    metrics, labels = set(), set()
    for node in nodes(query):
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name is not None
            metrics.add(node.name)
            labels |= {matcher.name for matcher in node.matchers.matchers}
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels |= set(node.modifier.labels)
    return metrics, labels


def series_of(metrics: str) -> dict[str, set[str]]:
    """The names of the series in a reply of `/metrics`, each with its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def vllms_series() -> dict[str, set[str]]:
    """What `engine/light_client.py` makes, read in its source: to import it takes vLLM. None has a label."""
    tree = ast.parse((ROOT / "engine" / "light_client.py").read_text(encoding="utf-8"))
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = str(node.args[0].value)
            if isinstance(node.func, ast.Name) and node.func.id == "Counter":
                found[f"{name}_total"] = set()
            elif isinstance(node.func, ast.Attribute) and node.func.attr == "_add_gauge":
                found[f"vllm:{name}"] = set()
    return found


def unknown_parts(query: str, known: dict[str, set[str]]) -> list[str]:
    """What a query asks for and no series has: metrics by their names, or labels."""
    metrics, labels = asked(query)
    missing = sorted(metrics - set(known))
    has = PROMETHEUS_LABELS.union(*(known[metric] for metric in metrics & set(known)))
    return missing + sorted(labels - has)


@pytest.fixture
def known(client: TestClient) -> dict[str, set[str]]:
    """The series of the app after some requests, of vLLM's engine, and of Prometheus itself."""
    client.post(COMPLETIONS, json=ASK)
    client.post(CHAT, json={**TALK, "stream": True})
    client.post(COMPLETIONS, json={"prompt": 1})
    ours = series_of(client.get("/metrics").text)
    return ours | vllms_series() | OF_PROMETHEUS | OF_A_LINUX_PROCESS


@pytest.mark.parametrize("where", QUERIES)
def test_every_query_asks_for_metrics_and_labels_that_there_are(
    where: str, known: dict[str, set[str]]
) -> None:
    assert unknown_parts(QUERIES[where], known) == []


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("sum(rate(http_request_total[5m]))", ["http_request_total"]),
        ("sum by (model) (rate(http_requests_total[5m]))", ["model"]),
        ('vllm:num_requests_waiting{model_name="a"}', ["model_name"]),
        ("vllm:num_requests_swapped > 0 or up == 0", ["vllm:num_requests_swapped"]),
        ("sum by (le) (rate(time_to_first_token_seconds_sum[5m]))", ["le"]),
    ],
)
def test_a_metric_or_label_that_there_is_not_is_found(
    query: str, unknown: list[str], known: dict[str, set[str]]
) -> None:
    assert unknown_parts(query, known) == unknown


@pytest.mark.parametrize(
    "query", ["sum(rate(up[5m])", "rate(up)", "histogram_quantil(0.5, up)", "up{job=alpaca}"]
)
def test_a_query_that_is_none_is_found(query: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        nodes(query)


def test_every_metric_that_the_pages_name_is_known(known: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([\w:]+)` \|", page.split("| metric |")[1].split("\n\n")[0], re.M)
    assert len(names) == 13
    assert {name for name in names if f"{name}_count" not in known} <= set(known)


@pytest.mark.engine
@pytest.mark.parametrize("where", QUERIES)
def test_the_real_server_has_what_every_query_asks_for(where: str, http: httpx.Client) -> None:
    http.post(COMPLETIONS, json={**ASK, "max_tokens": 1})
    found = series_of(http.get("/metrics").text)
    assert unknown_parts(QUERIES[where], found | OF_PROMETHEUS) == []


def test_the_dashboard_has_a_panel_for_each_metric_that_the_pages_name() -> None:
    in_panels = set[str]().union(
        *(asked(query)[0] for where, query in QUERIES.items() if where not in ALERTS)
    )
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in in_panels}
    assert families >= {
        "http_requests_total",
        "http_requests_in_flight",
        "http_request_duration_seconds",
        "time_to_first_token_seconds",
        "engine_requests_unfinished",
        "prompt_tokens_total",
        "generated_tokens_total",
        *vllms_series(),
    }


def test_the_panels_lie_beside_each_other_and_ask_the_chosen_datasource() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in panels()}) == len([*panels()])
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert {"instance", "model"} <= set(VARIABLES)


def test_every_variable_of_a_query_is_one_of_the_dashboard() -> None:
    text = json.dumps(DASHBOARD)
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == set(VARIABLES)


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    assert len(ALERTS) == 4
    for name, rule in ALERTS.items():
        assert set(rule["annotations"]) == {"summary", "description", "action"}, name
        assert all(len(text.split()) >= 4 for text in rule["annotations"].values()), name
        assert re.fullmatch(r"\d+m", rule["for"]), name
        assert rule["labels"]["severity"] in ("warning", "critical"), name


def test_the_alerts_and_the_dashboard_are_of_the_jobs_that_are_scraped() -> None:
    for name, rule in ALERTS.items():
        for node in nodes(rule["expr"]):
            if isinstance(node, promql_parser.VectorSelector):
                [pattern] = [each.value for each in node.matchers.matchers if each.name == "job"]
                assert all(re.fullmatch(pattern, job) for job in JOBS), name


def test_the_alert_of_late_tokens_compares_with_a_bound_of_a_bucket() -> None:
    [compared] = [
        node.rhs.val
        for node in nodes(ALERTS["AlpacaFirstTokenLate"]["expr"])
        if isinstance(node, promql_parser.BinaryExpr)
        and isinstance(node.rhs, promql_parser.NumberLiteral)
    ]
    assert compared in BUCKETS


def test_every_job_is_scraped_with_a_key_from_a_file() -> None:
    for name, job in JOBS.items():
        assert job["metrics_path"] == "/metrics", name
        authorization = job["authorization"]
        assert authorization["type"] == "Bearer"
        assert set(authorization) == {"type", "credentials_file"}  # no key in the file itself
    assert PROMETHEUS["rule_files"] == ["alerts.yaml"]
    assert len(JOBS["alpaca"]["static_configs"][0]["targets"]) > 1


def test_the_pods_are_found_by_the_labels_and_ports_that_they_have() -> None:
    [deployment, *_] = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text(encoding="utf-8"))
    template = deployment["spec"]["template"]
    job = JOBS["alpaca-kubernetes"]
    [selector] = job["kubernetes_sd_configs"][0]["selectors"]
    label, value = selector["label"].split("=")
    assert template["metadata"]["labels"][label] == value
    [kept] = [rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"]
    assert kept in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    added = {rule.get("target_label") for rule in job["relabel_configs"]}
    assert added >= {"namespace", "pod"}  # the autoscaler asks by them


PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def run_promtool(*arguments: str | Path) -> None:
    process = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr


@PROMTOOL
def test_prometheus_takes_the_config_and_the_rules(tmp_path: Path) -> None:
    shutil.copy(CLUSTER / "alerts.yaml", tmp_path)
    key = tmp_path / "key"
    key.write_text("k", encoding="utf-8")
    config = json.loads(json.dumps(PROMETHEUS))
    # Debian's Prometheus is built without Kubernetes.
    config["scrape_configs"] = [config["scrape_configs"][0]]
    config["scrape_configs"][0]["authorization"]["credentials_file"] = str(key)
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run_promtool("check", "config", tmp_path / "prometheus.yaml")


@PROMTOOL
@pytest.mark.parametrize("trouble", [None, *TROUBLES])
def test_an_alert_fires_for_its_trouble_alone(trouble: str | None, tmp_path: Path) -> None:
    alert, changed = TROUBLES[trouble] if trouble else ("", [])
    series = {each["series"]: each for each in (*QUIET, *changed)}
    labels = {"severity": ALERTS[alert]["labels"]["severity"]} if alert else {}
    labels |= {"job": "alpaca"} if alert else {}
    if alert in ("AlpacaEngineDead", "AlpacaKVCacheFull"):
        labels["instance"] = "a"
    tested = [
        {
            "eval_time": "32m",
            "alertname": name,
            "exp_alerts": [{"exp_labels": labels}] if name == alert else [],
        }
        for name in ALERTS
    ]
    # promtool compares annotations too, which the rules of this test have not.
    rules = [{k: v for k, v in rule.items() if k != "annotations"} for rule in ALERTS.values()]
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "alpaca", "rules": rules}]}), encoding="utf-8"
    )
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {"interval": "1m", "input_series": [*series.values()], "alert_rule_test": tested}
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test), encoding="utf-8")
    run_promtool("test", "rules", tmp_path / "test.yaml")
