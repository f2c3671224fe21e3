"""Clients in other languages, against the real server; `make clients` installs them."""

import json
import shutil
import subprocess

import pytest
from conftest import ROOT

CLIENTS = ROOT / "tests" / "clients"
MODEL = "chinese-llama-alpaca-2"
STORY = {"model": MODEL, "messages": [{"role": "user", "content": "给我讲一些有关杭州的故事吧"}]}

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(not (CLIENTS / "node_modules").is_dir(), reason="`make clients` has not been run"),
]


def node(script: str, url: str, body: dict) -> dict:
    """What the client read."""
    command = ["node", script, url, json.dumps(body)]
    process = subprocess.run(command, cwd=CLIENTS, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0}, {"num_beams": 4}, {"num_beams": 4, "n": 2}, {"num_beams": 2, "logprobs": True}],
    ids=json.dumps,
)
def test_the_official_node_client(server, fields):
    read = node("openai_node.mjs", server.url, {**STORY, **fields})
    content = read["plain"]["choices"][0]["message"]["content"]
    assert read["joined"] == content
    assert [choice["message"]["content"] for choice in read["final"]["choices"]] == [
        choice["message"]["content"] for choice in read["plain"]["choices"]
    ]
    if fields.get("n") is None:  # this event does not tell choices apart
        assert "".join(delta["text"] for delta in read["deltas"]) == content
    assert read["deltas"][0]["at"] < read["seconds"]
