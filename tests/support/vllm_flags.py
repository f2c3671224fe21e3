"""The flags that are vLLM's."""

import ast
import importlib.util
from pathlib import Path


def vllm_flags() -> set[str]:
    """The flags of vLLM's engine, read in its source: to import it takes seconds."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.submodule_search_locations is not None
    [package] = found.submodule_search_locations
    tree = ast.parse((Path(package) / "engine" / "arg_utils.py").read_text(encoding="utf-8"))
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("EngineArgs")
    ]
    assigned = [
        node.target.id
        for each in classes
        for node in each.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    flags = {name.replace("_", "-") for name in assigned}
    return {f"--{prefix}{flag}" for flag in flags for prefix in ("", "no-")}
