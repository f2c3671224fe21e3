"""The command: reads flags and the environment, starts vLLM's engine and serves the HTTP app until a signal.

Requests enter in `api/app.py`; `docs/architecture.md` follows one from there.
"""

import asyncio
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from adapter_files import check_servable, find_adapter, read_adapter
from api.app import build_app
from api.decoding import to_defaults
from api.models import Models
from engine import fork_server, process
from generation import Engine
from model_files import check_model_files, read_config
from prompt_template import PromptTemplate
from quantization import check_quantization, is_cpu_build
from server import console
from server.sockets import to_port, to_sockets
from server.uvicorn_server import DrainingServer, end_on_signals, uvicorn_config
from settings import (
    Kind,
    Settings,
    StartError,
    check_settings,
    parse_settings,
    print_stderr,
    raising_start_error,
    read_keys,
)
from template_choice import load_prompt_template


def check_start(settings: Settings, vllm_arguments: Sequence[str]) -> Settings:
    """Check flags and model files, which takes no vLLM; raises StartError.

    Returns the settings with `override_generation_config` checked, its aliases replaced by the names of the fields, and
    with the folders of adapters.
    """
    check_settings(settings)
    has_weights = not any(argument.startswith("--load-format") for argument in vllm_arguments)
    check_model_files(settings, has_weights=has_weights)
    config = read_config(settings)
    check_quantization(settings, config, vllm_arguments)
    modules = [
        replace(module, path=str(find_adapter(module.path))) for module in settings.lora_modules
    ]
    for module in modules:
        check_servable(read_adapter(Path(module.path)), config)
    try:
        defaults = to_defaults(settings.override_generation_config)
    except ValueError as failure:
        raise StartError(f"--override-generation-config: {failure}.") from failure
    return replace(settings, override_generation_config=defaults, lora_modules=modules)


def prepare(settings: Settings, vllm_arguments: Sequence[str]) -> tuple[Settings, PromptTemplate]:
    """Prepare this process to import vLLM and to spawn its engine; check flags and files before; raises StartError.

    Returns the checked settings and the prompt template. No socket is opened.
    """
    process.prepare_process(settings)
    with raising_start_error("The server cannot start"):
        settings = check_start(settings, vllm_arguments)
        return settings, load_prompt_template(settings)


def load_engine(settings: Settings, vllm_arguments: Sequence[str]) -> Engine:
    """Import vLLM and make its engine, which the app starts later; raises StartError."""
    if is_cpu_build():
        fork_server.set_variables(settings, vllm_arguments)
    importing = console.Progress("Importing vLLM")
    with raising_start_error("vLLM cannot be imported"):
        # Not at the top: it takes seconds, and a wrong flag should be reported at once.
        from engine.arguments import to_engine_args  # noqa: PLC0415
        from engine.vllm_engine import VLLMEngine  # noqa: PLC0415

    importing.end()
    with raising_start_error("vLLM cannot be told what to serve"):
        if is_cpu_build():
            fork_server.start()
        return VLLMEngine(to_engine_args(settings, vllm_arguments), settings.lora_modules)


def describe(engine: Engine, template: PromptTemplate, models: Models) -> console.Loaded:
    """What the banner tells of models that have been loaded."""
    layout, encoder = template.layout.name, template.encoder.description
    adapters = models.adapter_templates()
    return console.Loaded(layout, encoder, engine.max_model_len, engine.memory, adapters)


def serve(settings: Settings, vllm_arguments: Sequence[str]) -> None:
    """Start vLLM, with its own `vllm_arguments`, and serve until a signal; raises StartError if either fails."""
    settings, template = prepare(settings, vllm_arguments)
    with raising_start_error("The server cannot start"):
        sockets = to_sockets(settings)
    settings = replace(settings, port=to_port(sockets[0]))
    end_on_signals(sockets)
    engine = load_engine(settings, vllm_arguments)
    loading = console.Progress(f"Loading {settings.model}")
    failures: list[BaseException] = []

    def started(task: asyncio.Task[None]) -> None:
        """Show the banner once the engine has started, or end the server if it could not."""
        loading.end()
        if not task.cancelled() and (failure := task.exception()):
            failures.append(failure)
            server.should_exit = True
        elif not task.cancelled():
            gc.freeze()  # what is loaded stays: the garbage collector need not look through it
            print_stderr(console.banner(settings, describe(engine, template, app.state.models)))

    def died() -> None:
        failures.append(StartError("The engine has died."))
        server.should_exit = True

    app = build_app(engine, template, settings, console.log_writer(settings), started, died)
    server = DrainingServer(uvicorn_config(app, settings), engine, settings.drain_timeout)
    server.run(sockets)
    gc.unfreeze()  # else a library warns at exit of each of its objects that was not freed
    if failures:
        raise failures[0]


def with_keys(settings: Kind) -> Kind:
    """The settings with the keys of the environment added; raises StartError for keys that no client can send."""
    return replace(settings, api_key=read_keys(settings.api_key, os.environ.get("VLLM_API_KEY")))


def run_command(
    read: Callable[[Sequence[str]], tuple[Kind, list[str]]],
    run: Callable[[Kind, Sequence[str]], None],
) -> int:
    """Run a command and return its exit status: 0, 1 for a StartError, or 130 for Ctrl-C.

    `read` parses its arguments, and `run` serves with the settings and the arguments for vLLM.
    """
    settings = None
    try:
        settings, vllm_arguments = read(sys.argv[1:])
        run(with_keys(settings), vllm_arguments)
    except StartError as failure:
        if settings is not None and settings.shows_log:
            traceback.print_exception(failure)
        print_stderr(f"error: {failure}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def main() -> int:
    """Run this command and return its exit status."""
    return run_command(parse_settings, serve)


if __name__ == "__main__":
    sys.exit(main())
