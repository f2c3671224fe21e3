"""The wire format of `/v1/responses`: its body, its reply, and the events of its streams."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, FailFast, Field, model_validator
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
    """Items of reasoning are passed over."""
    role: Literal["user", "assistant", "system", "developer"] | None = None
    """Of a message."""
    content: Content = ""
    """Of a message: a string, or a list of text parts."""
    call_id: str = ""
    """Of a call and of its output."""
    name: str = ""
    """The function that is called."""
    arguments: str = ""
    """The arguments of a call, as JSON."""
    output: Content = ""
    """Of a call: a string, or a list of text parts."""
    id: Any = None
    """No effect."""
    status: Any = None
    """No effect."""
    phase: Any = None
    """No effect."""

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


class FunctionTool(Function):
    """A function that the client would run."""

    type: Literal["function"]
    strict: bool = True
    """No effect: the schema is always kept."""

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
    name: str


class FlatToolChoice(SentBody):
    """Whether a function has to be called, and which."""

    type: Literal["auto", "none", "required", "function", "allowed_tools"]
    name: str | None = Field(None, exclude_if=is_absent)
    """The function of the type function."""
    mode: Literal["auto", "required"] | None = Field(None, exclude_if=is_absent)
    """Whether one of the allowed tools has to be called."""
    tools: list[AllowedFunction] | None = Field(
        None, exclude_if=is_absent, min_length=1, max_length=MAX_TOOLS
    )
    """The functions of the type allowed_tools."""

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
    name: ShortText | None = Field(None, exclude_if=is_absent)
    """No effect; given back in the reply."""
    schema_: Schema | None = Field(None, alias="schema", exclude_if=is_absent)
    """The JSON schema of the type json_schema."""
    description: str | None = Field(None, exclude_if=is_absent)
    """No effect."""
    strict: bool | None = Field(None, exclude_if=is_absent)
    """No effect: a schema is always kept."""

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
    verbosity: Literal["low", "medium", "high"] | None = Field(None, exclude_if=is_absent)
    """No effect."""


class ResponsesRequest(
    GenerationFields, UnusedFields, json_schema_extra={"example": {"input": "你好"}}
):
    """The body of `POST /v1/responses`."""

    input: Annotated[
        list[InputItem],
        FailFast(),
        BeforeValidator(to_user_message, json_schema_input_type=str | list[InputItem]),
    ] = Field(
        min_length=1,
        max_length=MAX_MESSAGES - 1,  # with the instructions they are the messages of a chat
    )
    """The whole conversation, or one string, for one user message."""
    instructions: str | None = None
    """A first system message."""
    max_output_tokens: int | None = Field(None, ge=0)
    """Generated tokens at most; max_tokens is another name."""
    n: int = Field(1, ge=1, le=1)
    """A response is one answer."""
    text: TextOptions = Field(default_factory=TextOptions)
    """What the text of the reply is, and 'verbosity'."""
    tools: list[FunctionTool] = Field(EMPTY, max_length=MAX_TOOLS)
    """Functions that may be called."""
    tool_choice: Annotated[
        FlatToolChoice,
        BeforeValidator(to_tool_choice, json_schema_input_type=ToolMode | FlatToolChoice),
    ] = Field("auto", validate_default=True)
    """Whether a function is called: auto, none, required, a function, allowed_tools."""
    parallel_tool_calls: bool = True
    """Whether several may be called at once."""
    truncation: Literal["auto", "disabled"] = "disabled"
    """auto: leave out the oldest turns of a conversation that is too long."""
    include: list[ShortText] = Field(
        EMPTY, max_length=MAX_INCLUDED, description=f"'{LOGPROBS}' asks for log-probabilities."
    )
    top_logprobs: int = Field(0, ge=0, le=20)
    """Likeliest tokens to return in each place; only with include."""
    metadata: Annotated[
        dict[str, str], BeforeValidator(_check_strings), AfterValidator(_check_pairs)
    ] = Field({}, max_length=MAX_PAIRS)
    """Given back in the reply."""
    previous_response_id: Any = None
    """Not supported: 400."""
    conversation: Any = None
    """Not supported: 400."""
    prompt: Any = None
    """Not supported: 400."""
    background: Any = None
    """true is not supported: 400."""
    store: Any = None
    """No effect: nothing is stored."""
    stream_options: Any = None
    """No effect."""
    max_tool_calls: Any = None
    """No effect: it is for built-in tools."""


class OutputText(BaseModel):
    """The text of a message."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = EMPTY
    logprobs: list[ChatTokenLogprob]


class OutputMessage(BaseModel):
    """An answer in text."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class FunctionCall(BaseModel):
    """A call that the client is asked for; its arguments are JSON."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | FunctionCall


class InputTokens(BaseModel):
    """Of the prompt's tokens, those that a cache had."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokens(BaseModel):
    """Of the generated tokens, those that are no part of the output."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens = OutputTokens()
    total_tokens: int


class ResponseFailure(BaseModel):
    """Why a response failed after it had begun."""

    code: Literal["server_error"] = "server_error"
    message: str


class Incompleteness(BaseModel):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponsesReply(BaseModel):
    """A response, whole or so far."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    error: ResponseFailure | None = None
    incomplete_details: Incompleteness | None = None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None = Field(default=None, exclude_if=is_absent)
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    text: TextOptions
    tools: list[FunctionTool]
    tool_choice: ToolMode | FlatToolChoice
    parallel_tool_calls: bool
    truncation: Literal["auto", "disabled"]
    metadata: dict[str, str]
    previous_response_id: None = None
    background: Literal[False] = False
    store: Literal[False] = False
    service_tier: Literal["default"] = "default"


class Event(BaseModel):
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
