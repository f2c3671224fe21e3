"""The beginnings of prompts and replies for the log, with `--log-requests`."""

from collections.abc import Callable, Sequence

from generation import Delta, Prompt, Source
from sources import changed

MAX_LOGGED_TEXTS, MAX_LOGGED_CHARACTERS = 4, 1000
"""How many prompts and replies of a request are logged, and how much of each."""


def keep_texts(
    source: Source[Delta],
    prompts: Sequence[Prompt],
    n: int,
    spell: Callable[[Sequence[int]], Sequence[bytes]],
) -> tuple[Source[Delta], dict[str, list[str]]]:
    """The same deltas, and the beginnings of prompts and replies for the log; the replies grow as their deltas come.

    Of each prompt there are `n` replies. `spell` gives the bytes that each token id stands for.
    """
    replies = [""] * min(len(prompts) * n, MAX_LOGGED_TEXTS)

    def keep(delta: Delta) -> Delta:
        if delta.index < len(replies):
            replies[delta.index] = (replies[delta.index] + delta.text)[:MAX_LOGGED_CHARACTERS]
        return delta

    # More ids than characters would not be shown: nearly every token stands for one character or more.
    first = [prompt.ids[:MAX_LOGGED_CHARACTERS] for prompt in prompts[:MAX_LOGGED_TEXTS]]
    shown = [b"".join(spell(ids)).decode(errors="replace")[:MAX_LOGGED_CHARACTERS] for ids in first]
    return changed(source, keep), {"prompts": shown, "replies": replies}
