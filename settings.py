"""Our flags as one frozen dataclass; every other flag is left for vLLM's engine.

Knows nothing about vLLM and imports quickly, so that a start that cannot work ends before vLLM is even imported.
"""

import argparse
import json
import re
import ssl
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

DEMO_MODEL = Path(__file__).resolve().parent / "demo_model"
DEMO_MODEL_NAME = "chinese-llama-alpaca-2"
LOG_LEVELS = ("debug", "info", "warning", "error")
SECONDS = {
    "request_timeout": " (off)",
    "drain_timeout": "",
    "timeout_keep_alive": " (off)",
    "sse_keep_alive": " (off)",
}
"""Flags that take seconds, and what 0 means where it is no number of them."""
MAX_SECONDS = 10_000_000

AN_OBJECT = TypeAdapter(dict[str, Any]).validate_json
STRINGS = TypeAdapter(tuple[str, ...]).validate_json
"""For argparse: JSON that is an object, or a list of strings, and nothing else."""


class StartError(Exception):
    """A start that cannot work, in one sentence for the person who typed the command."""


MAX_REASON_CHARACTERS = 600
KEY_SEPARATOR = re.compile(r"[,\r\n]")


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Makes a StartError of whatever fails inside: `what`, and the reason."""
    try:
        yield
    except StartError:
        raise
    except Exception as failure:
        raise StartError(f"{what}: {reason(failure)}.") from failure


def reason(failure: BaseException) -> str:
    """What an exception says, on one line, and for one that is not meant for people, where it was raised."""
    # pydantic's message begins with a count; what is wrong stands in its errors.
    said = failure.errors()[0]["msg"] if isinstance(failure, ValidationError) else str(failure)
    text = " ".join(said.removeprefix("Value error, ").split()).rstrip(".")
    if len(text) > MAX_REASON_CHARACTERS:
        text = f"{text[:MAX_REASON_CHARACTERS]}…"
    if text and isinstance(failure, ValueError | RuntimeError | OSError):
        return text
    frames = traceback.extract_tb(failure.__traceback__)
    where = (
        f" at {frames[-1].line} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
        if frames
        else ""
    )
    return (
        f"{type(failure).__name__}: {text}{where}" if text else f"{type(failure).__name__}{where}"
    )


def show(line: str) -> None:
    """Write a line on the terminal."""
    print(line, file=sys.stderr, flush=True)


def flag(default: Any, meaning: str, *, is_secret: bool = False, **argument: Any) -> Any:
    """A field that is a flag; `argument` goes to argparse as it is."""
    return field(
        default_factory=lambda: default, repr=not is_secret, metadata={"help": meaning, **argument}
    )


@dataclass(frozen=True)
class Settings:
    """What `python openai_api_server_vllm.py` was asked for."""

    model: str = flag(
        str(DEMO_MODEL),
        "directory or hub name of a merged model (default: the embedded demo model)",
    )
    tokenizer: str = flag("", "directory or hub name of the tokenizer (default: the model's)")
    tokenizer_mode: str = flag(
        "auto", "slow: SentencePiece on tokenizer.model; auto: so for LLaMA; or one of vLLM's"
    )
    revision: str | None = flag(None, "revision of a hub model")
    trust_remote_code: bool = flag(
        False, "run the code that comes with the model", action="store_true"
    )
    served_model_name: Sequence[str] = flag(
        (), "one or more names for the model; the first is in replies", nargs="+"
    )
    host: str = flag("localhost", "address to listen on")
    port: int = flag(8000, "port to listen on", type=int)
    uds: str | None = flag(None, "path of a unix socket to listen on, instead of host and port")
    prompt_template: str = flag(
        "auto", "alpaca-2, alpaca, model (the tokenizer's), one of fastchat's, a .jinja file"
    )
    system_prompt: str | None = flag(
        None, "default system text, or @FILE (default: the template's)"
    )
    raw_completions: bool = flag(
        False, "use the prompts of /v1/completions as they are", action="store_true"
    )
    override_generation_config: dict[str, Any] = flag(
        {}, "JSON: other defaults for sampling fields", type=AN_OBJECT
    )
    api_key: Sequence[str] = flag(
        [],
        "keys, one of which requests must carry; also VLLM_API_KEY",
        is_secret=True,
        action="extend",
        nargs="+",
    )
    allowed_origins: tuple[str, ...] = flag(("*",), "CORS: JSON list", type=STRINGS)
    allowed_methods: tuple[str, ...] = flag(("*",), "CORS: JSON list", type=STRINGS)
    allowed_headers: tuple[str, ...] = flag(("*",), "CORS: JSON list", type=STRINGS)
    allow_credentials: bool = flag(False, "CORS: allow credentials", action="store_true")
    max_num_queued_reqs: int = flag(
        512, "requests admitted and unfinished; more are refused; 0: no limit", type=int
    )
    max_body_bytes: int = flag(8 * 2**20, "larger request bodies are refused", type=int)
    request_timeout: float = flag(600, "seconds that one request may take; 0: no limit", type=float)
    drain_timeout: float = flag(
        30, "seconds that running requests get after SIGTERM; 0: none", type=float
    )
    timeout_keep_alive: int = flag(
        75, "seconds until an idle connection is closed; 0: after each reply", type=int
    )
    sse_keep_alive: float = flag(
        15, "seconds until a silent stream gets a comment, and again; 0: never", type=float
    )
    ssl_keyfile: str | None = flag(None, "as in uvicorn")
    ssl_certfile: str | None = flag(None, "as in uvicorn")
    root_path: str = flag("", "prefix of all paths before a proxy, which may take it away or not")
    log_format: str = flag(
        "text", "of the line that each request has in the log", choices=("text", "json")
    )
    log_requests: bool = flag(
        False, "prompts and replies in the log, cut short", action="store_true"
    )
    log_level: str = flag("warning", "debug and info bring vLLM's own log back", choices=LOG_LEVELS)

    @property
    def is_demo(self) -> bool:
        return Path(self.model).resolve() == DEMO_MODEL

    @property
    def tokenizer_path(self) -> str:
        return self.tokenizer or self.model

    @cached_property
    def model_names(self) -> tuple[str, ...]:
        """The names that requests may use; the first stands for a request that names none."""
        return tuple(self.served_model_name) or (
            (DEMO_MODEL_NAME,) if self.is_demo else (self.model,)
        )

    @property
    def vllm_log_level(self) -> str:
        """vLLM is quiet, but for errors, unless the user wants to see more."""
        return self.log_level.upper() if self.log_level in ("debug", "info") else "ERROR"

    @property
    def shows_log(self) -> bool:
        """vLLM's own log is wanted, and tracebacks with it."""
        return self.vllm_log_level != "ERROR"

    @property
    def is_open(self) -> bool:
        """Whoever reaches it can use it, from other machines too."""
        if self.uds is not None:
            return False
        return (
            not self.api_key
            and self.host not in ("localhost", "::1")
            and not self.host.startswith("127.")
        )

    @property
    def url(self) -> str:
        scheme = "https" if self.ssl_certfile else "http"
        if self.uds is not None:
            return f"{scheme}://localhost"
        host = "localhost" if self.host in ("0.0.0.0", "::", "") else self.host
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{host}:{self.port}"


def parse_settings(arguments: Sequence[str]) -> tuple[Settings, list[str]]:
    """Our settings, and the arguments that are left for vLLM; argparse ends the process on a wrong one."""
    parser = argparse.ArgumentParser(
        description="An OpenAI-compatible server for Chinese-LLaMA-Alpaca-2 on vLLM.",
        epilog="Every other flag goes to vLLM's AsyncEngineArgs, for instance --tensor-parallel-size 2.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file of flags; the command line wins"
    )
    defaults = Settings()
    for setting in fields(Settings):
        name = _with_dashes(f"--{setting.name}")
        parser.add_argument(name, default=getattr(defaults, setting.name), **setting.metadata)
    spelt = [_with_dashes(argument) for argument in arguments]
    if config_file := parser.parse_known_args(spelt)[0].config:
        spelt = [*_config_arguments(Path(config_file)), *spelt]
    values, others = parser.parse_known_args(spelt)
    del values.config
    return Settings(**vars(values)), others


def check_settings(settings: Settings) -> None:
    """Raise StartError for what can be known to fail before anything is loaded."""
    _check_numbers(settings)
    _check_paths(settings)
    if settings.ssl_keyfile and not settings.ssl_certfile:
        raise StartError("--ssl-keyfile needs --ssl-certfile.")
    if settings.ssl_certfile:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                settings.ssl_certfile, settings.ssl_keyfile
            )
        except OSError as failure:  # ssl.SSLError is one
            raise StartError(
                f"--ssl-certfile and --ssl-keyfile cannot be used: {failure}."
            ) from failure


def _check_paths(settings: Settings) -> None:
    if settings.uds == "":
        raise StartError("--uds needs the path of a socket.")
    if not re.fullmatch(r"[\w.~/-]*", settings.root_path, re.ASCII):
        raise StartError("--root-path may have letters, digits and the characters ._~/- only.")


def _check_numbers(settings: Settings) -> None:
    if not 0 <= settings.port <= 65535:
        raise StartError(f"--port {settings.port} is not a port: it must be from 0 to 65535.")
    for name, zero in SECONDS.items():
        seconds = getattr(settings, name)
        if not 0 <= seconds <= MAX_SECONDS:  # nor for nan
            flag_and_value = f"{_with_dashes(f'--{name}')} {seconds}".removesuffix(".0")
            raise StartError(
                f"{flag_and_value} must be 0{zero} or more seconds, at most {MAX_SECONDS}."
            )
    if settings.max_num_queued_reqs < 0:
        raise StartError(
            f"--max-num-queued-reqs {settings.max_num_queued_reqs} must be 0 (no limit) or more."
        )
    if settings.max_body_bytes < 1:
        raise StartError(f"--max-body-bytes {settings.max_body_bytes} must be 1 or more.")


def read_keys(given: Sequence[str], variable: str | None) -> list[str]:
    """The keys of `--api-key` and those of VLLM_API_KEY, if it is set; raises StartError for one that is none.

    What stands around a key in a file, such as the line break at its end, is no part of it: no client could send that.
    """
    keys = [_trimmed(key) for key in given]
    if not all(keys):
        raise StartError("--api-key is empty: leave it out to serve without a key.")
    if variable is not None:
        found = [key for part in KEY_SEPARATOR.split(variable) if (key := _trimmed(part))]
        if not found:
            raise StartError(
                "VLLM_API_KEY is set, but holds no key: unset it to serve without one."
            )
        keys += found
    if not all(key.isprintable() for key in keys):
        raise StartError("A key has a line break or another character that no client can send.")
    return keys


def _trimmed(key: str) -> str:
    return key.strip().removeprefix("\ufeff").strip()


def _with_dashes(argument: str) -> str:
    """`--served_model_name` as `--served-model-name`; like vLLM's own parser, not behind a dot or equals sign."""
    return re.sub(r"(?<=^--)[^.=]*", lambda name: name[0].replace("_", "-"), argument)


def _config_arguments(file: Path) -> list[str]:
    """The flags of a YAML file as arguments: true is the bare flag, false its `--no-` form, null leaves it out."""
    try:
        flags = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as failure:
        raise StartError(f"--config {file} cannot be read as YAML.") from failure
    if not isinstance(flags, dict):
        raise StartError(f"--config {file} must map flags to values.")
    ours = {_with_dashes(f"--{setting.name}"): setting.metadata for setting in fields(Settings)}
    arguments: list[str] = []
    for key, value in flags.items():
        name = _with_dashes(f"--{key}")
        if isinstance(value, bool):
            arguments += (
                [name] if value else [] if name in ours else [name.replace("--", "--no-", 1)]
            )
        elif isinstance(value, list) and "type" not in ours.get(name, {}):
            arguments += [name, *map(str, value)] if value else []
        elif value is not None:
            arguments.append(
                f"{name}={json.dumps(value) if isinstance(value, dict | list) else value}"
            )
    return arguments
