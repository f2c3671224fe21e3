"""Runs the work of a tool as a command does: with a sentence at its end, and an exit status."""

from collections.abc import Callable

from settings import StartError, print_stderr, raising_start_error


def run(work: Callable[[], None], *, failed: str, done: str) -> int:
    """Do the work and say that it is `done`; returns the exit status: 0, or 1 where it `failed`, with why."""
    try:
        with raising_start_error(failed):
            work()
    except StartError as failure:
        print_stderr(f"error: {failure}")
        return 1
    print_stderr(done)
    return 0
