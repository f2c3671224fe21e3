"""What a reply must look like, as a grammar for constrained decoding, and whether a reply has kept it.

Grammars are Lark's, in the dialect of llguidance (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md),
because that compiles in milliseconds whatever the schema, has limits, and names what it does not support, where others
leave it out. Knows nothing about requests' way or vLLM, which decodes by the same library.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llguidance
import llguidance.hf
from llguidance.gbnf_to_lark import gbnf_to_lark

from engine.json_schema import to_supported_schema
from errors import APIError, bad_request
from generation import Constraint

JSON_FORM = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}
"""JSON as most texts have it, and no room for a weak model to write spaces for ever."""
MAX_GRAMMAR = 200_000
"""Characters of a whole grammar: below, it is compiled in tenths of a second."""
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
REASON = re.compile(
    r"(?i)unimplemented keys: [^\n]*|min/maxproperties [^\n]*|unsatisfiable schema"
    r"|(look-around|backref)[^\n]*|too (large|many)"
)
"""What of llguidance's messages says nothing of the client's own words."""
OPTIONS = '%llguidance {"no_forcing": true}'
"""Else text that can only go on in one way is tokenised as the tokenizer reads it: `<s>` becomes a control token."""
LARK_TEXTS = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*|#[^\n]*')
"""Strings, regular expressions and comments of a Lark grammar."""
LARK_CONTROL_TOKEN = re.compile(r"<[^<>\s]+>")


def to_grammar(constraint: Constraint, lead: str) -> str:
    """A grammar of answers that keep a constraint, begun with `lead`.

    Raises APIError, though much that is wrong with a constraint only compiling its grammar can tell.
    """
    grammar = f"{OPTIONS}\nstart: {json.dumps(lead)} reply\nreply: {_to_rules(constraint)}"
    if len(grammar) > MAX_GRAMMAR:
        raise _refused(constraint.param, "too large")
    return grammar


def _to_rules(constraint: Constraint) -> str:
    """The right side of the rule `reply`, and the rules that it needs."""
    match constraint.kind:
        case "calls":
            return _calls(constraint.value)
        case "choice":
            return " | ".join(map(json.dumps, constraint.value))
        case "regex":
            return f"/{llguidance.regex_to_lark(constraint.value)}/"
        case "grammar":
            return f"%lark {{\n{_to_lark(constraint.value)}\n}}"
        case "schema":
            return _json(constraint.value)


def _calls(functions: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """A call of one of the functions: what it begins with, its arguments, and a closing brace."""
    calls = [
        f'{json.dumps(head)} arguments_{number} "}}"' for number, (head, _) in enumerate(functions)
    ]
    rules = [
        f"arguments_{number}: {_arguments(schema)}" for number, (_, schema) in enumerate(functions)
    ]
    return "\n".join([" | ".join(calls), *rules])


def _arguments(schema: dict[str, Any]) -> str:
    """Arguments are an object, with none in it if no schema says more."""
    if schema.get("type", "object") != "object":
        raise _refused("tools", "the arguments of a function are an object")
    return _json({"type": "object", **schema} if schema else NO_ARGUMENTS)


def _json(schema: dict[str, Any]) -> str:
    return _json_rule(json.dumps(schema))


@lru_cache(8)  # a request has one schema for all its prompts
def _json_rule(spelt: str) -> str:
    schema = to_supported_schema(json.loads(spelt))
    return f"%json {json.dumps({**schema, 'x-guidance': JSON_FORM})}"


@lru_cache(8)
def _to_lark(grammar: str) -> str:
    """A grammar in GBNF's or Lark's syntax as Lark's; raises APIError for one that has control tokens."""
    if re.search(r"(?m)^[ \t]*[\w-]+[ \t]*::=", grammar):
        try:
            grammar = gbnf_to_lark(grammar)
        except (
            Exception
        ) as failure:  # llguidance's parser raises bare Exceptions, and RecursionError
            raise _refused("structured_outputs", "the grammar is not valid GBNF") from failure
    if LARK_CONTROL_TOKEN.search(LARK_TEXTS.sub("", grammar)):
        raise _refused(
            "structured_outputs", "a grammar cannot have control tokens; text is written in quotes"
        )
    return grammar


class Vocabulary:
    """How a tokenizer's ids are spelt, for reading grammars; takes some tenths of a second to make."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        try:
            # A tokenizer can have control tokens that the model lacks; vLLM counts them too.
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, max(size, len(tokenizer)))
        except (ValueError, TypeError) as failure:
            reason = "This model's tokenizer does not support structured output."
            raise bad_request(reason) from failure

    def checker(self, grammar: str, lead: str, param: str) -> "GrammarChecker":
        """A checker of one reply; raises APIError for what the grammar's own rules and limits refuse."""
        matcher = llguidance.LLMatcher(
            self._tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0
        )
        first = matcher.deep_copy()
        if first.consume_tokens(self._tokenizer.tokenize_str(lead)):
            first.compute_bitmask()
        if first.is_error():
            known = REASON.search(first.get_error())
            raise _refused(param, known[0] if known else "not valid")
        return GrammarChecker(matcher, param)


@dataclass
class GrammarChecker:
    """Checks the tokens of one reply against its grammar, as they come."""

    matcher: llguidance.LLMatcher
    param: str

    def fork(self) -> "GrammarChecker":
        return GrammarChecker(self.matcher.deep_copy(), self.param)

    def check(self, token_ids: Sequence[int], has_ended: bool) -> None:
        """The next tokens, the last of which may be the end of the text; raises APIError where the grammar is broken.

        Decoding gives up, and ends the text, where a step becomes too expensive.
        """
        is_kept = self.matcher.consume_tokens(list(token_ids[: len(token_ids) - has_ended]))
        if not is_kept or (has_ended and not self.matcher.is_accepting()):
            raise self.broken()

    def broken(self) -> APIError:
        return _refused(self.param, "too complex, as the reply showed on the way")


def _refused(param: str, reason: str) -> APIError:
    return bad_request(f"What '{param}' asks for cannot be kept: {reason}.", param)
