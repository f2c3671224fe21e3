"""The command in a process of its own, as a user would start it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx

from tests.support.paths import ROOT

START_SECONDS = 240
BATCH = 48
"""The shared server's `--max-num-seqs`: more choices than that wait."""
ROOM = 128
"""The shared server's `--max-num-queued-reqs`: a request for so many choices is taken only when nothing else runs."""
USERS_COMMAND = (
    "--model DIR --tokenizer DIR --tokenizer-mode slow --tensor-parallel-size 1 "
    "--served-model-name chinese-llama-alpaca-2 --host localhost --port 8000"
)
"""As users of Chinese-LLaMA-Alpaca-2 start servers; DIR stands for the model."""


class Server:
    """A server process, as a user would start it."""

    def __init__(self, *arguments: str, program: str = "openai_api_server_vllm.py") -> None:
        self.lines: list[str] = []
        command = [sys.executable, program, *arguments]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            process_group=0,  # as a shell would: Ctrl-C is for the whole group
        )
        assert self.process.stdout is not None
        self.terminal = self.process.stdout
        self.url = ""
        self.shown: list[str] = []
        """The lines up to the banner."""
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.terminal), daemon=True)

    def wait_for_banner(self) -> None:
        """Read the terminal to the end of the banner, whose URL is then `url`, without `/v1`; else end the process."""
        try:
            self._read_banner()
        except BaseException:
            self.process.kill()  # it would take the processor from the tests that follow
            raise

    def _read_banner(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and (line := self.terminal.readline()):
            self.lines.append(line)
            if ready := re.search(r"Ready at\s+(\S+)", line):
                self.url = ready[1].removesuffix("/v1")
            if self.url and line == "\n":
                self.shown = [*self.lines]
                self.reader.start()  # else its log would fill the pipe
                return
        raise AssertionError("the server did not start:\n" + "".join(self.lines))

    def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.reader.join(10)
        self.terminal.close()
        return status


def connect(server: Server) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port), timeout=60)


def run_command(
    *arguments: str, program: str = "openai_api_server_vllm.py", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A start that ends by itself."""
    return subprocess.run(
        [sys.executable, program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
