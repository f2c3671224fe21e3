"""The command, which notes on demand which functions of the project are called.

SIGUSR1 begins a trace, and SIGUSR2 ends it: a JSON list of pairs is then written to the file that `TRACE_FILE` names.
A pair is the module and qualified name of the nearest function of the project that is calling (null: a library called),
and those of the function that is called, each time it is.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import openai_api_server_vllm as command
from tests.support.paths import ROOT

ROOMS = ("api", "engine", "prompts", "server")
Name = tuple[str, str]


class Trace:
    """The calls of the project's functions while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        self._calls: list[tuple[Name | None, Name]] = []

    def begin(self, *_: object) -> None:
        self._calls.clear()
        self.is_on = True

    def end(self, *_: object) -> None:
        self.is_on = False
        Path(os.environ["TRACE_FILE"]).write_text(json.dumps(self._calls), encoding="utf-8")

    def note(self, frame: FrameType, event: str, _: object) -> None:
        """What `sys.setprofile` calls for each call and return."""
        if self.is_on and event == "call" and (called := name_of(frame)) is not None:
            caller = frame.f_back
            while caller is not None and name_of(caller) is None:
                caller = caller.f_back
            self._calls.append((caller and name_of(caller), called))


def name_of(frame: FrameType) -> Name | None:
    """The module and the function of a frame, or None if it is not the project's."""
    path = Path(frame.f_code.co_filename)
    if path.parent == ROOT or (path.parent.parent == ROOT and path.parent.name in ROOMS):
        return str(path.relative_to(ROOT)), frame.f_code.co_qualname
    return None


if __name__ == "__main__":
    trace = Trace()
    signal.signal(signal.SIGUSR1, trace.begin)
    signal.signal(signal.SIGUSR2, trace.end)
    threading.setprofile(trace.note)
    sys.setprofile(trace.note)
    sys.exit(command.main())
