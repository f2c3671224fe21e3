"""Messages, an instruction or raw text -> a prompt of token ids.

A layout (`prompts/layouts.py`) makes runs of text and control tokens, the encoder (`prompts/encoder.py`) their ids.
Knows nothing about HTTP, sampling or the engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from errors import bad_request
from generation import Calls, Prompt
from prompts.calls import Message, describe, is_plain, to_plain_message
from prompts.encoder import Encoder
from prompts.layouts import BASE_MODEL, Layout, to_conversation


class PromptTemplate:
    """Makes the prompts of one model."""

    def __init__(self, layout: Layout, encoder: Encoder, system_prompt: str | None = None) -> None:
        """`system_prompt`: the system text of conversations that have none; None: the layout's own default."""
        self.layout = layout
        self.encoder = encoder
        self.system_prompt = system_prompt
        self._lead_ids = (
            encoder.ids_spelt_as(layout.answer_lead) if layout.answer_lead else frozenset()
        )

    def check_fields(self, sent: Mapping[str, Any]) -> None:
        """Raise APIError (400) for `chat_template_kwargs` if the template is in Jinja: others have no use for them."""
        if self.layout.is_jinja and sent.get("chat_template_kwargs"):
            raise bad_request("'chat_template_kwargs' is not supported.", "chat_template_kwargs")

    def render_chat(self, messages: Sequence[Message], calls: Calls | None = None) -> Prompt:
        """Return the prompt of a conversation: for an answer, or for the rest of it if the assistant's message is last.

        `calls`: the functions that the answer may call, which the template describes in its own way, or the end of the
        system text does. Raises APIError (400) for messages that the template cannot express.
        """
        layout, default_system, addition = self.layout, self.system_prompt, ""
        if calls is not None and not layout.takes_tools:
            addition = describe(calls)
            # Now there is a system text, so the layout would leave its own default out.
            default_system = layout.default_system if default_system is None else default_system
        if not layout.takes_tools and not is_plain(messages):
            messages = [to_plain_message(message, layout.call_format) for message in messages]
        conversation = to_conversation(messages, default_system, addition)
        if layout.takes_tools:
            conversation = replace(conversation, calls=calls)
        ids = self.encoder.encode(layout.to_runs(conversation, self.encoder))
        prompt = Prompt(ids, stop=layout.stop, stop_token_ids=layout.stop_token_ids)
        if not conversation.is_partial:
            prompt.answer_lead, prompt.lead_ids = layout.answer_lead, self._lead_ids
        return prompt

    def render_instruction(self, text: str) -> Prompt:
        """Return the prompt of one instruction, a conversation of one user message; raises APIError (400)."""
        if self.layout is BASE_MODEL:
            raise bad_request(
                "This server has no prompt template: start it with --prompt-template to choose one.",
                "raw",
            )
        return replace(self.render_chat([Message("user", text)]), text=text)

    def render_raw(self, text: str) -> Prompt:
        """Return the prompt of a text without a template, after the token that begins a text, if there is one."""
        return Prompt(self.encoder.encode([self.encoder.bos_id, text]), text)
