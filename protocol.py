"""The OpenAI wire format: request and reply bodies, nothing else.

A request field carries its type, range and default, and what it is for in its docstring, which `/docs` shows;
`--override-generation-config` changes the defaults of sampling fields. What the fields mean together is resolved in
`api/decoding.py` and checked in `api/field_rules.py`.
"""

import json
import re
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_CHOICES = 128
MAX_BEAMS = 16
MAX_STOP_STRINGS, MAX_SHORT_TEXT = 16, 1024
MAX_PROMPTS, MAX_MESSAGES = 2048, 4096
MAX_TOKENS_NAMED = 1024
MAX_BAD_WORDS, MAX_TOKENS_ALLOWED = 64, 65_536
MAX_FIELDS, MAX_TOOLS = 1024, 128
MAX_SCHEMA, MAX_EXPRESSION = 65_536, 16_384
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts of a message, also those of the Responses API, and the field of each that has its text."""
PART_TYPE = re.compile("[a-z_]{1,20}")
"""Names that other servers have for parts of messages, such as `image_url`; an error repeats no other text."""
AUTO: dict[str, Any] = {"default": "auto"}
"""Shown as the default of a choice, which is None so that nothing has to be validated for it."""
EMPTY: Any = ()
"""Default of a list that is absent: pydantic would copy a `[]` for each request."""
ChoiceType = TypeVar("ChoiceType", bound=BaseModel)
FinishReason = Literal["stop", "length", "tool_calls", "function_call"]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
ShortText = Annotated[str, Field(max_length=MAX_SHORT_TEXT)]
SentPrompt = str | list[str] | list[TokenId] | list[list[TokenId]]
SPEAKING_ROLES = ("system", "developer", "user", "tool", "function")
ToolMode = Literal["auto", "none", "required"]
OlderMode = Literal["auto", "none"]


def _to_strings(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and value != []
        and all(type(part) is int and 0 <= part < 2**31 for part in value)
    )


def _check_biases(value: Any) -> Any:
    """Check the number of biases before pydantic validates each of them."""
    if isinstance(value, dict) and len(value) > MAX_TOKENS_NAMED:
        raise ValueError(f"there may be at most {MAX_TOKENS_NAMED}")
    return value


def _to_prompts(value: Any) -> Any:
    """Make one prompt a list of one.

    Checked here and not by a union of types, of which pydantic would try each on the whole list.
    """
    prompts = [value] if isinstance(value, str) or _is_ids(value) else value
    if not isinstance(prompts, list) or not prompts:
        raise ValueError("it must be a string, a list of token ids, or a non-empty list of either")
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"there may be at most {MAX_PROMPTS} prompts")
    for prompt in prompts:
        if not isinstance(prompt, str) and not _is_ids(prompt):
            raise ValueError("each prompt must be a string or a non-empty list of token ids")
    return prompts


def _to_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Check that a schema is JSON of at most `MAX_SCHEMA` bytes: what arrives may hold NaN, or be nested too deeply."""
    try:
        spelt = json.dumps(schema, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as failure:
        raise ValueError("it is nested too deeply, or holds what JSON has not") from failure
    if len(spelt) > MAX_SCHEMA:
        raise ValueError(f"a schema may have at most {MAX_SCHEMA} bytes")
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_to_schema)]


def _false_to_none(value: Any) -> Any:
    return None if value is False else value


def _to_object(value: Any) -> Any:
    """Parse an object that is sent as a string of JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except RecursionError as failure:
        raise ValueError("it is nested too deeply") from failure


def to_tool_choice(value: Any) -> Any:
    """Make an object of a choice that is sent as its type alone."""
    return {"type": value} if isinstance(value, str) else value


def _to_older_choice(value: Any) -> Any:
    """Turn a `function_call` into a `tool_choice`."""
    if isinstance(value, dict):
        return {"type": "function", "function": value}
    if value in ("auto", "none"):
        return {"type": value}
    raise ValueError("it must be auto, none, or the name of a function")


def to_user_message(value: Any) -> Any:
    """Make one message of the user of a conversation that is sent as a string."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _to_text(value: Any) -> Any:
    """The text of a message's content: a string, null, or a list of text parts."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise ValueError("it must be a string, null, or a list of text parts")
    return "\n".join(_to_part_text(part, at) for at, part in enumerate(value))


def _to_part_text(part: Any, at: int) -> str:
    """The text of a part of a content; the error for any other part says which part it is."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise _wrong_part(at, "it must be a text part or a string")
    kind = part.get("type")
    field = TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        found = "the type of this one is missing or unknown"
        if isinstance(kind, str) and PART_TYPE.fullmatch(kind):
            found = f"this one is of the type {kind}"
        raise _wrong_part(at, f"only text parts are supported, and {found}")
    text = part.get(field)
    if not isinstance(text, str):
        raise _wrong_part(at, f"a part of the type {kind} needs '{field}', a string")
    return text


def _wrong_part(at: int, reason: str) -> PydanticCustomError:
    return PydanticCustomError("part", reason, {"step": at})


Content = Annotated[str, BeforeValidator(_to_text, json_schema_input_type=str | list[Any] | None)]


def is_absent(value: object) -> bool:
    """Whether a field of a reply is left out, rather than sent as null."""
    return value is None


class SentBody(BaseModel, extra="allow", allow_inf_nan=False, use_attribute_docstrings=True):
    """A request body: null means absent, and a field that nobody knows is kept to be named, not refused."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        if len(fields) > MAX_FIELDS:
            raise ValueError(f"there may be at most {MAX_FIELDS} fields")
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def unknown_fields(self) -> list[str]:
        """The names of fields that this server does not know, with their paths."""
        names = list(self.model_extra or ())
        for name in sorted(self.model_fields_set):
            value: Any = self.__dict__.get(name)
            if isinstance(value, SentBody):
                names += [f"{name}.{inner}" for inner in value.unknown_fields]
            elif isinstance(value, list) and isinstance(next(iter(value), None), SentBody):
                names += [
                    f"{name}[{at}].{inner}"
                    for at, member in enumerate(value)
                    for inner in member.unknown_fields
                ]
        return names


class StreamOptions(SentBody):
    """What a stream carries besides text."""

    include_usage: bool = False
    """End with a chunk that has the usage of the whole reply."""
    continuous_usage_stats: bool = False
    """Put the usage so far into each chunk."""
    include_beams: bool = False
    """While a beam search of one prompt runs, show its beams, without choices."""
    include_obfuscation: Any = None
    """No effect: events are not padded."""


class JSONSchema(SentBody):
    """A JSON schema that the reply keeps."""

    schema_: Schema = Field(alias="schema")
    """A JSON schema; objects get only the properties that it names."""
    name: Any = None
    """No effect."""
    description: Any = None
    strict: Any = None
    """No effect: a schema is always kept."""


class ResponseFormat(SentBody):
    """What the reply is: any text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None
    """The schema of the type json_schema."""
    schema_: Schema | None = Field(None, alias="schema")
    """The schema, as llama.cpp's server takes it: beside 'type', for json_object too."""

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if self.json_schema is not None and (
            self.type != "json_schema" or self.schema_ is not None
        ):
            raise ValueError("'json_schema' belongs to the type json_schema, and is given once")
        if self.type == "json_schema" and self.json_schema is None and self.schema_ is None:
            raise ValueError("the type json_schema needs 'json_schema'")
        if self.type == "text" and self.schema_ is not None:
            raise ValueError("'schema' belongs to the type json_object or json_schema")
        if self.type == "json_object" and (self.schema_ or {}).get("type", "object") != "object":
            raise ValueError("the type json_object is an object, and its schema is of another type")
        return self


class StructuredOutputs(SentBody):
    """vLLM's ways to say what the reply is; one of them."""

    json_: Annotated[Schema | None, BeforeValidator(_to_object)] = Field(None, alias="json")
    """A JSON schema, as an object or a string."""
    json_object: Literal[True] | None = None
    """Any JSON object."""
    choice: list[ShortText] | None = Field(None, min_length=1, max_length=1000)
    """One of these texts."""
    regex: str | None = Field(None, max_length=MAX_EXPRESSION)
    """A regular expression, without look-around."""
    grammar: str | None = Field(None, max_length=MAX_EXPRESSION)
    """A grammar in Lark's syntax or as GBNF."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if sum(value is not None for value in vars(self).values()) != 1:
            raise ValueError(
                "exactly one of json, json_object, choice, regex and grammar must be given"
            )
        return self


class Function(SentBody):
    """A function that the client would run."""

    name: str = Field(pattern="^[a-zA-Z0-9_.-]{1,64}$")
    """1 to 64 letters, digits, '_', '.' and '-'."""
    description: str = ""
    """What the function does, for the model to read."""
    parameters: Schema = {}
    """A JSON schema of the arguments; absent: no arguments."""
    strict: Any = None
    """No effect: the schema is always kept."""


class Tool(SentBody):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function


class FunctionName(SentBody):
    """Which function."""

    name: str


class AllowedTool(SentBody):
    """One of the tools that may be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(SentBody):
    """Which of the tools may be called, and whether one has to be."""

    mode: Literal["auto", "required"]
    tools: list[AllowedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class ToolChoice(SentBody):
    """Whether a function has to be called, and which."""

    type: Literal["auto", "none", "required", "function", "allowed_tools"]
    function: FunctionName | None = None
    """The function of the type function."""
    allowed_tools: AllowedTools | None = None
    """The functions of the type allowed_tools."""

    @model_validator(mode="after")
    def _check_type(self) -> Self:
        for name in ("function", "allowed_tools"):
            if (self.type == name) != (getattr(self, name) is not None):
                raise ValueError(f"'{name}' belongs to the type {name}, which needs it")
        return self


class ToolFields(SentBody):
    """The fields of a conversation that say what may be called."""

    tools: list[Tool] = Field(EMPTY, max_length=MAX_TOOLS)
    """Functions it may call."""
    tool_choice: Annotated[
        ToolChoice | None,
        BeforeValidator(to_tool_choice, json_schema_input_type=ToolMode | ToolChoice),
    ] = Field(None, json_schema_extra=AUTO)
    """auto: text or calls, as the model decides; required, a function: calls; none: text."""
    parallel_tool_calls: bool = True
    """false: at most one call."""
    functions: list[Function] = Field(EMPTY, max_length=MAX_TOOLS)
    """Older tools."""
    function_call: Annotated[
        ToolChoice | None,
        BeforeValidator(_to_older_choice, json_schema_input_type=OlderMode | FunctionName),
    ] = Field(None, json_schema_extra=AUTO)
    """The older form of tool_choice."""


class GenerationFields(SentBody):
    """The fields that both endpoints share and that say how to generate."""

    model: str | None = None
    """A served model's name; absent: the first."""
    max_tokens: int = Field(512, ge=0)
    """Generated tokens at most, clamped to what the context has left."""
    max_completion_tokens: int | None = Field(None, ge=0)
    """Another name for max_tokens; the smaller of the two counts."""
    temperature: float = Field(0.2, ge=0, le=2)
    """Higher is more random, 0 is greedy."""
    do_sample: bool = True
    """false: greedy, as with temperature 0."""
    top_p: float = Field(0.9, ge=0, le=1)
    """Sample from the likeliest that add up to this; 0: greedy."""
    top_k: int = Field(40, ge=-1, lt=2**31)
    """Sample from this many of the likeliest; 0 or -1: all."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Minimum, relative to the likeliest token."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Subtracted from the logits of tokens that the reply has."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Subtracted from a token's logit for each time it has come."""
    repetition_penalty: float = Field(1.1, gt=0, le=10)
    """Divides the logits of tokens that have come; 1.0: off."""
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    """Choices to return for each prompt."""
    best_of: int = Field(0, ge=0, le=MAX_CHOICES)
    """Choices to generate for the n likeliest; 0, 1: n."""
    use_beam_search: bool = False
    """Search num_beams, best_of or n beams."""
    num_beams: int = Field(1, ge=0, le=MAX_BEAMS)
    """Above 1: beam search with this many beams."""
    length_penalty: float = Field(1.0, ge=-10, le=10)
    """Beam search: scores are divided by length to this power."""
    early_stopping: Literal[True, False, "never"] = False
    """End once num_beams beams have finished (true), or a better one is unlikely (false) or impossible."""
    stop: Annotated[
        list[ShortText],
        FailFast(),
        BeforeValidator(_to_strings, json_schema_input_type=ShortText | list[ShortText]),
    ] = Field(EMPTY, max_length=MAX_STOP_STRINGS)
    """A string, or up to 16, that end the reply and are left out."""
    stop_token_ids: Annotated[list[TokenId], FailFast()] = Field(EMPTY, max_length=MAX_TOKENS_NAMED)
    """Token ids at which the reply ends."""
    include_stop_str_in_output: bool = False
    """Keep the stop string."""
    ignore_eos: bool = False
    """Go on after the model's end-of-text token."""
    min_tokens: int = Field(0, ge=0)
    """Generated tokens at least."""
    skip_special_tokens: bool = True
    """Leave control tokens out of the text."""
    spaces_between_special_tokens: bool = True
    """Spaces between control tokens."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63 - MAX_CHOICES)
    """Equal seeds give equal replies."""
    logit_bias: Annotated[
        dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_check_biases)
    ] = Field({}, max_length=MAX_TOKENS_NAMED)
    """Added to the logit of each token id named."""
    bad_words: Annotated[list[ShortText], FailFast()] = Field(EMPTY, max_length=MAX_BAD_WORDS)
    """Words that the reply may not contain."""
    allowed_token_ids: Annotated[list[TokenId], FailFast()] = Field(
        EMPTY, max_length=MAX_TOKENS_ALLOWED
    )
    """The only token ids that are allowed."""
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    """Keep only so many of the prompt's last tokens; -1: what fits."""
    truncation_side: Literal["left", "right"] = "left"
    """The end of the prompt that truncate_prompt_tokens leaves out."""
    return_token_ids: bool = False
    """Return the ids of prompt and reply too."""
    stream: bool = False
    """Server-sent events instead of one body."""
    stream_options: StreamOptions | None = None
    """Only with stream."""
    response_format: ResponseFormat | None = None
    """What the reply is: text, any JSON object, or JSON by a schema."""
    structured_outputs: StructuredOutputs | None = None
    """What the reply must match, in vLLM's words."""


class UnusedFields(SentBody):
    """OpenAI's fields that mean nothing here: they are accepted, and change no answer."""

    user: Any = None
    """No effect."""
    metadata: Any = None
    """No effect."""
    store: Any = None
    """No effect."""
    service_tier: Any = None
    """No effect."""
    safety_identifier: Any = None
    """No effect."""
    prompt_cache_key: Any = None
    """No effect."""
    prompt_cache_options: Any = None
    """No effect."""
    prompt_cache_retention: Any = None
    """No effect."""
    prediction: Any = None
    """No effect."""
    reasoning: Any = None
    """No effect."""
    reasoning_effort: Any = None
    """No effect."""
    verbosity: Any = None
    """No effect."""
    modalities: list[Literal["text"]] = EMPTY
    """What replies are: text."""


class GuidedFields(SentBody):
    """vLLM's former names of `structured_outputs`, which is used instead where both are sent."""

    guided_json: Annotated[Schema | None, BeforeValidator(_to_object)] = None
    """The same as structured_outputs.json."""
    guided_choice: list[ShortText] | None = Field(None, min_length=1, max_length=1000)
    """The same as structured_outputs.choice."""
    guided_regex: str | None = Field(None, max_length=MAX_EXPRESSION)
    """The same as structured_outputs.regex."""
    guided_grammar: str | None = Field(None, max_length=MAX_EXPRESSION)
    """The same as structured_outputs.grammar."""


class RequestFields(GenerationFields, GuidedFields, UnusedFields):
    """All fields that both endpoints share, also those for which the server has no default of its own."""

    cache_salt: ShortText = ""
    """Who shares a prefix cache: equal salts only."""
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    """Lower: earlier; needs --scheduling-policy priority."""


class CompletionRequest(
    RequestFields, json_schema_extra={"example": {"prompt": "告诉我中国的首都在哪里"}}
):
    """The body of `POST /v1/completions`."""

    prompt: Annotated[
        list[str | list[int]], BeforeValidator(_to_prompts, json_schema_input_type=SentPrompt)
    ]
    """One or more strings, or lists of token ids, which are used as they are."""
    raw: bool | None = None
    """true: leave the prompt template out; absent: as --raw-completions says."""
    echo: bool = False
    """Begin the text with the prompt."""
    suffix: str = ""
    """Not supported: 400."""
    logprobs: Annotated[int | None, BeforeValidator(_false_to_none)] = Field(None, ge=0, le=20)
    """Return log-probabilities, also of this many of the likeliest tokens; with echo the prompt's too."""


class ChatMessage(SentBody):
    """One message of a conversation, as text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = ""
    """A string, null, or a list of text parts."""
    refusal: str = ""
    """An assistant's refusal, read like its content."""
    tool_calls: list[Any] = Field(EMPTY, max_length=MAX_TOOLS)
    """Calls it has made."""
    function_call: Any = None
    """An assistant's call in the older form."""
    name: ShortText = ""
    """The speaker, or the function of a result."""
    tool_call_id: str = ""
    """The call that a result belongs to."""

    @model_validator(mode="before")
    @classmethod
    def _require_content(cls, fields: Any) -> Any:
        """Raise unless there is a `content`, which only an assistant's message may lack: else its name is misspelt."""
        role = fields.get("role") if isinstance(fields, dict) else None
        if role in SPEAKING_ROLES and "content" not in fields:
            raise PydanticCustomError("missing", "it is required", {"step": "content"})
        return fields

    @property
    def calls(self) -> list[Any]:
        """The calls that an assistant has made, in the form of tools and in the older one."""
        return [*self.tool_calls, *filter(None, (self.function_call,))]


Messages = Annotated[
    list[ChatMessage],
    FailFast(),
    BeforeValidator(to_user_message, json_schema_input_type=str | list[ChatMessage]),
]


class ChatCompletionRequest(
    ToolFields, RequestFields, json_schema_extra={"example": {"messages": "你好"}}
):
    """The body of `POST /v1/chat/completions`."""

    messages: Messages = Field(min_length=1, max_length=MAX_MESSAGES)
    """Or one string, for one user message. A final assistant message is continued."""
    logprobs: bool = False
    """Return the log-probabilities of the tokens."""
    top_logprobs: int = Field(0, ge=0, le=20)
    """Likeliest tokens to return in each place; only with logprobs."""


Request = CompletionRequest | ChatCompletionRequest


class PromptTokens(BaseModel):
    """Of a prompt's tokens, those that were not computed again."""

    cached_tokens: int


class Usage(BaseModel):
    """Token counts of a reply: the prompt once, the choices summed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens | None = Field(default=None, exclude_if=is_absent)


class Reply(BaseModel, Generic[ChoiceType]):
    """What the whole replies and the chunks of both endpoints have in common."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChoiceType]
    usage: Usage | None = Field(default=None, exclude_if=is_absent)


class Beam(BaseModel):
    """A beam of a search that runs; it is live as long as it has no `finish_reason`."""

    text: str
    score: float
    finish_reason: FinishReason | None


class CompletionLogprobs(BaseModel):
    """Of the tokens of a text, in four lists of one length; the first token of a prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TopLogprob(BaseModel):
    """A token that could have stood here; `bytes` are its part of the text, perhaps a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of the tokens of an answer."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionChoice(BaseModel):
    """One of the n texts of a completion, or a piece of it in a stream."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None
    prompt_token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)
    stop_reason: int | str | None = Field(default=None, exclude_if=is_absent)
    token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)


class Completion(Reply[CompletionChoice]):
    """A completion, or with `choices` in pieces a chunk of one."""

    object: Literal["text_completion"] = "text_completion"
    beams: list[Beam] | None = Field(default=None, exclude_if=is_absent)


class CalledFunction(BaseModel):
    """A function and its arguments, which are JSON; in a stream the arguments come in pieces."""

    name: str | None = Field(default=None, exclude_if=is_absent)
    arguments: str


class ToolCall(BaseModel):
    """A call that the client is asked for; a piece of a stream has its place among the calls too."""

    index: int | None = Field(default=None, exclude_if=is_absent)
    id: str | None = Field(default=None, exclude_if=is_absent)
    type: Literal["function"] | None = Field(default=None, exclude_if=is_absent)
    function: CalledFunction


class AssistantMessage(BaseModel):
    """The assistant's answer: text, calls, or both."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = Field(default=None, exclude_if=is_absent)
    function_call: CalledFunction | None = Field(default=None, exclude_if=is_absent)


class ChatChoice(BaseModel):
    """One of the n answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    stop_reason: int | str | None = Field(default=None, exclude_if=is_absent)
    token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)


class ChatCompletion(Reply[ChatChoice]):
    """The reply of `/v1/chat/completions`."""

    object: Literal["chat.completion"] = "chat.completion"
    usage: Usage
    prompt_token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)


class ChatDelta(BaseModel):
    """A piece of an answer; what it does not add is left out."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=is_absent)
    content: str | None = Field(default=None, exclude_if=is_absent)
    tool_calls: list[ToolCall] | None = Field(default=None, exclude_if=is_absent)
    function_call: CalledFunction | None = Field(default=None, exclude_if=is_absent)


class ChatChunkChoice(BaseModel):
    """A piece of one of the n answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = Field(default=None, exclude_if=is_absent)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = Field(default=None, exclude_if=is_absent)
    token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)


class ChatChunk(Reply[ChatChunkChoice]):
    """One event of a chat stream."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    beams: list[Beam] | None = Field(default=None, exclude_if=is_absent)
    prompt_token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The body of every reply that is not a success, and of a stream's error event."""

    error: ErrorDetail
