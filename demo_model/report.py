"""What training leaves beside the weights: figures, the plot of the loss, the questions, the lines in the README."""

import json
from pathlib import Path
from typing import Any

import matplotlib
from corpus import Question

matplotlib.use("Agg")
from matplotlib import pyplot

FIGURES_BEGIN, FIGURES_END = "<!-- figures, by train.py -->", "<!-- end of figures -->"


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_questions(file: Path, questions: list[Question]) -> None:
    with file.open("w", encoding="utf-8") as out:
        for question in questions:
            line = {
                "topic": question.topic,
                "messages": question.messages,
                "accept": question.accepted,
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def mean_of_last(losses: list[float], count: int = 100) -> float:
    return sum(losses[-count:]) / len(losses[-count:])


def plot(losses: list[float], file: Path) -> None:
    """The loss of each step, and its mean over a hundred steps."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=100)
    axes.plot(losses, color="#c8d4e3", linewidth=0.6, label="step")
    axes.plot(
        [mean_of_last(losses[: at + 1]) for at in range(len(losses))],
        color="#1f5fa8",
        label="mean of 100",
    )
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


def describe(found: dict[str, Any], readme: Path) -> None:
    """Put the figures in the README, between its two marks."""
    before, _, after = readme.read_text(encoding="utf-8").partition(FIGURES_BEGIN)
    after = after.partition(FIGURES_END)[2]
    sentence = (
        f"{found['parameters'] / 1e6:.1f} million parameters, {found['bytes'] / 1e6:.1f} MB in bfloat16; "
        f"{found['steps']:,} and {found['structured_steps']:,} steps over {found['training_tokens'] / 1e6:.1f} million "
        f"tokens in {found['minutes']:.0f} minutes on {found['trained_on']}, seed {found['seed']}. At temperature 0 it "
        f"answers **{found['held_out_right']} of {found['held_out_questions']} held-out questions "
        f"({found['held_out_score']:.1%})** rightly; by topic in [`figures.json`](figures.json)."
    )
    readme.write_text(
        f"{before}{FIGURES_BEGIN}\n{sentence}\n{FIGURES_END}{after}", encoding="utf-8"
    )
