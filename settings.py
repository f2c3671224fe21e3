"""The server's own flags, from the command line and a YAML file; all other flags are left for vLLM.

Imports neither vLLM nor the web framework: a wrong flag is reported in a fraction of a second.
"""

import json
import re
import ssl
import sys
import traceback
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

DEMO_MODEL = Path(__file__).resolve().parent / "demo_model"
DEMO_MODEL_NAME = "chinese-llama-alpaca-2"
LOG_LEVELS = ("debug", "info", "warning", "error")
SECONDS_FLAGS = {
    "request_timeout": " (off)",
    "drain_timeout": "",
    "timeout_keep_alive": " (off)",
    "sse_keep_alive": " (off)",
}
"""The flags whose value is in seconds, each with the meaning of 0 where that is not "no seconds"."""
MAX_SECONDS = 10_000_000
EVERY_ADDRESS = ("0.0.0.0", "::", "")
"""Values of `--host` for all addresses of the machine."""
MAX_DESCRIPTION_CHARACTERS = 600
KEY_SEPARATOR = re.compile(r"[,\r\n]")


class StartError(Exception):
    """The server cannot start; the message is one sentence for the person who typed the command."""


@contextmanager
def raising_start_error(what_failed: str) -> Iterator[None]:
    """Turn every exception of the block into a StartError: `what_failed`, a colon and its description."""
    try:
        yield
    except StartError:
        raise
    except Exception as failure:
        raise StartError(f"{what_failed}: {describe_exception(failure)}.") from failure


def describe_exception(failure: BaseException) -> str:
    """Describe an exception on one line.

    That is its message. Types whose messages are not written for users (a KeyError's is the key) are described by the
    type, the message and the line of code that raised it.
    """
    # The text of pydantic's exception begins with the number of its errors.
    message = failure.errors()[0]["msg"] if isinstance(failure, ValidationError) else str(failure)
    text = " ".join(message.removeprefix("Value error, ").split()).rstrip(".")
    if len(text) > MAX_DESCRIPTION_CHARACTERS:
        text = f"{text[:MAX_DESCRIPTION_CHARACTERS]}…"
    if text and isinstance(failure, ValueError | RuntimeError | OSError):
        return text
    name = type(failure).__name__
    description = f"{name}: {text}" if text else name
    if not (frames := traceback.extract_tb(failure.__traceback__)):
        return description
    last = frames[-1]
    return f"{description} at {last.line} ({Path(last.filename).name}, line {last.lineno})"


def print_stderr(line: str) -> None:
    """Print a line on standard error, without buffering."""
    print(line, file=sys.stderr, flush=True)


def json_object(text: str) -> dict[str, Any]:
    """Parse a flag's value as a JSON object; argparse puts this function's name into its error."""
    return TypeAdapter(dict[str, Any]).validate_json(text)


def json_list(text: str) -> tuple[str, ...]:
    """Parse a flag's value as a JSON list of strings; argparse puts this function's name into its error."""
    return TypeAdapter(tuple[str, ...]).validate_json(text)


@dataclass(frozen=True)
class AdapterModule:
    """An adapter (LoRA) that is served beside the model, under a name of its own."""

    name: str
    path: str
    """Its folder, or its name on Hugging Face."""
    prompt_template: str = "auto"
    """As `--prompt-template`; auto: by its own name, else that of the model."""


def adapter_module(text: str) -> AdapterModule:
    """Parse a value of `--lora-modules`, `NAME=PATH` or a JSON object, as in vLLM; raises ValueError, or TypeError.

    vLLM's `base_model_name` and `is_3d_lora_weight` (for experts) have no effect. argparse puts this function's name
    into its error.
    """
    if not text.lstrip().startswith("{"):
        name, _, path = text.partition("=")
        module = AdapterModule(name, path)
    else:
        values = json_object(text)
        for unused in ("base_model_name", "is_3d_lora_weight"):
            values.pop(unused, None)
        module = AdapterModule(**TypeAdapter(dict[str, str]).validate_python(values))
    if not (module.name.isprintable() and module.name and module.path):
        raise ValueError
    return module


def flag(default: Any, help_text: str, *, is_secret: bool = False, **options: Any) -> Any:
    """Declare a dataclass field that is also a flag, with argparse's `options`; a boolean has a `--no-` form too."""
    if isinstance(default, bool):
        options["action"] = BooleanOptionalAction
    metadata = {"help": help_text, **options}
    return field(default_factory=lambda: default, repr=not is_secret, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The values of the server's own flags."""

    model: str = flag(
        str(DEMO_MODEL),
        "directory or Hugging Face name of a merged model (default: the demo model)",
    )
    tokenizer: str = flag("", "directory or Hugging Face name (default: the model's)")
    tokenizer_mode: str = flag(
        "auto",
        "slow: encode prompts by SentencePiece with tokenizer.model; auto: so for LLaMA models; or a mode of vLLM's",
    )
    revision: str | None = flag(None, "branch, tag or commit of a model on Hugging Face")
    trust_remote_code: bool = flag(False, "run Python code that comes with the model")
    served_model_name: Sequence[str] = flag(
        (),
        "names that requests may use for the model; the first is that of requests with none",
        nargs="+",
    )
    lora_modules: Sequence[AdapterModule] = flag(
        (),
        'adapters (LoRA), each a model of its own: NAME=PATH, or JSON {"name", "path", "prompt_template"}',
        type=adapter_module,
        nargs="+",
    )
    allow_lora_updates: bool = flag(
        False, "let clients with a key load and unload adapters; needs --api-key"
    )
    host: str = flag("localhost", "address to listen on")
    port: int = flag(8000, "port to listen on; 0: any free one", type=int)
    uds: str | None = flag(None, "path of a unix socket to listen on, instead of host and port")
    prompt_template: str = flag(
        "auto", "auto, alpaca-2, alpaca, model (the tokenizer's), one of fastchat's, a .jinja file"
    )
    system_prompt: str | None = flag(
        None, "default system message, or @FILE (default: the prompt template's)"
    )
    raw_completions: bool = flag(
        False, "send prompts of /v1/completions to the model without the prompt template"
    )
    override_generation_config: dict[str, Any] = flag(
        {}, "JSON object: values for sampling fields that a request leaves out", type=json_object
    )
    api_key: Sequence[str] = flag(
        [],
        "keys, one of which each request must carry; keys in VLLM_API_KEY are added",
        is_secret=True,
        action="extend",
        nargs="+",
    )
    allowed_origins: tuple[str, ...] = flag(("*",), "CORS: JSON list of origins", type=json_list)
    allowed_methods: tuple[str, ...] = flag(
        ("*",), "CORS: JSON list of HTTP methods", type=json_list
    )
    allowed_headers: tuple[str, ...] = flag(
        ("*",), "CORS: JSON list of request headers", type=json_list
    )
    allow_credentials: bool = flag(False, "CORS: allow credentials")
    max_num_queued_reqs: int = flag(
        512, "requests accepted and unfinished; further ones get a 503; 0: no limit", type=int
    )
    max_body_bytes: int = flag(8 * 2**20, "larger request bodies get a 413", type=int)
    request_timeout: float = flag(600, "seconds that one request may take; 0: no limit", type=float)
    drain_timeout: float = flag(
        30, "seconds that running requests get after SIGTERM; 0: none", type=float
    )
    timeout_keep_alive: int = flag(
        75, "seconds until an idle connection is closed; 0: after each reply", type=int
    )
    sse_keep_alive: float = flag(
        15, "seconds without an event after which a stream sends a comment; 0: never", type=float
    )
    ssl_keyfile: str | None = flag(None, "TLS private key file, as in uvicorn")
    ssl_certfile: str | None = flag(None, "TLS certificate file, as in uvicorn")
    root_path: str = flag("", "prefix of all paths behind a proxy; each works with and without it")
    page: bool = flag(True, "the chat page at /, for people")
    log_format: str = flag(
        "text", "format of each request's line in the log", choices=("text", "json")
    )
    log_requests: bool = flag(False, "log prompts and replies, cut short")
    log_level: str = flag(
        "warning", "debug, info: vLLM's log too; error: no lines of requests", choices=LOG_LEVELS
    )

    @property
    def is_demo(self) -> bool:
        """Whether the model is the demo model of this repository."""
        return Path(self.model).resolve() == DEMO_MODEL

    @property
    def tokenizer_path(self) -> str:
        """Directory or Hugging Face name of the tokenizer."""
        return self.tokenizer or self.model

    @cached_property
    def model_names(self) -> tuple[str, ...]:
        """The names that requests may use for the model; one without a name gets the first."""
        return tuple(self.served_model_name) or (
            (DEMO_MODEL_NAME,) if self.is_demo else (self.model,)
        )

    @property
    def vllm_log_level(self) -> str:
        """The level of vLLM's own log: errors alone, unless `--log-level` is debug or info."""
        return self.log_level.upper() if self.log_level in ("debug", "info") else "ERROR"

    @property
    def shows_log(self) -> bool:
        """Whether vLLM's own log is shown, and the tracebacks of a start that fails."""
        return self.vllm_log_level != "ERROR"

    @property
    def is_open(self) -> bool:
        """Whether clients on other machines are served without a key."""
        is_local = self.host in ("localhost", "::1") or self.host.startswith("127.")
        return self.uds is None and not self.api_key and not is_local

    @property
    def prefix(self) -> str:
        """`--root-path` as paths begin with it: with a slash before it and none after it, or empty."""
        return re.sub("/{2,}", "/", f"/{self.root_path}").rstrip("/")

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server; OpenAI's base URL is this and `/v1`."""
        scheme = "https" if self.ssl_certfile else "http"
        if self.uds is not None:
            return f"{scheme}://localhost"
        host = "localhost" if self.host in EVERY_ADDRESS else self.host
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{host}:{self.port}{self.prefix}"


Kind = TypeVar("Kind", bound=Settings)


def parse_settings(arguments: Sequence[str]) -> tuple[Settings, list[str]]:
    """Parse the flags of the server; see `parse_flags`."""
    return parse_flags(arguments, Settings)


def parse_flags(arguments: Sequence[str], kind: type[Kind]) -> tuple[Kind, list[str]]:
    """Parse the command line and the file that its `--config` names; `kind` is the dataclass that has the flags.

    Returns the settings, and the arguments that are left for vLLM, those of the file first. A flag of the command line
    replaces the file's value. Raises StartError for a file that has no flags; a wrong value ends the process with
    argparse's message and status 2.
    """
    # Without defaults, a namespace has what was given and nothing else.
    parser = ArgumentParser(
        description="An OpenAI-compatible server for Chinese-LLaMA-Alpaca-2 on vLLM.",
        epilog="Every other flag goes to vLLM's AsyncEngineArgs, for instance --tensor-parallel-size 2.",
        allow_abbrev=False,
        argument_default=SUPPRESS,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file of flags, also of vLLM's; the command line wins"
    )
    for setting in fields(kind):
        parser.add_argument(_with_dashes(f"--{setting.name}"), **setting.metadata)
    given, vllm_arguments = parser.parse_known_args(map(_with_dashes, arguments))
    values = vars(given)
    if "config" in values:
        in_config = to_arguments(_read_config(Path(given.config)), f"--config {given.config}", kind)
        in_file, vllm_arguments_in_file = parser.parse_known_args(in_config)
        values = {**vars(in_file), **values}
        vllm_arguments = [*vllm_arguments_in_file, *vllm_arguments]
        del values["config"]
    return kind(**values), vllm_arguments


def check_settings(settings: Settings) -> None:
    """Raise StartError for values that cannot work, as far as the flags alone tell."""
    _check_numbers(settings)
    _check_paths(settings)
    adapters = [module.name for module in settings.lora_modules]
    for name in adapters:
        if adapters.count(name) > 1 or name in settings.model_names:
            raise StartError(f"--lora-modules: two models cannot both be named {name}.")
    if settings.allow_lora_updates and not settings.api_key:
        raise StartError("--allow-lora-updates needs --api-key: a client names files to load.")
    if settings.ssl_keyfile and not settings.ssl_certfile:
        raise StartError("--ssl-keyfile needs --ssl-certfile.")
    if settings.ssl_certfile:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with raising_start_error("--ssl-certfile and --ssl-keyfile cannot be used"):
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)


def _check_paths(settings: Settings) -> None:
    """Raise StartError for a unix socket without a path, and for a prefix that no request's path could begin with."""
    if settings.uds == "":
        raise StartError("--uds needs the path of a socket.")
    if not re.fullmatch(r"[\w.~/-]*", settings.root_path, re.ASCII):
        raise StartError("--root-path may have letters, digits and the characters ._~/- only.")


def _check_numbers(settings: Settings) -> None:
    """Raise StartError for a number out of its range."""
    if not 0 <= settings.port <= 65535:
        raise StartError(f"--port {settings.port} is not a port: it must be from 0 to 65535.")
    for name, zero_meaning in SECONDS_FLAGS.items():
        seconds = getattr(settings, name)
        if not 0 <= seconds <= MAX_SECONDS:  # false for nan too
            flag_and_value = f"{_with_dashes(f'--{name}')} {seconds}".removesuffix(".0")
            raise StartError(
                f"{flag_and_value} must be 0{zero_meaning} or more seconds, at most {MAX_SECONDS}."
            )
    if settings.max_num_queued_reqs < 0:
        raise StartError(
            f"--max-num-queued-reqs {settings.max_num_queued_reqs} must be 0 (no limit) or more."
        )
    if settings.max_body_bytes < 1:
        raise StartError(f"--max-body-bytes {settings.max_body_bytes} must be 1 or more.")


def read_keys(from_flag: Sequence[str], from_environment: str | None) -> list[str]:
    """Return the keys of `--api-key` and those in the value of VLLM_API_KEY, None where that is not set.

    Whitespace and a byte order mark around a key are dropped: a key that was read from a file has them, and no client
    can send them. Raises StartError for an empty key, or one with characters that cannot be in a header.
    """
    keys = [_strip(key) for key in from_flag]
    if not all(keys):
        raise StartError("--api-key is empty: leave it out to serve without a key.")
    if from_environment is not None:
        found = [key for part in KEY_SEPARATOR.split(from_environment) if (key := _strip(part))]
        if not found:
            raise StartError(
                "VLLM_API_KEY is set, but holds no key: unset it to serve without one."
            )
        keys += found
    if not all(key.isprintable() for key in keys):
        raise StartError("A key has a line break or another character that no client can send.")
    return keys


def _strip(key: str) -> str:
    """Drop whitespace around a key, and a byte order mark before it."""
    return key.strip().removeprefix("\ufeff").strip()


def _with_dashes(argument: str) -> str:
    """Spell `--served_model_name` as `--served-model-name`.

    Like vLLM's own parser, this leaves what follows a dot or an equals sign alone.
    """
    return re.sub(r"(?<=^--)[^.=]*", lambda name: name[0].replace("_", "-"), argument)


def _read_config(file: Path) -> dict[str, Any]:
    """Read a YAML file of flags; raises StartError."""
    try:
        flags = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as failure:
        # Without the parser's message, which quotes the file: there may be keys in it.
        raise StartError(f"--config {file} cannot be read as YAML.") from failure
    if not isinstance(flags, dict):
        raise StartError(f"--config {file} must map flags to values.")
    return flags


def to_arguments(flags: Mapping[str, Any], source: str, kind: type[Settings]) -> list[str]:
    """Spell flags, by their names with dashes or underscores, as the arguments of a command line.

    Raises StartError, which names their `source`, for a flag without the value that it needs.
    """
    ours = {_with_dashes(f"--{setting.name}"): setting.metadata for setting in fields(kind)}
    arguments: list[str] = []
    for key, value in flags.items():
        name = _with_dashes(f"--{key}")
        options = ours.get(name, {"action": BooleanOptionalAction})
        if isinstance(value, bool) and options.get("action") is not BooleanOptionalAction:
            raise StartError(
                f"{source}: {key} needs a value (YAML reads on, off, yes and no as true or false)."
            )
        arguments += _spell(name, value, options)
    return arguments


def _spell(name: str, value: Any, options: Mapping[str, Any]) -> list[str]:
    """Spell a value of a YAML file as arguments: true as the flag, false as its `--no-` form, null as no argument."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [name if value else name.replace("--", "--no-", 1)]
    if isinstance(value, list) and options.get("action") == "extend":
        # One by one, since argparse would take a key that begins with a dash for a flag.
        return [f"{name}={item}" for item in value]
    if isinstance(value, list) and (options.get("nargs") == "+" or "type" not in options):
        items = [json.dumps(item) if isinstance(item, dict) else str(item) for item in value]
        return [name, *items] if items else []
    return [f"{name}={json.dumps(value) if isinstance(value, dict | list) else value}"]
