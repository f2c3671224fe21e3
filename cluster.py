"""The command for several replicas, on one machine or on many: the server's app under Ray Serve, behind its HAProxy.

`python cluster.py --replicas 1:8 FLAGS` takes all flags of the server. Ray starts each replica, which is an engine with
an app, on a machine that has room for it; HAProxy, on each machine that has a replica, sends requests to all of them.
docs/scale.md says how to join machines, and what each way to several of them keeps.
"""

import asyncio
import gc
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import uvicorn
from fastapi import FastAPI
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import build_app
from errors import APIError
from generation import Engine
from openai_api_server_vllm import describe, load_engine, prepare, run_command, with_keys
from quantization import is_cpu_build
from server import console
from server.connection import Http1Connection
from settings import (
    EVERY_ADDRESS,
    Settings,
    StartError,
    check_settings,
    flag,
    parse_flags,
    print_stderr,
    raising_start_error,
    to_arguments,
)

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.config import AutoscalingContext
    from ray.serve.handle import DeploymentHandle

ROOT = Path(__file__).resolve().parent
NAME, REPLICA = "alpaca", "replica"
"""Of the application in Ray Serve, and of its one deployment."""
START_ERROR = re.compile(r"^settings\.StartError: (.+)$", re.MULTILINE)
"""The last line of the traceback in which Ray tells why a replica could not start."""
METRICS_SECONDS = 5
"""How long replicas are waited for that do not tell their metrics."""
STOP_SECONDS, ROOM_SECONDS = 10, 2
DAY_SECONDS = 24 * 60 * 60
DEATH_NOTICE_SECONDS = 0.5
"""How long a replica whose engine has died stays, so that its clients are told."""
MORE_THAN_ADMITTED = 100
"""Requests that a replica takes beyond `--max-num-queued-reqs`: it answers them, with a 503 or what needs no engine."""
RAY_LOG = {"log_level": "ERROR", "enable_access_log": False}
"""Of what Ray Serve would log, only errors: the replicas have lines of their own for requests."""
STICKY = (
    r"hash req.body,regsub('\\\\.',,g),json_query('$.messages[1].content')",
    "hash-type consistent sdbm avalanche",
    "hash-balance-factor 200",
)
"""How HAProxy chooses by a chat's second message, as the first may be a system message that all have. Without one, as
at the first turn or for a completion, replicas take turns. It cannot read what is escaped by a backslash."""
BUFFERING = ("option http-buffer-request", "timeout http-request 60s")
"""A request that HAProxy has not read to its end cannot be sent again. The replicas' own limits are 30 seconds each for
head and body."""
HAPROXY_ERRORS = {
    400: "The request is not valid HTTP.",
    408: "The request did not arrive in time.",
    500: "The proxy failed unexpectedly.",
    502: "The server failed before it answered.",
    503: "No server can take the request now.",
    504: "The server did not answer in time.",
}
"""What HAProxy says itself."""
ID_HEADER, SENT_HEADERS = b"x-request-id", "sent_headers"
"""A header's name, and where in the ASGI scope the headers are that a client has sent."""
RAYS_HEADERS = (ID_HEADER, b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
"""Headers of a request that Ray would obey."""
GPU_FLAGS = (
    ("--tensor-parallel-size", "-tp"),
    ("--pipeline-parallel-size", "-pp"),
    ("--data-parallel-size", "-dp"),
)
"""Flags of vLLM, the product of whose values is the number of a replica's GPUs."""
RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}
"""Ray's names for what a replica needs, and for what a cluster has."""
NOT_HERE = {
    "uds": "HAProxy listens on a port",
    "ssl_certfile": "Ray's HAProxy speaks no TLS, so put a proxy that does before it",
    "ssl_keyfile": "Ray's HAProxy speaks no TLS, so put a proxy that does before it",
    "allow_lora_updates": "a client would reach one replica of several, so use --lora-modules",
}
"""Flags of the server that replicas cannot have, with the reasons."""
HOSTS = ("localhost", "127.0.0.1", EVERY_ADDRESS[0])
"""For this machine alone, or for all: HAProxy asks its own machine's replicas at 127.0.0.1, and others' at theirs."""
OF_RAYS_CONFIG = ("host", "port", "root-path", "timeout-keep-alive", "sticky", "address")
"""Flags that say how Ray Serve and HAProxy are started, which `serve` has done when it calls `build`."""


def replica_range(text: str) -> tuple[int, int]:
    """Parse `MIN:MAX`, or one number for both; argparse puts this function's name into its error."""
    least, colon, most = text.partition(":")
    numbers = int(least), int(most if colon else least)
    if not 1 <= numbers[0] <= numbers[1]:
        raise ValueError
    return numbers


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """The flags of this command: its own, and the server's."""

    replicas: tuple[int, int] = flag(
        (1, 1),
        "how many replicas: a number, or MIN:MAX for as many as requests need",
        type=replica_range,
    )
    requests_per_replica: int = flag(
        64,
        "unfinished requests of a replica, by choice or beam, beyond which another one starts",
        type=int,
    )
    sticky: bool = flag(
        False,
        "send a conversation to one replica, which has it in its prefix cache, and not to the least busy",
    )
    address: str | None = flag(
        None, "a Ray cluster to join, such as auto (default: start one here)"
    )


def check_cluster(settings: ClusterSettings) -> None:
    """Raise StartError for flags that replicas cannot have."""
    for name, reason in NOT_HERE.items():
        if getattr(settings, name):
            raise StartError(f"--{name.replace('_', '-')} is not for several replicas: {reason}.")
    if settings.port == 0:
        raise StartError(
            "--port 0 is not for several replicas: HAProxy needs a port of your choice."
        )
    if settings.host not in HOSTS:
        raise StartError(
            f"--host {settings.host} is not for several replicas: it is 0.0.0.0, or localhost for this machine alone."
        )
    if settings.timeout_keep_alive == 0:
        raise StartError(
            "--timeout-keep-alive 0 is not for several replicas: HAProxy keeps connections."
        )
    if settings.requests_per_replica < 1:
        raise StartError(
            f"--requests-per-replica {settings.requests_per_replica} must be 1 or more."
        )
    check_settings(settings)


def longest_request(settings: Settings) -> int:
    """Seconds that a request may take, a day where there is no limit."""
    return math.ceil(settings.request_timeout) or DAY_SECONDS


def environment(settings: ClusterSettings) -> dict[str, str]:
    """Variables that each process of Ray Serve reads when it starts, on each machine."""
    return {
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": haproxy_defaults(sticky=settings.sticky),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # The app runs in the event loop of its connections, as in the server.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # The command calls its replicas from outside an event loop.
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
        # With a 503, or without a word, nothing of an answer has been sent: another replica may be asked.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response 503",
        # A replica that has gone is chosen once more, which marks it as down. No more: a request that lets engines die
        # should not go round.
        "RAY_SERVE_HAPROXY_RETRIES": "2",
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        # HAProxy is replaced whenever replicas come or go; the old one lives until its streams have ended.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(longest_request(settings) + 60),
        # Holds the longest head that the server takes; a request that does not fit cannot be sent again.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(256 * 1024),
        # The lines of replicas go to the terminal of the command, every one and at once.
        "RAY_DEDUP_LOGS": "0",
        "RAY_SERVE_LOG_TO_STDERR": "1",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "90",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "cluster:middleware",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def haproxy_defaults(*, sticky: bool) -> str:
    """Lines for the section `defaults` of HAProxy's configuration, after the word `balance`.

    Ray has a variable for the algorithm that stands there, and none for the others.
    """
    lines = [*(STICKY if sticky else ("leastconn",)), *BUFFERING]
    for status, message in HAPROXY_ERRORS.items():
        body = APIError(status, message).to_json().decode()
        line = f"http-error status {status} content-type application/json string '{body}'"
        lines.append(
            line if status != HTTPStatus.SERVICE_UNAVAILABLE else f"{line} hdr Retry-After 1"
        )
    return "\n    ".join(lines)


class ReplicaConnection(Http1Connection):
    """A connection of HAProxy's, to a replica."""

    all: ClassVar[set[Any]] = set()
    """Those that are open."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        ReplicaConnection.all = self.connections

    @classmethod
    def end_all(cls) -> None:
        """Close those that are idle now, and the others after their replies."""
        for connection in [*cls.all]:
            connection.shutdown()


class OutsideRay:
    """ASGI middleware around Ray's own, which gives each request and each reply an `X-Request-Id`.

    Keeps the request's headers for `InsideRay`, and from Ray those that it would obey; of a reply's ids, the app's own
    stays, which is the first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                ids = [field for field in message["headers"] if field[0].lower() == ID_HEADER]
                for field in ids[1:]:
                    message["headers"].remove(field)
            await send(message)

        scope[SENT_HEADERS] = scope["headers"]
        scope["headers"] = [field for field in scope["headers"] if field[0] not in RAYS_HEADERS]
        await self.app(scope, receive, send_one_id)


class InsideRay:
    """ASGI middleware around the app, which gets the headers that the client has sent.

    Once the engine has died, requests that come are left without an answer: HAProxy asks another replica when the
    process ends in a moment, and until then it takes this one for busy. After a 503 it would choose it again.
    """

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app, self._engine = app, engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._engine.is_dead and scope["type"] == "http":
            await asyncio.Event().wait()
        if SENT_HEADERS in scope:
            scope["headers"] = scope[SENT_HEADERS]
        await self.app(scope, receive, send)


def middleware() -> list[Middleware]:
    """What Ray puts around its own middleware, in each replica."""
    return [Middleware(OutsideRay)]


class AllMetrics:
    """ASGI middleware that answers `/metrics`, where the app would, with the numbers of all replicas."""

    def __init__(self, app: ASGIApp, gather: Callable[[], Awaitable[bytes]]) -> None:
        self.app, self._gather = app, gather

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}

        async def send_all(message: Message) -> None:
            if message.get("status") == HTTPStatus.OK:
                start.update(message)
                return
            if start:
                message["body"] = await self._gather()
                MutableHeaders(scope=start)["content-length"] = str(len(message["body"]))
                await send(start)
            await send(message)

        path = scope.get("path", "").removeprefix(scope.get("root_path", "")).rstrip("/")
        await self.app(scope, receive, send_all if path == "/metrics" else send)


class Families:
    """Metrics of several replicas, each sample with the label `replica`; a collector of prometheus_client."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """`texts` are the replicas' metrics in Prometheus' text format, by the ids of the replicas."""
        self._families: dict[str, Metric] = {}
        for replica, text in texts.items():
            for family in text_string_to_metric_families(text):
                self._add(replica, family)

    def _add(self, replica: str, family: Metric) -> None:
        empty = Metric(family.name, family.documentation, family.type)
        whole = self._families.setdefault(family.name, empty)
        for sample in family.samples:
            whole.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


class Replica:
    """One engine and its app, in a process of Ray Serve.

    Ray calls `__serve_build_asgi_app__`, `check_health` and `record_autoscaling_stats`; the command calls the others.
    """

    def __init__(self, settings: Settings, vllm_arguments: Sequence[str], folder: str) -> None:
        """`folder` is that of the command, for paths that are relative; another machine may not have it."""
        self._settings, self._vllm_arguments = settings, vllm_arguments
        if Path(folder).is_dir():
            os.chdir(folder)
        # Ray makes uvicorn's server, and leaves the connections to uvicorn's choice.
        uvicorn.config.HTTP_PROTOCOLS["auto"] = "cluster:ReplicaConnection"

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings, self._template = prepare(self._settings, self._vllm_arguments)
        self._engine = self.make_engine(settings)
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = console.log_writer(settings)
        app = build_app(self._engine, self._template, settings, log, self._started, self._died)
        self._metrics, self._models = app.state.metrics, app.state.models
        app.add_middleware(AllMetrics, gather=self._gather_metrics)
        app.add_middleware(InsideRay, engine=self._engine)
        return app

    def make_engine(self, settings: Settings) -> Engine:
        """The engine, which the app starts."""
        return load_engine(settings, self._vllm_arguments)

    def _started(self, loading: asyncio.Task[None]) -> None:
        if loading.cancelled():
            self._loaded.cancel()
        elif failure := loading.exception():
            self._loaded.set_exception(failure)
        else:
            gc.freeze()  # what is loaded stays, as in the server
            self._loaded.set_result(None)

    def _died(self) -> None:
        """End the process, soon: Ray starts another replica, wherever there is room."""
        ReplicaConnection.end_all()  # else HAProxy would try one after the other
        asyncio.get_running_loop().call_later(DEATH_NOTICE_SECONDS, os._exit, 1)

    async def check_health(self) -> None:
        """Wait until the model is loaded; raises StartError if it cannot be, or APIError once the engine has died.

        Ray sends no requests before this has returned.
        """
        await self._loaded
        if self._engine.is_dead:
            self._engine.check_ready()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `wanted_replicas` asks for."""
        return {"unfinished": self._engine.unfinished}

    async def metrics(self) -> tuple[str, str]:
        """This replica's id, and its numbers in Prometheus' text format."""
        from ray import serve  # noqa: PLC0415

        return serve.get_replica_context().replica_id.unique_id, self._metrics.to_text().decode()

    async def _gather_metrics(self) -> bytes:
        """The numbers of all replicas, or of this one where another does not answer."""
        from ray import serve  # noqa: PLC0415

        name = serve.get_replica_context().app_name
        asked = serve.get_deployment_handle(REPLICA, name).broadcast("metrics")
        try:
            found = await asked.results_async(timeout_s=METRICS_SECONDS, return_exceptions=True)
        except TimeoutError:
            found = [await self.metrics()]
        return generate_latest(Families(dict(pair for pair in found if isinstance(pair, tuple))))

    def describe(self) -> console.Loaded:
        """What the banner tells of the model."""
        return describe(self._engine, self._template, self._models)

    async def drain(self) -> None:
        """Take no more requests and wait until the running ones have ended; after `--drain-timeout` they get a 503."""
        self._engine.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.drain_timeout
        while self._engine.unfinished and loop.time() < deadline:  # noqa: ASYNC110 - vLLM tells nobody
            await asyncio.sleep(0.1)
        self._engine.abort()
        await asyncio.sleep(DEATH_NOTICE_SECONDS)


def wanted_replicas(context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
    """How many replicas the unfinished requests of all engines need; a policy of Ray Serve's autoscaling.

    Ray keeps the number within its bounds, and waits before it follows. Its own policy counts HTTP requests, of which
    one may have 128 choices.
    """
    unfinished = sum((context.aggregated_metrics or {}).get("unfinished", {}).values())
    assert context.config is not None
    return math.ceil(unfinished / context.config.target_ongoing_requests) or 1, {}


def needs(vllm_arguments: Sequence[str]) -> dict[str, int]:
    """What a replica with these arguments takes of a machine."""
    if is_cpu_build():
        return {"num_cpus": 1, "num_gpus": 0}
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for names in GPU_FLAGS:
        parser.add_argument(*names, type=int, default=1)
    given, _ = parser.parse_known_args(vllm_arguments)
    return {"num_cpus": 1, "num_gpus": math.prod(vars(given).values())}


def to_application(
    settings: ClusterSettings,
    vllm_arguments: Sequence[str],
    kind: type[Replica] = Replica,
    *,
    has_room: bool = True,
) -> "Application":
    """The application for Ray Serve: `kind`, with what it needs of a machine and how many there are of it.

    With `has_room` for one more of them, an upgrade starts a replica before it stops one.
    """
    from ray import serve  # noqa: PLC0415 - it reads the environment when it is imported

    least, most = settings.replicas
    counted: dict[str, Any] = {"num_replicas": least}
    if least < most:
        counted = {
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": settings.requests_per_replica,
                "policy": {"policy_function": wanted_replicas},
            }
        }
    deployment = serve.deployment(
        name=REPLICA,
        max_ongoing_requests=(settings.max_num_queued_reqs or 10**6) + MORE_THAN_ADMITTED,
        ray_actor_options=needs(vllm_arguments),
        health_check_period_s=2,
        graceful_shutdown_timeout_s=longest_request(settings) + 30,
        max_surge_percent=25 if has_room else 0,
        max_constructor_retry_count=1,
        logging_config=RAY_LOG,
        **counted,
    )
    return deployment(serve.ingress()(kind)).bind(settings, vllm_arguments, str(Path.cwd()))


def build(flags: Mapping[str, Any]) -> "Application":
    """An application builder for `serve run cluster:build` and Ray's config files; raises StartError.

    `flags` are those of the command, as in its YAML file. The variables of `environment` have to be set on each machine
    before Ray starts there, and host and port are in Ray's own config.
    """
    for name in OF_RAYS_CONFIG:
        if name in flags or name.replace("-", "_") in flags:
            raise StartError(f"cluster:build: {name} has no effect here, but in Ray's own config.")
    settings, vllm_arguments = read_arguments(to_arguments(flags, "cluster:build", ClusterSettings))
    return to_application(with_keys(settings), vllm_arguments)


def read_arguments(arguments: Sequence[str]) -> tuple[ClusterSettings, list[str]]:
    """The checked flags, and the arguments for vLLM; raises StartError."""
    settings, vllm_arguments = parse_flags(arguments, ClusterSettings)
    check_cluster(settings)
    return settings, vllm_arguments


def start_ray(settings: ClusterSettings) -> None:
    """Start Ray here, for this machine alone unless others may reach `--host`, or join the cluster of `--address`.

    Processes on all machines get the variables of `environment`, and import this file from the path that it has here.
    """
    variables = environment(settings)
    for name, value in {**variables, "RAY_AUTH_MODE": "token"}.items():
        os.environ.setdefault(name, value)
    import ray  # noqa: PLC0415 - it reads the environment when it is imported

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    given = {name: os.environ[name] for name in variables}
    options: dict[str, Any] = {"runtime_env": {"env_vars": {**given, "PYTHONPATH": path}}}
    with raising_start_error("Ray cannot be started"):
        if settings.address is None and settings.host not in EVERY_ADDRESS:
            options["_node_ip_address"] = socket.gethostbyname(settings.host)
        ray.init(address=settings.address or "local", logging_level=logging.ERROR, **options)


def has_room(needed: Mapping[str, int], replicas: int) -> bool:
    """Whether the cluster has room for one more than so many replicas, those counted that run; asked of an upgrade."""
    from ray import serve  # noqa: PLC0415
    from ray.util import placement_group, remove_placement_group  # noqa: PLC0415

    if NAME not in (applications := serve.status().applications):
        return True
    deployments = applications[NAME].deployments.values()
    running = sum(
        count
        for found in deployments
        for state, count in found.replica_states.items()
        if state == "RUNNING"
    )
    bundle = {name: float(needed[option]) for option, name in RESOURCES.items() if needed[option]}
    reserved = placement_group([bundle] * (max(replicas - running, 0) + 1))
    found: bool = reserved.wait(ROOM_SECONDS)
    remove_placement_group(reserved)
    return found


def deploy(
    settings: ClusterSettings, vllm_arguments: Sequence[str], kind: type[Replica] = Replica
) -> "DeploymentHandle[Replica]":
    """Start the replicas and HAProxy, and wait until the first of them are ready; raises StartError."""
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    # It tells of options that a cluster which is joined has otherwise, and cannot change.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    http = {
        "host": settings.host,
        "port": settings.port,
        "root_path": settings.prefix,
        "keep_alive_timeout_s": settings.timeout_keep_alive,
    }
    if len(ray.nodes()) > 1 and settings.host not in EVERY_ADDRESS:  # type: ignore[no-untyped-call]
        raise StartError("--host 0.0.0.0 is needed: the cluster has more machines than this one.")
    with raising_start_error("The replicas cannot be started"):
        serve.start(http_options=http, logging_config=RAY_LOG)
        room = has_room(needs(vllm_arguments), settings.replicas[0])
        application = to_application(settings, vllm_arguments, kind, has_room=room)
        try:
            return serve.run(application, name=NAME)
        except RuntimeError as failure:
            deployments = serve.status().applications[NAME].deployments.values()
            reasons = [
                reason for found in deployments for reason in START_ERROR.findall(found.message)
            ]
            if not reasons:
                raise
            raise StartError(reasons[-1]) from failure


def stop(settings: ClusterSettings, handle: "DeploymentHandle[Replica]") -> None:
    """Drain all replicas, then end them and Ray."""
    import ray  # noqa: PLC0415

    print_stderr("Stopping after the running requests; one more signal ends them.")
    patience = settings.drain_timeout + DEATH_NOTICE_SECONDS + STOP_SECONDS
    try:
        with suppress(TimeoutError):  # a replica that does not answer is ended all the same
            handle.broadcast("drain").results(timeout_s=patience, return_exceptions=True)
    finally:
        ray.shutdown()


def run(settings: ClusterSettings, vllm_arguments: Sequence[str], kind: type[Replica]) -> None:
    """Serve until a signal, or until the replicas are ready where a cluster was joined, which serves on.

    Raises StartError, and KeyboardInterrupt for a signal before the replicas are ready or a second one.
    """
    checked, _ = prepare(settings, vllm_arguments)
    starting = console.Progress("Starting Ray" if settings.address is None else "Joining Ray")
    start_ray(settings)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray has set handlers of its own
        signal.signal(number, signal.default_int_handler)
    starting.end()
    handle = deploy(settings, vllm_arguments, kind)
    print_stderr(console.banner(checked, handle.describe.remote().result()))
    if settings.address is not None:
        print_stderr(
            "The cluster serves on: the same command with other flags replaces the replicas."
        )
        return
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        stop(settings, handle)


def main(kind: type[Replica] = Replica) -> int:
    """Run the command and return its exit status: 0 after a signal, 1 for a StartError, 130 for a second signal."""
    return run_command(read_arguments, partial(run, kind=kind))


if __name__ == "__main__":
    # By this name, Ray's processes can import what it is told to run.
    from cluster import main as named_main

    sys.exit(named_main())
