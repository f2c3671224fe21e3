"""Clients of a server, or of the front of several, while one of these ends: streams that run, requests that come."""

import json
import threading
from typing import Any

import httpx

from tests.support.alike import AUTHORISED
from tests.support.bodies import COMPLETIONS


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers=AUTHORISED, timeout=60, trust_env=False)


class Stream:
    """A stream that is read in a thread."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self._url, self._body = url, body
        self._end = "nothing"
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        events: list[str] = []
        try:
            with (
                client(self._url) as http,
                http.stream("POST", COMPLETIONS, json=self._body) as reply,
            ):
                events += (line for line in reply.iter_lines() if line.startswith("data: "))
                self._end = self._how_it_ended(events)
        except httpx.TransportError:
            self._end = "cut"

    def _how_it_ended(self, events: list[str]) -> str:
        assert events[-1] == "data: [DONE]"
        last = json.loads(events[-2].removeprefix("data: "))
        return str(
            last["error"]["code"] if "error" in last else last["choices"][0]["finish_reason"]
        )

    def end(self) -> str:
        """The reason or the code of the error with which it ended, or `cut`."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._end


class NewRequests:
    """Short plain requests, one after the other in each of some threads, until `stop`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self.answered = 0
        self.failed: list[str] = []
        self.cut = 0
        """Replies that ended after their heads, as one may that is being written by a process while it is killed."""
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(4)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        count = 0
        with client(self._url) as http:
            while not self._is_over.wait(0.002):
                count += 1
                try:
                    reply = http.post(COMPLETIONS, json={"prompt": f"{number} {count}"})
                except httpx.TransportError as failure:
                    if "without sending complete message body" in str(failure):
                        self.cut += 1
                    else:
                        self.failed.append(repr(failure))
                    continue
                if reply.status_code != 200:
                    self.failed.append(reply.text)
                self.answered += 1

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
