"""The numbers of `/metrics`: this server's own, and those that vLLM and Python keep in prometheus_client's registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import REGISTRY

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
"""Upper bounds of the histograms' buckets, in seconds."""
LABELS = ("method", "path", "status")


class Metrics:
    """What one app counts, in a registry of its own: several apps in one process count apart from each other."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("http_requests", "Requests that are over", LABELS, registry=own)
        self.in_flight = Gauge(
            "http_requests_in_flight", "Requests that are not over", registry=own
        )
        self.duration = Histogram(
            "http_request_duration_seconds",
            "From a request's head to the end of its reply",
            ["path"],
            registry=own,
            buckets=BUCKETS,
        )
        self.first_token = Histogram(
            "time_to_first_token_seconds",
            "From a request's head to its first text",
            registry=own,
            buckets=BUCKETS,
        )
        self.engine_requests = Gauge(
            "engine_requests_unfinished",
            "Requests in the engine, running or waiting, by choice or beam",
            registry=own,
        )
        self.tasks = Gauge("asyncio_tasks", "Tasks of the event loop", registry=own)
        self.prompt_tokens = Counter(
            "prompt_tokens", "Tokens of answered prompts", ["model"], registry=own
        )
        self.generated_tokens = Counter(
            "generated_tokens",
            "Tokens generated, also of replies that nobody waited for",
            ["model"],
            registry=own,
        )

    def to_text(self) -> bytes:
        """All numbers in Prometheus' text format, those of the whole process first."""
        return generate_latest(REGISTRY) + generate_latest(self._registry)
