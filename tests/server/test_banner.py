"""The addresses that the banner gives: for clients of this machine, and of others."""

import re
import socket
from dataclasses import replace
from typing import Any

import pytest

from server.console import banner
from server.sockets import bind_sockets
from settings import AdapterModule, Settings, StartError
from tests.support.loaded import LOADED


def shown(**settings: Any) -> str:
    return banner(Settings(**settings), LOADED)


def found(line: str, text: str) -> str | None:
    """The URL of a line of the banner."""
    match = re.search(rf"^  {line} +(\S+)", text, re.MULTILINE)
    return match and match[1]


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://localhost:8000/v1"),
        ({"port": 80, "host": "192.0.2.7"}, "http://192.0.2.7:80/v1"),
        ({"host": "0.0.0.0"}, "http://localhost:8000/v1"),
        ({"host": "::1"}, "http://[::1]:8000/v1"),
        ({"ssl_certfile": "c"}, "https://localhost:8000/v1"),
        ({"root_path": "llm/"}, "http://localhost:8000/llm/v1"),
    ],
)
def test_the_base_url_of_clients_is_shown(settings: dict[str, Any], url: str) -> None:
    text = shown(**settings)
    assert found("Ready at", text) == url
    assert f"(docs: {url.removesuffix('/v1')}/docs)" in text
    assert f"curl {url}/completions " in text


def test_adapters_are_shown_with_where_they_come_from_and_their_templates() -> None:
    modules = [AdapterModule("poet", "/adapters/poet"), AdapterModule("lawyer", "a/b")]
    loaded = replace(LOADED, adapter_templates={"poet": "alpaca-2", "lawyer": "alpaca"})
    lines = banner(Settings(lora_modules=modules), loaded).splitlines()
    assert "  adapter    poet  from /adapters/poet, template alpaca-2" in lines
    assert "  adapter    lawyer  from a/b, template alpaca" in lines
    assert f"  memory     {LOADED.memory}" in lines


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "192.0.2.7", "::1", "example.org"])
def test_a_server_at_one_address_has_no_other(host: str) -> None:
    assert "network" not in shown(host=host)


def test_a_unix_socket_is_on_no_network() -> None:
    assert "network" not in shown(host="0.0.0.0", uds="/tmp/a.sock")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_server_at_every_address_is_found_at_the_one_that_is_shown(host: str) -> None:
    """By a connection to it, from this machine."""
    try:
        bound = bind_sockets(Settings(host=host, port=0))
    except StartError:
        pytest.skip("this machine has no such address")
    port = bound[0].getsockname()[1]
    url = found("network", shown(host=host, port=port))
    assert url is not None
    at = re.fullmatch(r"http://\[?(.+?)\]?:(\d+)/v1", url)
    assert at is not None
    assert int(at[2]) == port
    try:
        if not re.fullmatch(r"[\d.]+|[\da-f:]+", at[1]):
            pytest.skip("this machine has no network of that kind")
        socket.create_connection((at[1], port), 5).close()
    finally:
        for each in bound:
            each.close()


def test_the_address_for_others_has_scheme_and_prefix_too() -> None:
    plain = found("network", shown(host="0.0.0.0"))
    assert plain is not None
    safe = found("network", shown(host="0.0.0.0", ssl_certfile="c", root_path="/llm"))
    assert safe == plain.replace("http", "https").replace("/v1", "/llm/v1")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("lab-7", "http://lab-7:8000/v1"),
        ("localhost", None),
        ("localhost.localdomain", None),
        ("", None),
    ],
)
def test_a_machine_without_a_network_is_known_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str | None
) -> None:
    class Unconnected(socket.socket):
        def connect(self, _: Any) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", Unconnected)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert found("network", shown(host="0.0.0.0")) == url
