"""The wire format of `/v1/responses`: its body, its reply, and the events of its streams."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from protocol import (
    EMPTY,
    MAX_MESSAGES,
    MAX_TOOLS,
    PART_TYPE,
    ChatTokenLogprob,
    Content,
    Function,
    GenerationFields,
    ReplyPart,
    Schema,
    SentBody,
    ShortText,
    ToolMode,
    UnusedFields,
    is_absent,
    to_tool_choice,
    to_user_message,
)

MAX_INCLUDED = 64
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
"""Of `metadata`, as at OpenAI's."""
NEEDED_FIELDS = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}
"""By type of an item, the fields that it cannot do without."""
UNNAMED = "answer"
"""The name of a JSON schema that is sent without one."""
LOGPROBS = "message.output_text.logprobs"
"""What `include` has where log-probabilities are asked for."""

ItemType = Literal["message", "function_call", "function_call_output", "reasoning"]
Status = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
SentPairs = Annotated[
    dict[Annotated[str, Field(max_length=MAX_KEY)], Annotated[str, Field(max_length=MAX_VALUE)]],
    Field(max_length=MAX_PAIRS),
]


def _check_pairs(pairs: dict[str, str]) -> dict[str, str]:
    """Check lengths for the field as a whole: the path of an error would repeat the client's key."""
    if any(len(key) > MAX_KEY or len(value) > MAX_VALUE for key, value in pairs.items()):
        raise ValueError(f"keys have at most {MAX_KEY} characters, values {MAX_VALUE}")
    return pairs


def _check_strings(value: Any) -> Any:
    if isinstance(value, dict) and not all(isinstance(text, str) for text in value.values()):
        raise ValueError("values are strings")
    return value


class InputItem(SentBody):
    """What was said, called or returned: a message, a call of a function, or the output of one."""

    type: ItemType = "message"
    """What it is. Items of the type `reasoning` are passed over; other types are a 400."""
    role: Literal["user", "assistant", "system", "developer"] | None = None
    """Of a message: who speaks. `developer` is the same as `system`."""
    content: Content = ""
    """Of a message: what is said, a text or a list of text parts, which are joined by line breaks."""
    call_id: str = ""
    """Of a call and of its output: the id by which they belong together."""
    name: str = ""
    """Of a call: the function that is called."""
    arguments: str = ""
    """Of a call: its arguments, as a string of JSON."""
    output: Content = ""
    """Of the output of a call: a text, or a list of text parts."""
    id: Any = None
    """Accepted without effect: nothing is stored that it could name."""
    status: Any = None
    """Accepted without effect: an item is read as it is sent."""
    phase: Any = None
    """Accepted without effect: an item is read as it is sent."""

    @model_validator(mode="before")
    @classmethod
    def _check_type(cls, fields: Any) -> Any:
        """Check that an item is of a known type and has what its type needs; of reasoning nothing is read."""
        if not isinstance(fields, dict):
            return fields
        kind = fields.get("type") or "message"
        if kind == "reasoning":
            return {"type": kind}
        if not isinstance(kind, str) or kind not in NEEDED_FIELDS:
            raise PydanticCustomError("item", _to_reason(kind), {"step": "type"})
        for name in NEEDED_FIELDS[kind]:
            if fields.get(name) is None:
                raise PydanticCustomError("missing", "it is required", {"step": name})
        return fields


def _to_reason(kind: Any) -> Any:
    """What is wrong with an item of that type."""
    if kind == "item_reference":
        return "this server keeps no responses to refer to; send the item itself"
    named = kind if isinstance(kind, str) and PART_TYPE.fullmatch(kind) else "this type"
    return f"items of {named} are not supported; messages, function calls and their outputs are"


SentInput = str | Annotated[list[InputItem], Field(max_length=MAX_MESSAGES - 1)]


class FunctionTool(Function):
    """A function that the client would run."""

    type: Literal["function"]
    """Always `function`: built-in and custom tools are a 400."""
    strict: bool = True
    """Accepted without effect: the schema of the arguments is always kept."""

    @model_validator(mode="before")
    @classmethod
    def _check_type(cls, fields: Any) -> Any:
        """Check the type before all else: other tools have other fields."""
        if isinstance(fields, dict) and fields.get("type") != "function":
            reason = "only functions are supported, no built-in and no custom tools"
            raise PydanticCustomError("tool", reason, {"step": "type"})
        return fields


class AllowedFunction(SentBody):
    """One of the functions that may be called."""

    type: Literal["function"]
    """Always `function`."""
    name: str
    """The function's name, one of those among the `tools`."""


class FlatToolChoice(SentBody):
    """Whether a function has to be called, and which."""

    type: Literal["auto", "none", "required", "function", "allowed_tools"]
    """`auto`: text or calls, as the model decides; `none`: text; `required`: one or more calls; `function`: one call of
    that function; `allowed_tools`: only some of the functions."""
    name: str | None = Field(None, exclude_if=is_absent)
    """The function that has to be called; only for the type `function`."""
    mode: Literal["auto", "required"] | None = Field(None, exclude_if=is_absent)
    """`auto`: the model decides between text and calls; `required`: it has to call. Only for the type
    `allowed_tools`."""
    tools: list[AllowedFunction] | None = Field(
        None, exclude_if=is_absent, min_length=1, max_length=MAX_TOOLS
    )
    """The functions that may be called, 1 to 128; only for the type `allowed_tools`."""

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if (self.type == "function") != (self.name is not None):
            raise ValueError("'name' belongs to the type function, which needs it")
        for value in (self.mode, self.tools):
            if (self.type == "allowed_tools") != (value is not None):
                raise ValueError(
                    "'mode' and 'tools' belong to the type allowed_tools, which needs them"
                )
        return self


class TextFormat(SentBody):
    """What the text is: any text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    """`text`: anything; `json_object`: any JSON object; `json_schema`: JSON that the `schema` allows."""
    name: ShortText | None = Field(None, exclude_if=is_absent)
    """Accepted without effect, up to 1,024 characters; given back in the reply."""
    schema_: Schema | None = Field(None, alias="schema", exclude_if=is_absent)
    """The JSON schema, at most 64 KiB as JSON; only for the type `json_schema`."""
    description: str | None = Field(None, exclude_if=is_absent)
    """Accepted without effect: the model is not shown it."""
    strict: bool | None = Field(None, exclude_if=is_absent)
    """Accepted without effect: a schema is always kept."""

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("'schema' belongs to the type json_schema, which needs it")
        if self.schema_ is not None and self.name is None:
            self.name = UNNAMED  # OpenAI's reply has one always
        return self


class TextOptions(SentBody):
    """What the text of the reply is."""

    format: TextFormat = Field(default_factory=TextFormat)
    """What the text is: any text, any JSON object, or JSON by a schema; absent: any text. It is kept unless
    `max_output_tokens` or a stop ends the reply first."""
    verbosity: Literal["low", "medium", "high"] | None = Field(None, exclude_if=is_absent)
    """Accepted without effect: say in the prompt how long the answer shall be."""


class ResponsesRequest(
    GenerationFields, UnusedFields, json_schema_extra={"example": {"input": "你好"}}
):
    """The body of `POST /v1/responses`."""

    input: Annotated[
        list[InputItem],
        FailFast(),
        BeforeValidator(to_user_message, json_schema_input_type=SentInput),
    ] = Field(
        min_length=1,
        max_length=MAX_MESSAGES - 1,  # with the instructions they are the messages of a chat
    )
    """The whole conversation: items, up to 4,095 and at least one, or one string, for one message of the user. Nothing
    is kept between requests."""
    instructions: str | None = None
    """A first system message; absent: none, and the server's own system text holds unless `input` has one."""
    max_output_tokens: int | None = Field(None, ge=0)
    """Tokens to generate at most; fewer where the context has less room after the prompt. Where `max_tokens` is sent
    too, the smaller counts; absent: `max_tokens` alone."""
    n: int = Field(1, ge=1, le=1)
    """Always 1: a response is one answer."""
    text: TextOptions = Field(default_factory=TextOptions)
    """What the text of the reply is: `format`, and `verbosity`, which has no effect."""
    tools: list[FunctionTool] = Field(EMPTY, max_length=MAX_TOOLS)
    """Functions that the answer may call, up to 128; absent: it is text. The client runs them, and sends their outputs
    as items. Built-in and custom tools are a 400."""
    tool_choice: Annotated[
        FlatToolChoice,
        BeforeValidator(to_tool_choice, json_schema_input_type=ToolMode | FlatToolChoice),
    ] = Field("auto", validate_default=True)
    """`auto`: text or calls, as the model decides; `none`: text; `required`: one or more calls; or an object that names
    a function to call, or those that may be called. Arguments always keep the function's schema."""
    parallel_tool_calls: bool = True
    """`true`: an answer may have several calls; `false`: one at most."""
    truncation: Literal["auto", "disabled"] = "disabled"
    """What is done with a conversation that is too long for the context. `auto`: its oldest turns are left out;
    `disabled`: 400."""
    include: list[ShortText] = Field(EMPTY, max_length=MAX_INCLUDED)
    """What the reply has besides, up to 64 names: `message.output_text.logprobs` asks for the log-probability of each
    token of the text; others have no effect."""
    top_logprobs: int = Field(0, ge=0, le=20)
    """Likeliest tokens to return in each place, 0 to 20, with their log-probabilities; no effect unless `include` asks
    for these."""
    metadata: Annotated[
        dict[str, str],
        BeforeValidator(_check_strings, json_schema_input_type=SentPairs),
        AfterValidator(_check_pairs),
    ] = Field({}, max_length=MAX_PAIRS)
    """Up to 16 pairs of strings, keys of up to 64 characters and values of up to 512, given back in the reply; nothing
    is stored."""
    previous_response_id: Any = None
    """Not supported, 400: nothing is kept between requests."""
    conversation: Any = None
    """Not supported, 400: nothing is kept between requests."""
    prompt: Any = None
    """Not supported, 400: no prompts are kept here."""
    background: Any = None
    """`true` is not supported, 400: a response is answered at once. `false` changes nothing."""
    store: Any = None
    """Accepted without effect: nothing is stored."""
    stream_options: Any = None
    """Accepted without effect: the last event always has the `usage`."""
    response_format: Any = None
    """Not supported, 400: it is `format` of `text` here."""
    return_token_ids: bool = False
    """Accepted without effect: a response has no token ids."""
    max_tool_calls: Any = None
    """Accepted without effect: it limits built-in tools, which there are none of."""


class OutputText(ReplyPart):
    """The text of a message."""

    type: Literal["output_text"] = "output_text"
    """Always `output_text`."""
    text: str
    """The text of the answer."""
    annotations: list[Any] = EMPTY
    """Always empty: nothing is cited."""
    logprobs: list[ChatTokenLogprob]
    """The log-probability of each token, where `include` asks for them."""


class OutputMessage(ReplyPart):
    """An answer in text."""

    id: str
    """An id of its own."""
    type: Literal["message"] = "message"
    """Always `message`."""
    status: ItemStatus
    """`completed`, or `incomplete` where `max_output_tokens` has cut it."""
    role: Literal["assistant"] = "assistant"
    """Always `assistant`."""
    content: list[OutputText]
    """The text, as one part."""


class FunctionCall(ReplyPart):
    """A call that the client is asked for; its arguments are JSON."""

    id: str
    """An id of its own."""
    type: Literal["function_call"] = "function_call"
    """Always `function_call`."""
    status: ItemStatus
    """`completed`, or `incomplete` where `max_output_tokens` has cut it."""
    call_id: str
    """The id that the output of the call has to name."""
    name: str
    """The function that is called."""
    arguments: str
    """Its arguments, as JSON."""


OutputItem = OutputMessage | FunctionCall


class InputTokens(ReplyPart):
    """Of the prompt's tokens, those that a cache had."""

    cached_tokens: int
    """Tokens of the prompt that came from the prefix cache."""
    cache_write_tokens: int = 0
    """Always 0."""


class OutputTokens(ReplyPart):
    """Of the generated tokens, those that are no part of the output."""

    reasoning_tokens: int = 0
    """Always 0: the models served here do not reason apart from their answer."""


class ResponseUsage(ReplyPart):
    """Token counts of a response."""

    input_tokens: int
    """Tokens of the prompt, template included."""
    input_tokens_details: InputTokens
    """How many of them came from a cache."""
    output_tokens: int
    """Tokens that were generated."""
    output_tokens_details: OutputTokens = OutputTokens()
    """How many of them are no part of the output: none."""
    total_tokens: int
    """The sum of both."""


class ResponseFailure(ReplyPart):
    """Why a response failed after it had begun."""

    code: Literal["server_error"] = "server_error"
    """Always `server_error`."""
    message: str
    """What went wrong."""


class Incompleteness(ReplyPart):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"
    """Always `max_output_tokens`: the limit, or the end of the context, has cut the answer."""


class ResponsesReply(ReplyPart):
    """A response, whole or so far."""

    id: str
    """An id of its own; nothing is kept under it."""
    object: Literal["response"] = "response"
    """Always `response`."""
    created_at: int
    """When the request was accepted, in seconds since 1970 (Unix time)."""
    completed_at: int | None = None
    """When it was completed, in seconds since 1970; `null` where it was not."""
    status: Status
    """`completed`, or `incomplete` where the answer was cut; in a stream also `in_progress` and `failed`."""
    error: ResponseFailure | None = None
    """Why it failed, in a stream that had begun; else `null`."""
    incomplete_details: Incompleteness | None = None
    """Why it is `incomplete`; else `null`."""
    model: str
    """The model that answers, by the name that it was asked for by."""
    output: list[OutputItem]
    """A message with the text, then the calls of functions."""
    usage: ResponseUsage | None = Field(default=None, exclude_if=is_absent)
    """Token counts, in tokens; left out of the events before the last."""
    instructions: str | None
    """Those of the request."""
    max_output_tokens: int | None
    """That of the request."""
    temperature: float
    """The `temperature` that holds."""
    top_p: float
    """The `top_p` that holds."""
    top_logprobs: int
    """That of the request."""
    text: TextOptions
    """That of the request, with a name for its schema."""
    tools: list[FunctionTool]
    """Those of the request."""
    tool_choice: ToolMode | FlatToolChoice
    """That of the request."""
    parallel_tool_calls: bool
    """That of the request."""
    truncation: Literal["auto", "disabled"]
    """That of the request."""
    metadata: dict[str, str]
    """That of the request."""
    previous_response_id: None = None
    """Always `null`: nothing is kept between requests."""
    background: Literal[False] = False
    """Always `false`: a response is answered at once."""
    store: Literal[False] = False
    """Always `false`: nothing is stored."""
    service_tier: Literal["default"] = "default"
    """Always `default`: there is one tier."""


class Event(ReplyPart):
    """What all events of a stream have; their numbers count from 0."""

    type: str
    sequence_number: int


class ResponseEvent(Event):
    """The response has begun, or has come to its end."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponsesReply


class ItemEvent(Event):
    """An item of the output has begun, or is done."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PieceEvent(Event):
    """What events within an item have."""

    item_id: str
    output_index: int


class PartEvent(PieceEvent):
    """The text of a message has begun, or is done."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int = 0
    part: OutputText


class TextDelta(PieceEvent):
    """A piece of the text of a message."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    content_index: int = 0
    delta: str
    logprobs: list[ChatTokenLogprob] = EMPTY


class TextDone(PieceEvent):
    """The whole text of a message."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    content_index: int = 0
    text: str
    logprobs: list[ChatTokenLogprob]


class ArgumentsDelta(PieceEvent):
    """A piece of the arguments of a call."""

    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    delta: str


class ArgumentsDone(PieceEvent):
    """The whole arguments of a call."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


class ErrorEvent(Event):
    """A failure after the first event, in OpenAI's published shape, and in `error` in the one that its servers send."""

    type: Literal["error"] = "error"
    code: str
    message: str
    param: str | None
    error: dict[str, str | None]
