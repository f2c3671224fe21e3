"""The layout of Stanford Alpaca, which the first Chinese-LLaMA-Alpaca was trained with."""

from prompts.encoder import Encoder, Run
from prompts.layouts import Conversation, Layout

ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


def alpaca_runs(conversation: Conversation, encoder: Encoder) -> list[Run]:
    """Lay out the whole conversation as one text."""
    system = ALPACA_SYSTEM if conversation.system is None else conversation.system
    paragraphs = [system] if system else []
    for user, assistant in conversation.turns:
        paragraphs.append(f"### Instruction:\n{user}")
        paragraphs.append("### Response:" if assistant is None else f"### Response: {assistant}")
    return [encoder.bos_id, "\n\n".join(paragraphs)]


ALPACA = Layout(
    "alpaca", alpaca_runs, answer_lead=" ", default_system=ALPACA_SYSTEM, stop=("### Instruction:",)
)
