"""The command without the lighter parts of vLLM's client, as it runs where they do not fit."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import openai_api_server_vllm as command
from generation import Engine
from settings import Settings

if __name__ == "__main__":
    load_engine = command.load_engine

    def load_plain_engine(settings: Settings, vllm_arguments: Sequence[str]) -> Engine:
        engine = load_engine(settings, vllm_arguments)
        from engine.vllm_engine import VLLMEngine

        assert isinstance(engine, VLLMEngine)
        engine.light_parts = ()
        return engine

    command.load_engine = load_plain_engine
    sys.exit(command.main())
