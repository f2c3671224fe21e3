"""What `cluster/` says to Kubernetes and KubeRay: the schemas of both, and what the server does with it."""

import copy
import importlib
import importlib.util
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from cluster import ClusterSettings, read_arguments
from cluster import environment as variables_of_ray
from server.uvicorn_server import GRACEFUL_SECONDS
from settings import EVERY_ADDRESS, Settings, parse_settings, to_arguments
from tests.support.paths import ROOT
from tests.support.vllm_flags import vllm_flags

KUBERNETES_VERSION = "1.37"
CLUSTER = ROOT / "cluster"
MANIFESTS: list[dict[str, Any]] = [
    *yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text(encoding="utf-8"))
]
BY_KIND = {manifest["kind"]: manifest for manifest in MANIFESTS}
POD = BY_KIND["Deployment"]["spec"]["template"]["spec"]
[SERVER] = POD["containers"]

RAY_SERVICE = yaml.safe_load((CLUSTER / "rayservice.yaml").read_text(encoding="utf-8"))
RAY_CLUSTER = RAY_SERVICE["spec"]["rayClusterConfig"]
[WORKERS] = RAY_CLUSTER["workerGroupSpecs"]
GROUPS = [RAY_CLUSTER["headGroupSpec"], WORKERS]
SERVE_CONFIG = yaml.safe_load(RAY_SERVICE["spec"]["serveConfigV2"])
ARGS = SERVE_CONFIG["applications"][0]["args"]

NO_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="requirements-cluster.txt is not installed"
)

KUBERAY_FIELDS: dict[str, dict[str, type]] = {
    "RayService": {"apiVersion": str, "kind": str, "metadata": dict, "spec": dict},
    "RayServiceSpec": {
        "excludeHeadPodFromServeSvc": bool,
        "rayClusterConfig": dict,
        "rayClusterDeletionDelaySeconds": int,
        "serveConfigV2": str,
        "serveService": dict,
        "upgradeStrategy": dict,
    },
    "RayServiceUpgradeStrategy": {"type": str},
    "RayClusterSpec": {
        "authOptions": dict,
        "autoscalerOptions": dict,
        "enableInTreeAutoscaling": bool,
        "gcsFaultToleranceOptions": dict,
        "headGroupSpec": dict,
        "headServiceAnnotations": dict,
        "managedBy": str,
        "rayVersion": str,
        "suspend": bool,
        "workerGroupSpecs": list,
    },
    "AuthOptions": {"mode": str, "secretName": str},
    "AutoscalerOptions": {
        "env": list,
        "envFrom": list,
        "idleTimeoutSeconds": int,
        "image": str,
        "imagePullPolicy": str,
        "resources": dict,
        "securityContext": dict,
        "upscalingMode": str,
        "version": str,
        "volumeMounts": list,
    },
    "HeadGroupSpec": {
        "enableIngress": bool,
        "headService": dict,
        "rayStartParams": dict,
        "serviceType": str,
        "template": dict,
    },
    "WorkerGroupSpec": {
        "groupName": str,
        "maxReplicas": int,
        "minReplicas": int,
        "numOfHosts": int,
        "rayStartParams": dict,
        "replicas": int,
        "scaleStrategy": dict,
        "template": dict,
    },
}
"""Fields of KubeRay's resources with their types, from its API reference (`ray.io/v1`):
https://docs.ray.io/en/master/kuberay/references/api.html. No package has its schema."""


def check_schema(manifest: dict[str, Any]) -> None:
    """Raises `kubernetes_validate.ValidationError` for what Kubernetes does not know, or has another type for."""
    kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def check_pod_template(template: dict[str, Any]) -> None:
    check_schema(
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "any"},
            "template": template,
        }
    )


def check_kuberay(kind: str, found: dict[str, Any]) -> None:
    fields = KUBERAY_FIELDS[kind]
    for name, value in found.items():
        assert name in fields, f"{kind} has no {name}"
        # A bool is an int for Python, and is none for Kubernetes.
        assert type(value) is fields[name], (
            f"{kind}: {name} must be of type {fields[name].__name__}"
        )


def check_ray_service(manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]
    cluster = spec["rayClusterConfig"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    check_kuberay("RayService", manifest)
    check_kuberay("RayServiceSpec", spec)
    check_kuberay("RayServiceUpgradeStrategy", spec["upgradeStrategy"])
    check_kuberay("RayClusterSpec", cluster)
    check_kuberay("AuthOptions", cluster["authOptions"])
    check_kuberay("AutoscalerOptions", cluster["autoscalerOptions"])
    check_kuberay("HeadGroupSpec", head)
    for group in workers:
        check_kuberay("WorkerGroupSpec", group)
    for group in (head, *workers):
        # KubeRay starts Ray with these as flags: an object of strings.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        check_pod_template(group["template"])


def variants(value: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every object in a manifest, with the name of each field in it that is a number, a boolean or a list."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, bool | int | list):
                yield value, name
            yield from variants(inner)
    elif isinstance(value, list):
        for item in value:
            yield from variants(item)


def environment(container: dict[str, Any]) -> dict[str, str]:
    """The variables with a value of their own."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def given(arguments: list[str]) -> tuple[Settings, dict[str, str]]:
    """The settings of a command line, and vLLM's flags in it."""
    settings, for_vllm = parse_settings(arguments)
    return settings, dict(argument.split("=", 1) for argument in for_vllm)


def seconds_until_ready(probe: dict[str, Any]) -> int:
    return int(probe["periodSeconds"] * probe["failureThreshold"])


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_every_manifest_is_what_the_schema_of_kubernetes_says(manifest: dict[str, Any]) -> None:
    check_schema(manifest)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_a_field_that_kubernetes_does_not_know_is_found(manifest: dict[str, Any]) -> None:
    wrong = copy.deepcopy(manifest)
    inner = wrong.get("spec", wrong["metadata"])
    inner["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        check_schema(wrong)


def test_a_wrong_type_is_found_in_a_pod() -> None:
    wrong = copy.deepcopy(BY_KIND["Deployment"])
    checked = 0
    for found, name in variants(wrong["spec"]["template"]["spec"]):
        if name in ("port", "nvidia.com/gpu"):  # a number or a text for Kubernetes
            continue
        right, found[name] = found[name], "many"
        with pytest.raises(kubernetes_validate.ValidationError, match="many"):
            check_schema(wrong)
        found[name] = right
        checked += 1
    check_schema(wrong)
    assert checked > 20


def test_what_belongs_together_has_the_same_names() -> None:
    deployment, service = BY_KIND["Deployment"], BY_KIND["Service"]["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    scaled, budget = (
        BY_KIND["HorizontalPodAutoscaler"]["spec"],
        BY_KIND["PodDisruptionBudget"]["spec"],
    )
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["selector"] == labels
    assert budget["selector"]["matchLabels"] == labels
    assert scaled["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    ports = {port["name"] for port in SERVER["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= ports
    assert SERVER["startupProbe"]["httpGet"]["port"] in ports
    assert {mount["name"] for mount in SERVER["volumeMounts"]} == {
        volume["name"] for volume in POD["volumes"]
    }


def test_the_command_line_of_a_pod_is_one_that_the_server_takes() -> None:
    settings, for_vllm = given(SERVER["args"])
    assert set(for_vllm) <= vllm_flags()
    assert settings.host in EVERY_ADDRESS
    assert [settings.port] == [port["containerPort"] for port in SERVER["ports"]]
    assert SERVER["command"][1:] == ["openai_api_server_vllm.py"]
    assert any(
        Path(settings.model).is_relative_to(mount["mountPath"]) and mount["readOnly"]
        for mount in SERVER["volumeMounts"]
        if mount["name"] == "models"
    )


def test_a_pod_has_a_gpu_for_each_part_of_the_model() -> None:
    _, for_vllm = given(SERVER["args"])
    parts = int(for_vllm.get("--tensor-parallel-size", "1"))
    assert SERVER["resources"]["limits"]["nvidia.com/gpu"] == parts


def test_a_pod_may_drain_as_long_as_the_server_does() -> None:
    settings, _ = given(SERVER["args"])
    before = SERVER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert settings.drain_timeout == settings.request_timeout
    grace = POD["terminationGracePeriodSeconds"]
    assert grace >= before + settings.drain_timeout + GRACEFUL_SECONDS + 5
    # Long enough for the endpoint to be gone everywhere: more than what the readiness probe would take to say so.
    assert before >= SERVER["readinessProbe"]["periodSeconds"] * 2
    progress = BY_KIND["Deployment"]["spec"]["progressDeadlineSeconds"]
    assert progress > grace + seconds_until_ready(SERVER["startupProbe"])


def test_no_probe_ends_a_server_that_loads_or_drains() -> None:
    assert "livenessProbe" not in SERVER
    for probe in (SERVER["startupProbe"], SERVER["readinessProbe"]):
        assert probe["httpGet"]["path"] == "/health"
    assert seconds_until_ready(SERVER["startupProbe"]) >= 1200


def test_the_key_comes_from_a_secret_and_the_file_system_cannot_be_written() -> None:
    [key] = [each for each in SERVER["env"] if each["name"] == "VLLM_API_KEY"]
    assert "value" not in key
    assert key["valueFrom"]["secretKeyRef"]["name"]
    assert SERVER["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in SERVER["volumeMounts"] if not mount.get("readOnly")}
    assert environment(SERVER)["HOME"] in writable
    assert writable == {"/tmp", "/dev/shm"}
    assert POD["securityContext"]["runAsNonRoot"] is True


def test_the_autoscaler_asks_for_metrics_that_the_adapters_rules_name() -> None:
    [rule] = yaml.safe_load(BY_KIND["ConfigMap"]["data"]["config.yaml"])["rules"]
    series = promql_parser.parse(rule["seriesQuery"])
    assert isinstance(series, promql_parser.VectorSelector)
    [pattern] = [each.value for each in series.matchers.matchers if each.name == "__name__"]
    queries = {"Series": "vllm:x", "LabelMatchers": 'pod="a"', "GroupBy": "pod"}
    promql_parser.parse(
        re.sub(r"<<\.(\w+)>>", lambda found: queries[found[1]], rule["metricsQuery"])
    )
    to_python = re.sub(r"\$\{(\d)\}", r"\\\1", rule["name"]["as"])
    named = {
        re.sub(rule["name"]["matches"], to_python, metric)
        for metric in ("vllm:num_requests_waiting", "vllm:num_requests_running")
        if re.fullmatch(pattern, metric)
    }
    asked = {
        metric["pods"]["metric"]["name"]
        for metric in BY_KIND["HorizontalPodAutoscaler"]["spec"]["metrics"]
    }
    assert asked == named == {"vllm_num_requests_waiting", "vllm_num_requests_running"}


def test_the_autoscaler_keeps_as_many_pods_as_the_running_requests_need() -> None:
    spec = BY_KIND["HorizontalPodAutoscaler"]["spec"]
    targets = {
        metric["pods"]["metric"]["name"]: int(metric["pods"]["target"]["averageValue"])
        for metric in spec["metrics"]
    }
    settings, for_vllm = given(SERVER["args"])
    batch = int(for_vllm["--max-num-seqs"])
    assert targets["vllm_num_requests_running"] < batch
    # Else a Pod refuses requests before the autoscaler hears that any wait.
    assert batch + targets["vllm_num_requests_waiting"] < settings.max_num_queued_reqs
    assert spec["minReplicas"] == BY_KIND["Deployment"]["spec"]["replicas"] <= spec["maxReplicas"]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_the_ray_service_has_fields_that_kuberay_and_kubernetes_know() -> None:
    check_ray_service(RAY_SERVICE)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("", "serveConfig", ""),
        ("", "rayClusterDeletionDelaySeconds", "660"),
        ("rayClusterConfig", "workerGroupSpec", []),
        ("rayClusterConfig", "enableInTreeAutoscaling", "true"),
        ("rayClusterConfig/headGroupSpec/rayStartParams", "num-cpus", 0),
    ],
)
def test_what_kuberay_does_not_know_is_found(path: str, name: str, value: object) -> None:
    wrong = copy.deepcopy(RAY_SERVICE)
    found = wrong["spec"]
    for part in filter(None, path.split("/")):
        found = found[part]
    found[name] = value
    with pytest.raises(AssertionError):
        check_ray_service(wrong)


@pytest.mark.parametrize("group", [0, 1], ids=["head", "workers"])
def test_what_kubernetes_does_not_know_is_found_in_a_ray_pod(group: int) -> None:
    template = copy.deepcopy(GROUPS[group]["template"])
    template["spec"]["containers"][0]["imagePullPolicies"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolicies"):
        check_pod_template(template)


def test_the_arguments_of_the_application_are_flags_of_its_command() -> None:
    settings, for_vllm = read_arguments(to_arguments(ARGS, "args", ClusterSettings))
    assert {argument.split("=")[0] for argument in for_vllm} <= vllm_flags()
    assert settings.model == ARGS["model"]
    assert settings.model_names == (ARGS["served-model-name"],)
    assert settings.replicas == (1, 8)


def test_the_workers_of_ray_are_as_many_as_its_replicas() -> None:
    least, most = map(int, ARGS["replicas"].split(":"))
    surge = math.ceil(most / 4)  # what an upgrade starts before it stops others
    assert (WORKERS["minReplicas"], WORKERS["maxReplicas"]) == (least, most + surge)
    assert least <= WORKERS["replicas"] <= most


def test_the_times_of_ray_are_longer_than_a_request_may_take() -> None:
    longest = Settings().request_timeout + 60
    for group in GROUPS:
        [container] = group["template"]["spec"]["containers"]
        assert environment(container).items() >= variables_of_ray(ClusterSettings()).items()
    assert RAY_SERVICE["spec"]["rayClusterDeletionDelaySeconds"] >= longest
    assert RAY_CLUSTER["autoscalerOptions"]["idleTimeoutSeconds"] >= longest


def test_ray_runs_the_same_on_head_and_workers() -> None:
    head, workers = (group["template"]["spec"]["containers"][0] for group in GROUPS)
    assert head["env"] == workers["env"]
    assert head["image"] == workers["image"]
    assert {each["name"] for each in head["env"]} >= {"VLLM_API_KEY", "RAY_USAGE_STATS_ENABLED"}


@NO_RAY
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # Ray's own use of what pydantic deprecates
def test_the_application_is_what_ray_serve_takes() -> None:
    schema = importlib.import_module("ray.serve.schema").ServeDeploySchema
    deployed = schema.model_validate(SERVE_CONFIG)
    [application] = deployed.applications
    # Ray leaves out what it does not know.
    [sent] = SERVE_CONFIG["applications"]
    assert set(SERVE_CONFIG) <= set(schema.model_fields)
    assert set(sent) <= set(type(application).model_fields)
    assert set(SERVE_CONFIG["http_options"]) <= set(type(deployed.http_options).model_fields)
    assert application.import_path == "cluster:build"
    assert deployed.http_options.host == "0.0.0.0"
    [port] = [
        p for p in GROUPS[1]["template"]["spec"]["containers"][0]["ports"] if p["name"] == "serve"
    ]
    assert deployed.http_options.port == port["containerPort"]


@NO_RAY
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrong", [{"import_path": "cluster:"}, {"args": []}, {"route_prefix": 8}])
def test_an_application_that_ray_serve_does_not_take_is_found(wrong: dict[str, Any]) -> None:
    schema = importlib.import_module("ray.serve.schema").ServeDeploySchema
    config = copy.deepcopy(SERVE_CONFIG)
    config["applications"][0] |= wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        schema.model_validate(config)


@NO_RAY
def test_ray_reads_every_variable_that_is_set_for_it() -> None:
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = Path(found.submodule_search_locations[0])
    sources = [*(folder / "serve" / "_private").glob("*.py"), *folder.glob("_*/**/*.py")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    [container] = RAY_CLUSTER["headGroupSpec"]["template"]["spec"]["containers"]
    names = [name for name in environment(container) if name.startswith("RAY_")]
    assert len(names) == len(variables_of_ray(ClusterSettings()))
    for name in names:
        assert f'"{name}"' in text, name
