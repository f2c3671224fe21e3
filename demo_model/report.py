"""Files of a training beside the weights: figures, the plot of the loss, held-out questions, the README's figures."""

import json
from pathlib import Path
from typing import Any

import matplotlib
from corpus import Question
from decisions import Decision

matplotlib.use("Agg")
from matplotlib import pyplot

FIGURES_BEGIN = "<!-- figures, by train.py -->"
FIGURES_END = "<!-- end of figures -->"


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_questions(file: Path, questions: list[Question]) -> None:
    """Write held-out questions as JSON lines."""
    with file.open("w", encoding="utf-8") as out:
        for question in questions:
            line = {
                "topic": question.topic,
                "messages": question.messages,
                "accept": question.accepted,
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_decisions(file: Path, decisions: list[Decision]) -> None:
    """Write held-out decisions as JSON lines.

    Calls and results in `messages` are written as the model reads them; the functions end the system text.
    """
    with file.open("w", encoding="utf-8") as out:
        for decision in decisions:
            last = decision.turns[-1]
            line = {
                "topic": decision.topic,
                "system": decision.system_text,
                "functions": decision.functions,
                "messages": decision.question.messages,
                "calls": decision.calls,
                "accept": last.accepted,
                "results": last.values,
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def mean_of_last(losses: list[float], count: int = 100) -> float:
    last = losses[-count:]
    return sum(last) / len(last)


def plot(losses: list[float], file: Path) -> None:
    """Draw the loss of each step, and its mean over the last hundred steps."""
    means = [mean_of_last(losses[: at + 1]) for at in range(len(losses))]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=100)
    axes.plot(losses, color="#c8d4e3", linewidth=0.6, label="step")
    axes.plot(means, color="#1f5fa8", label="mean of 100")
    axes.set(
        yscale="log",
        xlabel="step",
        ylabel="loss on the answers",
        title="Training of the demo model",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file)


def write_readme_figures(figures: dict[str, Any], readme: Path) -> None:
    """Replace the paragraph between the README's two comments by one with these figures."""
    before, _, after = readme.read_text(encoding="utf-8").partition(FIGURES_BEGIN)
    after = after.partition(FIGURES_END)[2]
    held_out = f"{figures['held_out_right']} of {figures['held_out_questions']} held-out questions"
    decided = f"{figures['held_out_decisions_right']} of {figures['held_out_decisions']} decisions"
    paragraph = (
        f"{figures['parameters'] / 1e6:.1f} million parameters, {figures['bytes'] / 1e6:.1f} MB in bfloat16; "
        f"{figures['steps']:,}, {figures['structured_steps']:,} "
        f"and {figures['calls_steps']:,} steps over "
        f"{figures['training_tokens'] / 1e6:.1f} million tokens in {figures['minutes']:.0f} minutes on "
        f"{figures['trained_on']}, seed {figures['seed']}. "
        f"At temperature 0 it answers **{held_out} ({figures['held_out_score']:.1%})** rightly; "
        f"and makes **{decided} on calls ({figures['held_out_decisions_score']:.1%})** rightly; "
        "by topic in [`figures.json`](figures.json)."
    )
    readme.write_text(
        f"{before}{FIGURES_BEGIN}\n{paragraph}\n{FIGURES_END}{after}", encoding="utf-8"
    )
