"""What a real start shows on the terminal."""

import subprocess

import pytest

from tests.support.server_process import Server

pytestmark = pytest.mark.engine


def test_the_banner_tells_what_is_served_and_its_curl_line_works_when_pasted(
    server: Server,
) -> None:
    banner = "".join(server.shown)
    assert f"  Ready at   {server.url}/v1  (docs: {server.url}/docs)\n" in banner
    assert "alpaca-2" in banner
    assert "temperature 0.2, top_p 0.9, top_k 40, repetition_penalty 1.1, max_tokens 512" in banner
    assert banner.endswith(f"  open it    {server.url}/\n\n")
    command = banner[banner.index("curl ") : banner.index("  open it")].replace(
        "curl ", "curl -sS --fail-with-body ", 1
    )
    process = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    assert "北京" in process.stdout


def test_the_terminal_shows_our_lines_alone(server: Server) -> None:
    """From the command to the banner: no library's chatter."""
    banner = (
        "  Ready at",
        "  model",
        "  template",
        "  encoder    SentencePiece on tokenizer.model\n",
        "  memory",
        "  sampling",
        "  try",
        "  open it",
    )
    known = ("Importing vLLM", "Loading ", "\n", *banner, "    ")
    assert [line for line in server.shown if not line.startswith(known)] == []
