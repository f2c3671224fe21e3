"""Calls a function of a client's module with the server's URL and a body: `run.py MODULE FUNCTION URL BODY`.

Prints what the client read, as JSON. It runs in the client's own environment and knows nothing of the server or pytest.
"""

import asyncio
import dataclasses
import importlib
import inspect
import json
import sys
from typing import Any


def to_json(value: Any) -> Any:
    """Of objects that clients return: pydantic's of either generation, and dataclasses."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    raise TypeError(f"a client returned {type(value)}")


if __name__ == "__main__":
    module, function, url, body = sys.argv[1:]
    read = getattr(importlib.import_module(module), function)(url, **json.loads(body))
    if inspect.isawaitable(read):
        read = asyncio.run(read)
    json.dump(read, sys.stdout, ensure_ascii=False, default=to_json)
