"""A constraint -> a grammar for constrained decoding, and a check that a reply keeps it.

Grammars are Lark's, in the dialect of llguidance (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
vLLM decodes with the same library (its backend "guidance"), chosen because it compiles any schema in milliseconds, has
limits, and names the JSON Schema keywords that it does not support, where other backends ignore them. Knows nothing
about HTTP and vLLM.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llguidance
import llguidance.hf
from llguidance.gbnf_to_lark import gbnf_to_lark

from engine.json_schema import to_supported_schema
from errors import APIError, bad_request
from generation import Calls, Constraint

JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}
"""llguidance's `x-guidance`: whitespace as `json.dumps` has it, since a weak model may write spaces for ever.

`oneOf` is read as `anyOf`, which llguidance supports.
"""
MAX_GRAMMAR_LENGTH = 200_000
"""Characters of a whole grammar; shorter ones compile in tenths of a second."""
CACHED_GRAMMARS = 16
"""Compiled grammars that are kept, the last ones used: a large one takes some megabytes."""
NO_ARGUMENTS_SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
REPORTED_ERROR = re.compile(
    r"(?i)unimplemented keys: [^\n]*|min/maxproperties [^\n]*|unsatisfiable schema"
    r"|(look-around|backref)[^\n]*|too (large|many)"
)
"""The parts of llguidance's error messages that name a cause and are shown to clients; the rest quotes the grammar."""
LLGUIDANCE_OPTIONS = '%llguidance {"no_forcing": true}'
"""Otherwise text that the grammar forces is tokenized by the tokenizer, which reads `<s>` as a control token."""
LARK_LITERALS = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*|#[^\n]*')
"""Strings, regular expressions and comments of a Lark grammar."""
LARK_CONTROL_TOKEN = re.compile(r"<[^<>\s]+>")
JSON_TOKENS = re.compile(r'"[^"]*"|[{}\[\]]|[^"{}\[\]]+')
"""Of a text that begins before or within JSON."""
GBNF_RULE = re.compile(r"(?m)^[ \t]*[\w-]+[ \t]*::=")


def to_grammar(constraint: Constraint | None, calls: Calls | None, answer_lead: str) -> str | None:
    """Write the grammar of the answers that keep a constraint or have calls, after the `answer_lead`.

    None: they are any text. The model generates the lead first. Raises APIError (400) for what is wrong at first sight;
    `GrammarCompiler.compile` finds the rest.
    """
    lead = json.dumps(answer_lead)
    if calls is not None:
        param, reply = calls.param, _call_rules(calls, constraint)
    elif constraint is not None:
        param, reply = constraint.param, _reply_rules(constraint)
    else:
        return None
    grammar = f"{LLGUIDANCE_OPTIONS}\nstart: {lead} reply\nreply: {reply}"
    if len(grammar) > MAX_GRAMMAR_LENGTH:
        raise _refused(param, "too large")
    return grammar


def _reply_rules(constraint: Constraint) -> str:
    """Write the right side of the rule `reply`."""
    match constraint.kind:
        case "choice":
            return " | ".join(json.dumps(text) for text in constraint.value)
        case "regex":
            return f"/{llguidance.regex_to_lark(constraint.value)}/"
        case "grammar":
            return f"%lark {{\n{_to_lark(constraint.value, constraint.param)}\n}}"
        case "schema":
            return _json_rule(constraint.value)


def _call_rules(calls: Calls, otherwise: Constraint | None) -> str:
    """Write the rule `reply` for an answer with calls, or unless they are required one without, and the rules it needs.

    Free text becomes a call as soon as it has the format's `mark`: a lazy lexeme ends there.
    """
    written = calls.format
    arguments = [_arguments_rule(each["parameters"], calls.param) for each in calls.functions]
    rules = [f"arguments_{number}: {rule}" for number, rule in enumerate(arguments)]
    rules.append(_call_rule("call", written.begin, calls))
    more = ""
    if written.separator is not None and not calls.is_single:
        more = f" ({json.dumps(written.separator)} call)*"
    if otherwise is not None:
        answers = f"call{more} | otherwise"
        rules.append(f"otherwise: {_reply_rules(otherwise)}")
    elif calls.is_required:
        answers = f"call{more}"
    else:
        answers = f"begun rest{more} | TEXT"
        before = r"/(?s:.*\n)?/" if written.begins_line else "TEXT"
        rules.append(f"begun[lazy]: {before} {json.dumps(written.mark)}")
        rules.append("TEXT: /(?s:.*)/")
        rules.append(_call_rule("rest", written.begin.removeprefix(written.mark), calls))
    return "\n".join([answers, *rules])


def _call_rule(name: str, begin: str, calls: Calls) -> str:
    """Write the rule of a call that begins with `begin`.

    What stands around its arguments is cut into the tokens of JSON: llguidance's lexer takes the longest lexeme, and
    would never see that the text may still become another JSON object.
    """
    alternatives = []
    for number, function in enumerate(calls.functions):
        head = f"{begin}{function['name']}{calls.format.middle}"
        tokens = " ".join(json.dumps(token) for token in JSON_TOKENS.findall(head))
        alternatives.append(f"{tokens} arguments_{number}")
    return f"{name}: ({' | '.join(alternatives)}) {json.dumps(calls.format.end)}"


def _arguments_rule(schema: Mapping[str, Any], param: str) -> str:
    """Write the rule of a function's arguments: an object, which is empty if the function has no schema."""
    if schema.get("type", "object") != "object":
        raise _refused(param, "the arguments of a function are an object")
    if not schema:
        return _json_rule(NO_ARGUMENTS_SCHEMA)
    return _json_rule({"type": "object", **schema})


def _json_rule(schema: dict[str, Any]) -> str:
    return _cached_json_rule(json.dumps(schema))


# The prompts of one request have the same schema.
@lru_cache(8)
def _cached_json_rule(schema_json: str) -> str:
    schema = to_supported_schema(json.loads(schema_json))
    return f"%json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}"


@lru_cache(8)
def _to_lark(grammar: str, param: str) -> str:
    """Translate a grammar in GBNF to Lark, and leave one in Lark as it is, such as any with llguidance's options.

    Options do no harm within `%lark { … }`: that nothing is forced holds if any part of a grammar says it.

    Raises APIError (400) for GBNF that is not valid, and for control tokens, which no client may have the model write.
    """
    if GBNF_RULE.search(grammar) and not grammar.lstrip().startswith("%llguidance"):
        try:
            grammar = gbnf_to_lark(grammar)
        # llguidance's parser raises bare Exceptions, and RecursionError.
        except Exception as failure:
            raise _refused(param, "the grammar is not valid GBNF") from failure
    if LARK_CONTROL_TOKEN.search(LARK_LITERALS.sub("", grammar)):
        reason = "a grammar cannot have control tokens; text is written in quotes"
        raise _refused(param, reason)
    return grammar


class GrammarCompiler:
    """Compiles grammars for one tokenizer; takes some tenths of a second to make.

    `vocabulary_size` is the model's. Raises APIError (400) for a tokenizer that llguidance cannot read.
    """

    def __init__(self, tokenizer: Any, vocabulary_size: int) -> None:
        try:
            # A tokenizer can have control tokens that the model lacks; vLLM counts them too.
            size = max(vocabulary_size, len(tokenizer))
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, size)
        except (ValueError, TypeError) as failure:
            reason = "This model's tokenizer does not support structured output."
            raise bad_request(reason) from failure
        # Clients send the same schema again and again.
        self._compiled = lru_cache(CACHED_GRAMMARS)(self._compile)

    def compile(self, grammar: str, answer_lead: str, param: str) -> "GrammarChecker":
        """Compile a grammar of `to_grammar` for one reply.

        Raises APIError (400), with `param` as the request field, for what is not valid or beyond llguidance's limits.
        """
        try:
            matcher = self._compiled(grammar, answer_lead)
        except ValueError as failure:
            reported = REPORTED_ERROR.search(str(failure))
            raise _refused(param, reported[0] if reported else "not valid") from failure
        return GrammarChecker(matcher.deep_copy(), param)

    def _compile(self, grammar: str, answer_lead: str) -> llguidance.LLMatcher:
        """Compile a grammar; raises ValueError with llguidance's own message."""
        matcher = llguidance.LLMatcher(
            self._tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0
        )
        # Some errors, such as of limits, show only when the tokens after the lead are computed.
        trial = matcher.deep_copy()
        if trial.consume_tokens(self._tokenizer.tokenize_str(answer_lead)):
            trial.compute_bitmask()
        if trial.is_error():
            raise ValueError(trial.get_error())
        return matcher


@dataclass
class GrammarChecker:
    """Checks the tokens of one reply against its grammar, as they come.

    Constrained decoding itself would be enough, but vLLM ends a reply early, as if it were whole, where a step exceeds
    llguidance's limits.
    """

    matcher: llguidance.LLMatcher
    param: str
    """The request field that asks for the grammar."""

    def fork(self) -> "GrammarChecker":
        """Copy the checker, for another reply that begins alike."""
        return GrammarChecker(self.matcher.deep_copy(), self.param)

    def check(self, token_ids: Sequence[int], has_ended: bool) -> None:
        """Check the next tokens; raises APIError (400) where they break the grammar or end it too early.

        If the reply `has_ended`, the last of them is the model's end of text.
        """
        text_ids = list(token_ids[:-1] if has_ended else token_ids)
        is_kept = self.matcher.consume_tokens(text_ids)
        if has_ended:
            is_kept = is_kept and self.matcher.is_accepting()
        if not is_kept:
            raise self.to_error()

    def to_error(self) -> APIError:
        """Return the error (400) of a reply that has not kept its grammar."""
        return _refused(self.param, "too complex, as the reply showed on the way")


def _refused(param: str, reason: str) -> APIError:
    return bad_request(f"What '{param}' asks for cannot be kept: {reason}.", param)
