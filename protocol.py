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
Batch = Field(min_length=1, max_length=MAX_PROMPTS)
SentStop = ShortText | Annotated[list[ShortText], Field(max_length=MAX_STOP_STRINGS)]
SentPrompt = (
    str | list[TokenId] | Annotated[list[str], Batch] | Annotated[list[list[TokenId]], Batch]
)
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
    """`true`: one more chunk at the end, without choices, has the `usage` of the whole reply, in tokens."""
    continuous_usage_stats: bool = False
    """`true`: each chunk has the `usage` so far, in tokens."""
    include_beams: bool = False
    """`true`: while a beam search of one prompt runs, further chunks, without choices, show its `beams`, at most 8
    times a second. No effect without beams, or with several prompts."""
    include_obfuscation: Any = None
    """Accepted without effect: events are never padded to hide their length."""


class JSONSchema(SentBody):
    """A JSON schema that the reply keeps."""

    schema_: Schema = Field(alias="schema")
    """The JSON schema itself, as JSON at most 64 KiB; objects have only the properties that it names, unless it allows
    others."""
    name: Any = None
    """Accepted without effect: the model is not shown the schema's name."""
    description: Any = None
    """Accepted without effect: the model is not shown it."""
    strict: Any = None
    """Accepted without effect: a schema is always kept."""


class ResponseFormat(SentBody):
    """What the reply is: any text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    """`text`: anything; `json_object`: any JSON object; `json_schema`: JSON that a schema allows."""
    json_schema: JSONSchema | None = None
    """The schema, in OpenAI's form; only for the type `json_schema`."""
    schema_: Schema | None = Field(None, alias="schema")
    """The schema, in the form of llama.cpp's server, beside `type`: for `json_object` too. At most 64 KiB as JSON."""

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
    """JSON that this schema allows; an object, or a string of JSON, of at most 64 KiB."""
    json_object: Literal[True] | None = None
    """`true`: any JSON object."""
    choice: list[ShortText] | None = Field(None, min_length=1, max_length=1000)
    """One of these texts: 1 to 1,000, of up to 1,024 characters each."""
    regex: str | None = Field(None, max_length=MAX_EXPRESSION)
    """A text that this regular expression matches as a whole; without look-around, up to 16,384 characters."""
    grammar: str | None = Field(None, max_length=MAX_EXPRESSION)
    """A text of this grammar, in Lark's syntax or as GBNF, up to 16,384 characters."""

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
    """The name by which it is called: 1 to 64 letters, digits, '_', '.' and '-'."""
    description: str = ""
    """What the function does, and when to call it, for the model to read; absent: nothing is said."""
    parameters: Schema = {}
    """A JSON schema of its arguments, as JSON at most 64 KiB, which calls always keep; absent: it has no arguments."""
    strict: Any = None
    """Accepted without effect: the schema of the arguments is always kept."""


class Tool(SentBody):
    """A tool that the model may use."""

    type: Literal["function"]
    """Always `function`: the one kind of tool there is here."""
    function: Function
    """The function that the client would run."""


class FunctionName(SentBody):
    """Which function."""

    name: str
    """The function's name, one of those that were sent."""


class AllowedTool(SentBody):
    """One of the tools that may be called."""

    type: Literal["function"]
    """Always `function`."""
    function: FunctionName
    """The function, by its name."""


class AllowedTools(SentBody):
    """Which of the tools may be called, and whether one has to be."""

    mode: Literal["auto", "required"]
    """`auto`: the model decides between text and calls; `required`: it has to call."""
    tools: list[AllowedTool] = Field(min_length=1, max_length=MAX_TOOLS)
    """The functions that may be called, 1 to 128; all are among the `tools`."""


class ToolChoice(SentBody):
    """Whether a function has to be called, and which."""

    type: Literal["auto", "none", "required", "function", "allowed_tools"]
    """`auto`: text or calls, as the model decides; `none`: text; `required`: one or more calls; `function`: one call of
    that function; `allowed_tools`: only some of the functions."""
    function: FunctionName | None = None
    """The function that has to be called; only for the type `function`."""
    allowed_tools: AllowedTools | None = None
    """The functions that may be called; only for the type `allowed_tools`."""

    @model_validator(mode="after")
    def _check_type(self) -> Self:
        for name in ("function", "allowed_tools"):
            if (self.type == name) != (getattr(self, name) is not None):
                raise ValueError(f"'{name}' belongs to the type {name}, which needs it")
        return self


class ToolFields(SentBody):
    """The fields of a conversation that say what may be called."""

    tools: list[Tool] = Field(EMPTY, max_length=MAX_TOOLS)
    """Functions that the answer may call, up to 128; absent: it is text. The client runs them, and sends their results
    as messages."""
    tool_choice: Annotated[
        ToolChoice | None,
        BeforeValidator(to_tool_choice, json_schema_input_type=ToolMode | ToolChoice),
    ] = Field(None, json_schema_extra=AUTO)
    """`auto`: text or calls, as the model decides; `none`: text; `required`: one or more calls; or an object that names
    a function to call, or those that may be called. Arguments always keep the function's schema."""
    parallel_tool_calls: bool = True
    """`true`: an answer may have several calls; `false`: one at most."""
    functions: list[Function] = Field(EMPTY, max_length=MAX_TOOLS)
    """OpenAI's older form of `tools`, up to 128, for one call, which comes as `function_call`. No effect beside
    `tools`."""
    function_call: Annotated[
        ToolChoice | None,
        BeforeValidator(_to_older_choice, json_schema_input_type=OlderMode | FunctionName),
    ] = Field(None, json_schema_extra=AUTO)
    """OpenAI's older form of `tool_choice`: `auto`, `none`, or the name of a function that has to be called."""


class GenerationFields(SentBody):
    """The fields that both endpoints share and that say how to generate."""

    model: str | None = None
    """Name of the model that answers, one of those of `/v1/models`; absent: the first. An unknown one is a 404."""
    max_tokens: int = Field(512, ge=0)
    """Tokens to generate at most, for each choice; fewer where the context has less room after the prompt. 0 generates
    nothing."""
    max_completion_tokens: int | None = Field(None, ge=0)
    """Another name of `max_tokens`, OpenAI's newer one. Where both are sent, the smaller counts; absent: `max_tokens`
    alone."""
    temperature: float = Field(0.2, ge=0, le=2)
    """How random the reply is, 0 to 2: logits are divided by it before a token is sampled. Lower is steadier, higher
    more varied; 1 leaves the model's probabilities as they are; 0 is greedy: the likeliest token each time. Between 0
    and 0.01 it counts as 0.01. No effect with beams."""
    do_sample: bool = True
    """`false` is greedy, the same as `temperature` 0: the likeliest token each time. `true` changes nothing."""
    top_p: float = Field(0.9, ge=0, le=1)
    """A probability, 0 to 1: tokens are sampled from as few of the likeliest as add up to it. Lower is steadier; 1
    keeps all tokens; 0 is greedy: the likeliest token each time. No effect with `temperature` 0 or with beams."""
    top_k: int = Field(40, ge=-1, lt=2**31)
    """A number of tokens: each is sampled from so many of the likeliest. Lower is steadier; 0 or -1: from all. No
    effect with `temperature` 0 or with beams."""
    min_p: float = Field(0.0, ge=0, le=1)
    """A share, 0 to 1: tokens less probable than this share of the likeliest token's probability are not sampled. 0
    keeps all. No effect with `temperature` 0 or with beams."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """-2 to 2, subtracted once from the logit of each token that the reply already has; the prompt does not count.
    Above 0 the reply repeats itself less, below 0 more; 0: off. With beams any other than 0 is a 400."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """-2 to 2, subtracted from a token's logit for each time that the reply already has it; the prompt does not count.
    Above 0 the reply repeats itself less, below 0 more; 0: off. With beams any other than 0 is a 400."""
    repetition_penalty: float = Field(1.1, gt=0, le=10)
    """Above 0, up to 10: of each token that prompt or reply already has, a positive logit is divided by it and a
    negative one multiplied. Above 1 they come again less, below 1 more; 1: off, which is the default with beams, and
    beside functions that may be called. With beams it multiplies log-probabilities, and must be at least 1."""
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    """Choices to return for each prompt, 1 to 128. They are sampled one by one, and all equal with `temperature` 0;
    with beams they are the beams of the highest scores, best first."""
    best_of: int = Field(0, ge=0, le=MAX_CHOICES)
    """Choices to generate, 0 to 128, of which the `n` of the highest sum of log-probabilities are returned; a stream
    sends them whole, at the end. At least `n`; 0 or 1: `n`, as if it were absent. With `use_beam_search` it is the
    number of beams, unless `num_beams` is above 1. No effect with `temperature` 0."""
    use_beam_search: bool = False
    """`true`: beam search in place of sampling, with `num_beams` beams if that is above 1, else `best_of`, else `n`."""
    num_beams: int = Field(1, ge=0, le=MAX_BEAMS)
    """Texts that a beam search keeps at each step, 0 to 16; the `n` of the highest scores are returned. Above 1 it
    turns beam search on; 0 and 1 do not."""
    length_penalty: float = Field(1.0, ge=-10, le=10)
    """-10 to 10, with beams only: the score of a beam is the sum of its tokens' log-probabilities, divided by their
    number to this power. Above 0 favours longer replies, below 0 shorter ones; 0: the sum counts as it is."""
    early_stopping: Literal[True, False, "never"] = False
    """With beams only: when the search is over. `true`: once as many beams as it keeps have finished; `false`: once,
    besides, the best live beam scores no better than the last of these; `never`: once no live beam can still get a
    better score."""
    stop: Annotated[
        list[ShortText], FailFast(), BeforeValidator(_to_strings, json_schema_input_type=SentStop)
    ] = Field(EMPTY, max_length=MAX_STOP_STRINGS)
    """A text, or up to 16, of up to 1,024 characters each, that ends the reply where it appears, and is left out of it
    unless `include_stop_str_in_output` is `true`. An empty one is none."""
    stop_token_ids: Annotated[list[TokenId], FailFast()] = Field(EMPTY, max_length=MAX_TOKENS_NAMED)
    """Token ids, up to 1,024, each of which ends the reply. Their text is left out of it unless
    `include_stop_str_in_output` is `true`. An id outside the vocabulary: 400."""
    include_stop_str_in_output: bool = False
    """`true`: the reply keeps the text of what ended it, of `stop` or `stop_token_ids`; `false`: it is left out."""
    ignore_eos: bool = False
    """`true`: go on after the model's end-of-text token, up to `max_tokens` or a stop. Not with structured output, nor
    beside functions that may be called: 400."""
    min_tokens: int = Field(0, ge=0)
    """Tokens to generate at least: before, neither the model's end of text nor a stop ends the reply. 0: off. Above
    `max_tokens`: 400. Not with structured output, nor beside functions that may be called: 400."""
    skip_special_tokens: bool = True
    """`true`: control tokens such as `</s>` are left out of the text; `false`: they are spelt out."""
    spaces_between_special_tokens: bool = True
    """`true`: spaces between control tokens, where `skip_special_tokens` is `false`."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63 - MAX_CHOICES)
    """A whole number: the same request with the same seed gets the same reply. Absent: each reply is sampled anew. No
    effect with `temperature` 0 or with beams."""
    logit_bias: Annotated[
        dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_check_biases)
    ] = Field(default_factory=dict, json_schema_extra={"default": {}}, max_length=MAX_TOKENS_NAMED)
    """Token ids, up to 1,024, each with -100 to 100 to add to its logit: -100 all but bars a token, 100 all but forces
    it. With beams none may be above 0. An id outside the vocabulary: 400."""
    bad_words: Annotated[list[ShortText], FailFast()] = Field(EMPTY, max_length=MAX_BAD_WORDS)
    """Texts that the reply will not have, up to 64, of up to 1,024 characters each, by the token ids in which the model
    writes them. An empty one is a 400. Not with beams, structured output, nor beside functions that may be called:
    400."""
    allowed_token_ids: Annotated[list[TokenId], FailFast()] = Field(
        EMPTY, max_length=MAX_TOKENS_ALLOWED
    )
    """The only token ids that may be generated, up to 65,536; absent: all; an empty list is a 400. Not with beams,
    structured output, nor beside functions that may be called: 400."""
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    """Tokens of the prompt that are kept, its last ones, template and all; -1: as many as leave room for one more in
    the context. 0, or more than that: 400. Absent: all, and a prompt that is too long is a 400."""
    truncation_side: Literal["left", "right"] = "left"
    """Which end of the prompt `truncate_prompt_tokens` leaves out: `left` its beginning, `right` its end."""
    return_token_ids: bool = False
    """`true`: return token ids too, `token_ids` of each choice and `prompt_token_ids` of its prompt."""
    stream: bool = False
    """`true`: the reply comes piece by piece, as server-sent events; `false`: as one body, when it is whole."""
    stream_options: StreamOptions | None = None
    """What a stream carries besides text; without `stream`: 400."""
    response_format: ResponseFormat | None = None
    """What the reply is: any text, any JSON object, or JSON by a schema; absent: any text. It is kept unless
    `max_tokens` or a stop ends the reply first. Not with beams: 400."""
    structured_outputs: StructuredOutputs | None = None
    """What the reply is, in vLLM's form: one of `json`, `json_object`, `choice`, `regex` and `grammar`; absent: any
    text. It is kept unless `max_tokens` or a stop ends the reply first. Not with beams: 400."""


class UnusedFields(SentBody):
    """OpenAI's fields that mean nothing here: they are accepted, and change no answer."""

    user: Any = None
    """Accepted without effect: users are not told apart."""
    metadata: Any = None
    """Accepted without effect: nothing is stored."""
    store: Any = None
    """Accepted without effect: nothing is stored."""
    service_tier: Any = None
    """Accepted without effect: there is one tier."""
    safety_identifier: Any = None
    """Accepted without effect: users are not told apart."""
    prompt_cache_key: Any = None
    """Accepted without effect: cached prompts are found by their tokens."""
    prompt_cache_options: Any = None
    """Accepted without effect: cached prompts are found by their tokens."""
    prompt_cache_retention: Any = None
    """Accepted without effect: prompts are cached as long as there is room."""
    prediction: Any = None
    """Accepted without effect: the reply is generated whatever it is expected to be."""
    reasoning: Any = None
    """Accepted without effect: the models served here do not reason apart from their answer."""
    reasoning_effort: Any = None
    """Accepted without effect: the models served here do not reason apart from their answer."""
    verbosity: Any = None
    """Accepted without effect: say in the prompt how long the answer shall be."""
    modalities: list[Literal["text"]] = EMPTY
    """What replies are: `["text"]`; anything else is a 400."""


class GuidedFields(SentBody):
    """vLLM's former names of `structured_outputs`, which is used instead where both are sent."""

    guided_json: Annotated[Schema | None, BeforeValidator(_to_object)] = None
    """vLLM's former name of `structured_outputs.json`; one of these names at most, and no effect beside
    `structured_outputs`."""
    guided_choice: list[ShortText] | None = Field(None, min_length=1, max_length=1000)
    """vLLM's former name of `structured_outputs.choice`: 1 to 1,000 texts of up to 1,024 characters; no effect beside
    `structured_outputs`."""
    guided_regex: str | None = Field(None, max_length=MAX_EXPRESSION)
    """vLLM's former name of `structured_outputs.regex`: up to 16,384 characters; no effect beside
    `structured_outputs`."""
    guided_grammar: str | None = Field(None, max_length=MAX_EXPRESSION)
    """vLLM's former name of `structured_outputs.grammar`: up to 16,384 characters; no effect beside
    `structured_outputs`."""


class RequestFields(GenerationFields, GuidedFields, UnusedFields):
    """All fields that both endpoints share, also those for which the server has no default of its own."""

    cache_salt: ShortText = ""
    """A text of up to 1,024 characters: cached prefixes of prompts are shared only by requests with equal salts, so
    that tenants with different ones cannot learn of each other's prompts. Empty: shared by all that have none."""
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    """Of waiting requests, those with a lower number come first, if the server has `--scheduling-policy priority`; else
    any other than 0 is a 400."""


class CompletionRequest(
    RequestFields, json_schema_extra={"example": {"prompt": "告诉我中国的首都在哪里"}}
):
    """The body of `POST /v1/completions`."""

    prompt: Annotated[
        list[str | list[int]], BeforeValidator(_to_prompts, json_schema_input_type=SentPrompt)
    ]
    """A text, a list of token ids, or a list of up to 2,048 of either, each of which gets `n` choices. A text is put
    into the prompt template unless `raw` says otherwise; token ids are used as they are."""
    raw: bool | None = None
    """`true`: leave the prompt template out; `false`: put each text into it; absent: as `--raw-completions` says. Token
    ids are raw always."""
    echo: bool = False
    """`true`: the text of each choice begins with its prompt: with the client's own text, or, if there are `logprobs`,
    with all that the model read, template included."""
    suffix: str = ""
    """Not supported: any text but an empty one is a 400."""
    logprobs: Annotated[int | None, BeforeValidator(_false_to_none)] = Field(None, ge=0, le=20)
    """0 to 20: return the log-probability of each token, and of so many of the likeliest in its place; with `echo` the
    prompt's too. They are natural logarithms of the model's own probabilities, before `temperature` and penalties.
    Absent or `false`: none."""


class ChatMessage(SentBody):
    """One message of a conversation, as text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    """Who speaks. `developer` is the same as `system`; messages of `tool` and `function` are results of calls."""
    content: Content = ""
    """What is said: a text, `null`, or a list of text parts, which are joined by line breaks. Only an assistant's
    message may lack it."""
    refusal: str = ""
    """An assistant's refusal, read like its `content`, after it."""
    tool_calls: list[Any] = Field(EMPTY, max_length=MAX_TOOLS)
    """Calls that the assistant has made, up to 128."""
    function_call: Any = None
    """The call that the assistant has made, in OpenAI's older form."""
    name: ShortText = ""
    """The speaker, up to 1,024 characters, shown to the model where two or more speak in one role; of a result its
    function."""
    tool_call_id: str = ""
    """Of a result: the id of the call that it belongs to."""

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


SentMessages = str | Annotated[list[ChatMessage], Field(max_length=MAX_MESSAGES)]
Messages = Annotated[
    list[ChatMessage],
    FailFast(),
    BeforeValidator(to_user_message, json_schema_input_type=SentMessages),
]


class ChatCompletionRequest(
    ToolFields, RequestFields, json_schema_extra={"example": {"messages": "你好"}}
):
    """The body of `POST /v1/chat/completions`."""

    messages: Messages = Field(min_length=1, max_length=MAX_MESSAGES)
    """The conversation, up to 4,096 messages and at least one, or one string, for one message of the user. System
    messages are joined, neighbours of one role merged; a final message of the assistant is continued."""
    logprobs: bool = False
    """`true`: return the log-probability of each token of the answer: the natural logarithm of the model's own
    probability, before `temperature` and penalties."""
    top_logprobs: int = Field(0, ge=0, le=20)
    """Likeliest tokens to return in each place, 0 to 20, with their log-probabilities; above 0 only with `logprobs`."""


Request = CompletionRequest | ChatCompletionRequest


class ReplyPart(BaseModel, use_attribute_docstrings=True):
    """A reply, or a part of one: `/docs` shows the docstrings of its fields."""


class PromptTokens(ReplyPart):
    """Of a prompt's tokens, those that were not computed again."""

    cached_tokens: int
    """Tokens of the prompt that came from the prefix cache."""


class Usage(ReplyPart):
    """Token counts of a reply: the prompt once, the choices summed."""

    prompt_tokens: int
    """Tokens of all prompts, each counted once, template included."""
    completion_tokens: int
    """Tokens that were generated, of all choices that are returned."""
    total_tokens: int
    """The sum of both."""
    prompt_tokens_details: PromptTokens | None = Field(default=None, exclude_if=is_absent)
    """Left out where no token came from the cache."""


class Reply(ReplyPart, Generic[ChoiceType]):
    """What the whole replies and the chunks of both endpoints have in common."""

    id: str
    """An id of its own, the same in all chunks of a stream."""
    object: str
    """What this is."""
    created: int
    """When the request was accepted, in seconds since 1970 (Unix time)."""
    model: str
    """The model that answers, by the name that it was asked for by."""
    choices: list[ChoiceType]
    """The choices; choice j of prompt i has the `index` i * n + j."""
    usage: Usage | None = Field(default=None, exclude_if=is_absent)
    """Token counts; in a stream only where `stream_options` ask for them."""


class Beam(ReplyPart):
    """A beam of a search that runs; it is live as long as it has no `finish_reason`."""

    text: str
    """All of its text so far."""
    score: float
    """The sum of its tokens' log-probabilities, divided by their number to the power of `length_penalty`."""
    finish_reason: FinishReason | None
    """Why it has finished; `null`: it is live."""


class CompletionLogprobs(ReplyPart):
    """Of the tokens of a text, in four lists of one length; the first token of a prompt has none."""

    tokens: list[str]
    """The text of each token; a part of a character is named by its bytes (`bytes:\\xe5`)."""
    token_logprobs: list[float | None]
    """The log-probability of each token (a natural logarithm); `null` for the first of a prompt."""
    top_logprobs: list[dict[str, float] | None]
    """In each place the log-probabilities of the likeliest tokens, and of the token itself."""
    text_offset: list[int]
    """Where each token begins in the text, in characters."""


class TopLogprob(ReplyPart):
    """A token that could have stood here; `bytes` are its part of the text, perhaps a part of a character."""

    token: str
    """The text of the token."""
    logprob: float
    """Its log-probability (a natural logarithm); -9999 stands for minus infinity."""
    bytes: list[int]
    """Its part of the text in UTF-8, each byte as a number."""


class ChatTokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest in its place."""

    top_logprobs: list[TopLogprob]
    """The likeliest tokens in its place, the likeliest first."""


class ChatLogprobs(ReplyPart):
    """Of the tokens of an answer."""

    content: list[ChatTokenLogprob]
    """The tokens of the text, in their order."""
    refusal: None = None
    """Always `null`: refusals are text here."""


class CompletionChoice(ReplyPart):
    """One of the n texts of a completion, or a piece of it in a stream."""

    index: int
    """Its place among the choices of all prompts, from 0."""
    text: str
    """The text, or in a stream the next piece of it."""
    logprobs: CompletionLogprobs | None = None
    """The log-probabilities, where they were asked for."""
    finish_reason: FinishReason | None
    """`stop`: the model's own end, or a stop; `length`: `max_tokens`, or the end of the context. In a stream `null`
    until then."""
    prompt_token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)
    """The token ids of its prompt, with `return_token_ids`."""
    stop_reason: int | str | None = Field(default=None, exclude_if=is_absent)
    """The stop text or token id that ended it; left out at the model's own end."""
    token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)
    """Its own token ids, with `return_token_ids`."""


class Completion(Reply[CompletionChoice]):
    """A completion, or with `choices` in pieces a chunk of one."""

    object: Literal["text_completion"] = "text_completion"
    """Always `text_completion`, in a stream too."""
    beams: list[Beam] | None = Field(default=None, exclude_if=is_absent)
    """The beams of a search that runs, with `include_beams`; such a chunk has no choices."""


class CalledFunction(ReplyPart):
    """A function and its arguments, which are JSON; in a stream the arguments come in pieces."""

    name: str | None = Field(default=None, exclude_if=is_absent)
    """The name of the function; in a stream with the first piece only."""
    arguments: str
    """The arguments as JSON, or in a stream the next piece of them."""


class ToolCall(ReplyPart):
    """A call that the client is asked for; a piece of a stream has its place among the calls too."""

    index: int | None = Field(default=None, exclude_if=is_absent)
    """In a stream: its place among the calls of the choice, from 0."""
    id: str | None = Field(default=None, exclude_if=is_absent)
    """An id that the result of the call has to name."""
    type: Literal["function"] | None = Field(default=None, exclude_if=is_absent)
    """Always `function`."""
    function: CalledFunction
    """The function that is called, and its arguments."""


class AssistantMessage(ReplyPart):
    """The assistant's answer: text, calls, or both."""

    role: Literal["assistant"] = "assistant"
    """Always `assistant`."""
    content: str | None
    """The text; `null` where there are calls alone."""
    refusal: None = None
    """Always `null`: refusals are text here."""
    tool_calls: list[ToolCall] | None = Field(default=None, exclude_if=is_absent)
    """The calls that the client is asked for."""
    function_call: CalledFunction | None = Field(default=None, exclude_if=is_absent)
    """The call that the client is asked for, where the request has `functions`."""


class ChatChoice(ReplyPart):
    """One of the n answers."""

    index: int
    """Its place among the choices, from 0."""
    message: AssistantMessage
    """The assistant's answer."""
    logprobs: ChatLogprobs | None = None
    """The log-probabilities, where they were asked for."""
    finish_reason: FinishReason
    """`stop`: the model's own end, or a stop; `length`: `max_tokens`, or the end of the context; `tool_calls`,
    `function_call`: calls."""
    stop_reason: int | str | None = Field(default=None, exclude_if=is_absent)
    """The stop text or token id that ended it; left out at the model's own end."""
    token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)
    """Its token ids, with `return_token_ids`."""


class ChatCompletion(Reply[ChatChoice]):
    """The reply of `/v1/chat/completions`."""

    object: Literal["chat.completion"] = "chat.completion"
    """Always `chat.completion`."""
    usage: Usage
    """Token counts of the whole reply."""
    prompt_token_ids: list[int] | None = Field(default=None, exclude_if=is_absent)
    """The token ids of the prompt, with `return_token_ids`."""


class ChatDelta(ReplyPart):
    """A piece of an answer; what it does not add is left out."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=is_absent)
    content: str | None = Field(default=None, exclude_if=is_absent)
    tool_calls: list[ToolCall] | None = Field(default=None, exclude_if=is_absent)
    function_call: CalledFunction | None = Field(default=None, exclude_if=is_absent)


class ChatChunkChoice(ReplyPart):
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


class ErrorDetail(ReplyPart):
    """What went wrong."""

    message: str
    """What went wrong, and what to do, in a sentence or two."""
    type: Literal["invalid_request_error", "server_error"]
    """`invalid_request_error` below the status 500, `server_error` from there on."""
    param: str | None
    """The field that is wrong, with its path, such as `messages[2].content`."""
    code: str | None
    """A name for the failures that programs may want to know, such as `context_length_exceeded`."""


class ErrorReply(ReplyPart):
    """The body of every reply that is not a success, and of a stream's error event."""

    error: ErrorDetail
    """The failure; a reply that is not a success has nothing else."""
