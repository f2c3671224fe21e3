"""Calls of functions: which ones a body permits, and how they are read from the text of an answer.

A call is text like any other, in the prompt template's `CallFormat`, which constrained decoding keeps. The functions
are the client's to run.
"""

from collections.abc import Callable
from dataclasses import replace

from errors import bad_request
from generation import CallFormat, Calls, Decoding, Delta, FinishReason, Source
from protocol import Function, SentBody, ToolChoice, ToolFields
from sources import split

AUTO = ToolChoice(type="auto")
CALL_FIELDS = {"tools", "tool_choice", "functions", "function_call"}
"""Fields of a body without which its answer is text."""

UNUSED_IN_CALLS = (
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "logprobs",
    "top_logprobs",
    "response_format",
)
"""Fields without effect on an answer that has to be a call: `for_calls_alone` leaves them out."""


def to_calls(body: ToolFields, call_format: CallFormat) -> Calls | None:
    """What the answer may call; None: nothing, it is text.

    Raises APIError (400) for a `tool_choice` that asks for a function that is not among the tools.
    """
    param, functions = "tools", [tool.function for tool in body.tools]
    choice = body.tool_choice or AUTO
    if is_older(body):
        param, functions = "functions", body.functions
        choice = body.function_call or AUTO
    allowed, is_required = _allowed_names(choice), _is_call_required(choice)
    has_unknown = not {function.name for function in functions}.issuperset(allowed or ())
    if has_unknown or (is_required and not functions):
        chosen_by = "function_call" if param == "functions" else "tool_choice"
        reason = f"'{chosen_by}' asks for a function that is not among the '{param}'."
        raise bad_request(reason, chosen_by)
    if not functions or choice.type == "none":
        return None
    callable_functions = [each for each in functions if allowed is None or each.name in allowed]
    is_single = is_older(body) or choice.type == "function" or not body.parallel_tool_calls
    described = tuple(_described(function) for function in callable_functions)
    return Calls(described, call_format, is_required, is_single, param)


def for_calls_alone(decoding: Decoding) -> Decoding:
    """The same decoding without what would cut a call off, and what is of text that such an answer does not have."""
    return replace(
        decoding,
        stop=(),
        stop_token_ids=(),
        include_stop_str_in_output=False,
        alternatives=None,
        constraint=None,
    )


def unused_tools(body: ToolFields, calls: Calls | None) -> list[str]:
    """Fields of tools that were sent and have no effect on an answer that may have `calls`."""
    unused: tuple[str, ...] = ("tools", "functions")
    if calls is not None:
        unused = ("tools",) if is_older(body) else ("functions", "function_call")
    return [name for name in unused if getattr(body, name)]


def unused_fields(body: ToolFields, decoding: Decoding) -> list[str]:
    """Fields that were sent and have no effect on an answer that has calls, or has none."""
    names = unused_tools(body, decoding.calls)
    if decoding.is_call:
        names += [name for name in UNUSED_IN_CALLS if getattr(body, name)]
    return names


def call_reason(body: SentBody) -> FinishReason:
    """The finish reason of an answer whose calls are whole."""
    return "function_call" if is_older(body) else "tool_calls"


def is_older(body: SentBody) -> bool:
    """Whether a body has its functions in the form that OpenAI had before tools, and gets its calls in that form."""
    if not isinstance(body, ToolFields) or body.tools or body.tool_choice is not None:
        return False
    return bool(body.functions) or body.function_call is not None


def _is_call_required(choice: ToolChoice) -> bool:
    if choice.allowed_tools is not None:
        return choice.allowed_tools.mode == "required"
    return choice.type in ("required", "function")


def _allowed_names(choice: ToolChoice) -> list[str] | None:
    """The functions that may be called; None: all."""
    if choice.allowed_tools is not None:
        return [tool.function.name for tool in choice.allowed_tools.tools]
    return None if choice.function is None else [choice.function.name]


def _described(function: Function) -> dict[str, object]:
    return function.model_dump(include={"name", "description", "parameters"})


def read_calls(source: Source[Delta], calls: Calls, reason: FinishReason) -> Source[Delta]:
    """The same choices, their calls told from their text; `reason` is that of a choice whose calls are whole.

    A choice that ends before its call is whole keeps the reason that ended it.
    """
    readers: dict[int, CallReader] = {}

    def parts(delta: Delta) -> list[Delta]:
        reader = readers.get(delta.index)
        if reader is None:
            reader = readers[delta.index] = CallReader(calls)
        return reader.read(delta, reason)

    return split(source, parts)


class CallReader:
    """Reads the answer of one choice as it comes: what the client is to read, then calls.

    `_read` is the step that reads on: it takes what it can from `_pending` and returns that as a part, or returns None
    until there is more text.
    """

    def __init__(self, calls: Calls) -> None:
        written = calls.format
        self._format = written
        names = [str(function["name"]) for function in calls.functions]
        self._heads = {f"{written.begin}{name}{written.middle}": name for name in names}
        self._pending = ""
        self._index = -1
        """Of the call that is being read."""
        self._is_whole = False
        """Whether that call has ended."""
        self._has_begun = False
        """Whether text of the answer has been read as no call."""
        self._json = JSONEnd()
        self._read: Callable[[bool], Delta | None] = self._read_text
        if calls.is_required:
            self._read = self._read_head

    def read(self, delta: Delta, reason: FinishReason) -> list[Delta]:
        """The parts of a delta, at least one; the first has its tokens, the last its finish reason."""
        self._pending += delta.text
        is_last = delta.finish_reason is not None
        parts: list[Delta] = []
        while (part := self._read(is_last)) is not None:
            part.index = delta.index
            parts.append(part)
        if not parts:
            parts.append(
                Delta(delta.index, "", (), call_index=None if self._index < 0 else self._index)
            )
        first, last = parts[0], parts[-1]
        first.token_ids, first.cut = delta.token_ids, delta.cut
        if first.call_index is None:
            first.logprobs = delta.logprobs
        last.finish_reason = reason if is_last and self._is_whole else delta.finish_reason
        return parts

    def _read_text(self, is_last: bool) -> Delta | None:
        """Read up to the mark of a call, or to what may become one."""
        found = self._format.find(self._pending, not self._has_begun)
        if found is not None:
            self._read = self._read_head
            end = found
        else:
            end = len(self._pending) if is_last else self._possible_mark()
        text, self._pending = self._pending[:end], self._pending[end:]
        self._has_begun = self._has_begun or bool(text)
        if found is not None and not text:
            return self._read(is_last)
        return Delta(0, text, ()) if text else None

    def _possible_mark(self) -> int:
        """Where a mark may have begun at the end of the text, or else the end."""
        text, mark = self._pending, self._format.mark
        if not self._has_begun and mark.startswith(text):
            return 0
        marks = [f"\n{mark}"] if self._format.begins_line else [f"\n{mark}", mark]
        for at in range(max(0, len(text) - len(mark)), len(text)):
            if any(each.startswith(text[at:]) for each in marks):
                return at
        return len(text)

    def _read_head(self, is_last: bool) -> Delta | None:
        """Read the text of a call up to its arguments; what has not become one at the end is left out."""
        text = self._pending.removeprefix("\n")
        for head, name in self._heads.items():
            if text.startswith(head):
                self._pending = text.removeprefix(head)
                self._index += 1
                self._is_whole = False
                self._json = JSONEnd()
                self._read = self._read_arguments
                part = self._read(is_last) or Delta(0, "", (), call_index=self._index)
                part.call = name
                return part
        if any(head.startswith(text) for head in self._heads):
            return None
        # It has the mark, and is none of the calls.
        self._read = self._read_text
        self._has_begun = True
        end = len(self._pending) - len(text) + len(self._format.mark)
        text, self._pending = self._pending[:end], self._pending[end:]
        return Delta(0, text, ())

    def _read_arguments(self, _: bool) -> Delta | None:
        """Read the arguments, as far as they have come."""
        end = self._json.find(self._pending)
        if end is not None:
            self._read = self._read_end
        text, self._pending = self._pending[:end], "" if end is None else self._pending[end:]
        return Delta(0, text, (), call_index=self._index) if text else None

    def _read_end(self, is_last: bool) -> Delta | None:
        """Read what closes a call, and goes on to the next one if there is one."""
        if not self._is_whole and self._pending.startswith(self._format.end):
            self._pending = self._pending.removeprefix(self._format.end)
            self._is_whole = True
        separator = self._format.separator
        if self._is_whole and separator is not None and self._pending.startswith(separator):
            self._pending = self._pending.removeprefix(separator)
            self._read = self._read_head
            return self._read(is_last)
        return None


class JSONEnd:
    """Finds the end of a JSON object or list in a text that comes piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = self._is_escaped = False

    def find(self, text: str) -> int | None:
        """Where the value ends in the next piece of the text; None: it goes on."""
        for at, character in enumerate(text):
            if self._is_in_string:
                self._is_in_string = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            elif character == '"':
                self._is_in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1
        return None
