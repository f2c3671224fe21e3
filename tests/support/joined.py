"""What a client has of a stream in the end, in one form with what it has of the plain reply."""

from copy import deepcopy
from typing import Any

from tests.support.bodies import CHAT, COMPLETIONS

LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
"""Of the log-probabilities of a completion."""
ADDING = ("content_part.added", "output_text.delta", "function_call_arguments.delta")


def of_reply(path: str, reply: dict[str, Any]) -> Any:
    """What the plain reply of a path says, without what is each time another."""
    if path == COMPLETIONS:
        return {choice["index"]: _add_text(_no_text(), choice) for choice in reply["choices"]}
    if path == CHAT:
        return {choice["index"]: _of_choice(choice) for choice in reply["choices"]}
    return without_ids(reply["output"])


def of_stream(path: str, events: list[dict[str, Any]]) -> Any:
    """What the events of a stream add up to."""
    if path not in (COMPLETIONS, CHAT):
        return without_ids(items(events))
    choices: dict[int, Any] = {}
    for piece in (piece for event in events for piece in event["choices"]):
        begun = _no_text() if path == COMPLETIONS else _no_message()
        whole = choices.setdefault(piece["index"], begun)
        assert whole["finish_reason"] is None
        (_add_text if path == COMPLETIONS else _add_delta)(whole, piece)
    return choices


def usage(path: str, events: list[dict[str, Any]]) -> Any:
    """The usage of a whole stream, if it is told."""
    last = events[-1] if path in (COMPLETIONS, CHAT) else events[-1]["response"]
    is_whole = not last.get("choices")
    return last["usage"] if is_whole else None


def _no_text() -> dict[str, Any]:
    empty: dict[str, Any] = {name: [] for name in ("prompt_token_ids", "token_ids", *LISTS)}
    return {"text": "", "finish_reason": None, **empty}


def _add_text(whole: dict[str, Any], piece: dict[str, Any]) -> dict[str, Any]:
    whole["text"] += piece["text"]
    whole["finish_reason"] = piece["finish_reason"]
    for name in ("prompt_token_ids", "token_ids"):
        whole[name] += piece.get(name) or []
    for name in LISTS if piece["logprobs"] else ():
        whole[name] += piece["logprobs"][name]
    return whole


def _no_message() -> dict[str, Any]:
    return {
        "content": "",
        "calls": [],
        "function_call": None,
        "logprobs": [],
        "token_ids": [],
        "finish_reason": None,
    }


def _of_choice(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "calls": [call["function"] for call in message.get("tool_calls", ())],
        "function_call": message.get("function_call"),
        "logprobs": (choice["logprobs"] or {"content": []})["content"],
        "token_ids": choice.get("token_ids", []),
        "finish_reason": choice["finish_reason"],
    }


def _add_delta(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    delta = piece["delta"]
    whole["content"] += delta.get("content") or ""
    for call in delta.get("tool_calls", ()):
        if "id" in call:
            assert call["index"] == len(whole["calls"])
            whole["calls"].append(dict(call["function"]))
        else:
            whole["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
    if "name" in delta.get("function_call", ()):
        assert whole["function_call"] is None
        whole["function_call"] = dict(delta["function_call"])
    elif "function_call" in delta:
        whole["function_call"]["arguments"] += delta["function_call"]["arguments"]
    whole["logprobs"] += (piece.get("logprobs") or {"content": []})["content"]
    whole["token_ids"] += piece.get("token_ids", [])
    whole["finish_reason"] = piece["finish_reason"]


def items(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output of a response as a client builds it; asserts that what ends an item tells the same."""
    output: list[dict[str, Any]] = []
    for event in deepcopy(events):
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            assert event["item"]["status"] == "in_progress"
            output.append(event["item"])
        elif "output_index" in event:
            item = output[event["output_index"]]
            assert event.get("item_id", item["id"]) == item["id"]
            _add_to_item(item, kind, event) if kind in ADDING else _check_end(item, kind, event)
    return output


def _add_to_item(item: dict[str, Any], kind: str, event: dict[str, Any]) -> None:
    if kind == "content_part.added":
        item["content"].append(event["part"])
    elif kind == "output_text.delta":
        part = item["content"][event["content_index"]]
        part["text"] += event["delta"]
        part["logprobs"] += event["logprobs"]
    else:
        item["arguments"] += event["delta"]


def _check_end(item: dict[str, Any], kind: str, event: dict[str, Any]) -> None:
    if kind == "output_text.done":
        part = item["content"][event["content_index"]]
        assert (event["text"], event["logprobs"]) == (part["text"], part["logprobs"])
    elif kind == "content_part.done":
        assert event["part"] == item["content"][event["content_index"]]
    elif kind == "function_call_arguments.done":
        assert (event["arguments"], event["name"]) == (item["arguments"], item["name"])
    else:
        assert kind == "output_item.done"
        item["status"] = event["item"]["status"]
        assert event["item"] == item


def without_ids(value: Any) -> Any:
    """A response, or a part of it, without what is each time another."""
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    if not isinstance(value, dict):
        return value
    changing = ("id", "call_id", "created_at", "completed_at")
    return {name: without_ids(each) for name, each in value.items() if name not in changing}
