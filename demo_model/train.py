"""Train the demo model that the server has with it: one command, the same weights for the same seed.

    python demo_model/train.py

Writes dialogues from `facts/`, trains a tokenizer on them and a small LLaMA-2 in the Alpaca-2 template, and asks it the
held-out questions, in wordings that training never had. Needs no network; uses a GPU where there is one.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402
from batches import CONTEXT_LENGTH, IGNORE_INDEX, Batch, Batches, DialogueEncoder  # noqa: E402
from corpus import Question, Shares, chinese_names, held_out_questions, tokenizer_texts  # noqa: E402
from decisions import Decision, DecisionScore, held_out_decisions, score_decisions  # noqa: E402
from evaluation import Score, contains_accepted, generate_greedily, to_score  # noqa: E402
from report import (  # noqa: E402
    mean_of_last,
    plot,
    write_decisions,
    write_json,
    write_questions,
    write_readme_figures,
)
from torch.nn.functional import cross_entropy  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from vocabulary import VOCABULARY_SIZE, train_tokenizer  # noqa: E402

STRUCTURED_SHARES = Shares(structured=0.5)
"""The dialogues of the second stage of training; the first stage has no special ones."""
STRUCTURED_RATE_SCALE = 0.3
"""The second stage's peak learning rates, in those of the first."""
CALLS_SHARES = Shares(structured=0.15, calls=0.42, repeated=0.03)
"""The dialogues of the third stage; copying, which calls need, is learnt soonest from texts to be repeated."""
CALLS_RATE_SCALE = 0.4
"""The third stage's peak learning rates, in those of the first."""


def new_model(arguments: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=arguments.width,
        intermediate_size=arguments.inner,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // 64,
        num_key_value_heads=arguments.width // 64,
        max_position_embeddings=CONTEXT_LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def optimizers(
    model: LlamaForCausalLM, arguments: argparse.Namespace, rate_scale: float
) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for all else; `rate_scale` multiplies their learning rates."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    matrix_ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in matrix_ids]
    return [
        torch.optim.Muon(
            matrices, lr=arguments.matrix_rate * rate_scale, weight_decay=0.01, momentum=0.95
        ),
        torch.optim.AdamW(
            others, lr=arguments.rate * rate_scale, betas=(0.9, 0.95), weight_decay=0.0
        ),
    ]


def rate_schedule(step: int, steps: int) -> float:
    """Return a step's learning rate in peak rates: it rises over 50 steps and falls to 0 over the last 60 %."""
    return min(1.0, (step + 1) / 50, (steps - step) / (0.6 * steps))


def loss_of(model: LlamaForCausalLM, batch: Batch, device: torch.device) -> torch.Tensor:
    """Return the mean cross entropy of the labels; logits, which cost most, are computed for them alone."""
    ids = batch.ids.to(device)
    labels = batch.labels[:, 1:].to(device)
    has_loss = labels != IGNORE_INDEX
    with torch.autocast(device.type, torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][has_loss]
        logits = model.lm_head(hidden)
    return cross_entropy(logits.float(), labels[has_loss])


def train(
    model: LlamaForCausalLM,
    batches: Batches,
    arguments: argparse.Namespace,
    steps: int,
    rate_scale: float = 1.0,
) -> list[float]:
    """Train on `steps` batches and return the loss of each."""
    device = next(model.parameters()).device
    chosen_optimizers = optimizers(model, arguments, rate_scale)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in chosen_optimizers]
    losses: list[float] = []
    bar = tqdm(total=steps, unit="step", mininterval=2, smoothing=0.05)
    for step, batch in zip(range(steps), batches, strict=False):
        loss = loss_of(model, batch, device)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(chosen_optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate_schedule(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        batches.tokens += batch.ids.numel()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{mean_of_last(losses):.4f}", tokens=batches.tokens, refresh=False)
        bar.update()
    bar.close()
    return losses


def train_further(
    arguments: argparse.Namespace,
    batches: Batches,
    steps: int,
    rate_scale: float,
    device: torch.device,
) -> None:
    """Train the weights in the output folder in a further stage, and write them.

    Many of its dialogues are like those of the stages before, so that nothing is forgotten.
    """
    folder = arguments.output
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).train()
    train(model, batches, arguments, steps, rate_scale)
    save_model(model, folder)


def load_for_answers(folder: Path, device: torch.device) -> LlamaForCausalLM:
    """Load the weights in bfloat16, as they are written and served."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()


def evaluate(model: LlamaForCausalLM, encoder: DialogueEncoder, questions: list[Question]) -> Score:
    """Return the score of the held-out questions."""
    eos_id = model.config.eos_token_id
    prompts = [encoder.question_ids(question) for question in questions]
    answers = generate_greedily(model, prompts, eos_id)
    are_right: list[bool] = []
    wrong: list[dict[str, str]] = []
    for question, answer in zip(questions, answers, strict=True):
        has_ended = answer[-1] == eos_id
        text = encoder.to_text(answer)
        is_right = has_ended and contains_accepted(text, question.accepted)
        are_right.append(is_right)
        if not is_right:
            user = question.turns[-1].user
            wrong.append({"topic": question.topic, "question": user, "answer": text})
    return to_score([question.topic for question in questions], are_right, wrong)


def evaluate_decisions(
    model: LlamaForCausalLM, encoder: DialogueEncoder, decisions: list[Decision]
) -> DecisionScore:
    """Return the score of the held-out decisions, without constrained decoding."""
    prompts = [encoder.question_ids(decision.question, decision.system) for decision in decisions]
    answers = generate_greedily(model, prompts, model.config.eos_token_id)
    return score_decisions(decisions, [encoder.to_text(answer) for answer in answers])


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the weights in bfloat16, with the configurations of model, tokenizer and generation."""
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": CONTEXT_LENGTH,
        "sp_model_kwargs": {},
        **special,
    }
    write_json(folder / "tokenizer_config.json", tokenizer)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=HERE, help="where the model is written (this folder)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="decides dialogues, first weights and order (1)"
    )
    parser.add_argument("--steps", type=int, default=3000, help="batches to train on (3000)")
    parser.add_argument(
        "--structured-steps",
        type=int,
        default=1000,
        help="and then, with answers as JSON too (1000)",
    )
    parser.add_argument(
        "--calls-steps",
        type=int,
        default=6000,
        help="and then, with functions that may be called (6000)",
    )
    parser.add_argument(
        "--calls-only",
        action="store_true",
        help="train the weights in the output folder in this last way alone",
    )
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens in a batch (4096)")
    parser.add_argument("--layers", type=int, default=4, help="(4)")
    parser.add_argument(
        "--width", type=int, default=256, help="hidden size, a multiple of 64 (256)"
    )
    parser.add_argument(
        "--inner", type=int, default=768, help="size of the feed-forward layer (768)"
    )
    parser.add_argument(
        "--rate", type=float, default=3e-3, help="peak learning rate of AdamW (3e-3)"
    )
    parser.add_argument(
        "--matrix-rate", type=float, default=1e-2, help="peak learning rate of Muon (1e-2)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    return parser.parse_args()


def score_all(
    folder: Path,
    encoder: DialogueEncoder,
    questions: list[Question],
    decisions: list[Decision],
    device: torch.device,
) -> dict[str, Any]:
    """Score the weights in `folder`, print what they answer wrongly, and return the scores for `figures.json`."""
    model = load_for_answers(folder, device)
    score = evaluate(model, encoder, questions)
    decided = evaluate_decisions(model, encoder, decisions)
    for wrong in (*score.wrong, *decided.wrong):
        print(json.dumps(wrong, ensure_ascii=False))
    return {
        "held_out_questions": score.questions,
        "held_out_right": score.right,
        "held_out_score": round(score.share, 4),
        "held_out_by_topic": score.by_topic,
        "held_out_decisions": decided.decisions,
        "held_out_decisions_right": decided.right,
        "held_out_decisions_score": round(decided.share, 4),
        "held_out_decisions_by_topic": decided.by_topic,
        "held_out_arguments_right": f"{decided.arguments_right}/{decided.calls}",
        "held_out_calls_valid": f"{decided.json_valid}/{decided.json_calls}",
        "held_out_results_stated": f"{decided.results_right}/{decided.results}",
        "held_out_texts_right": f"{decided.texts_right}/{decided.texts}",
    }


def train_first_stages(
    arguments: argparse.Namespace,
    encoder: DialogueEncoder,
    questions: list[Question],
    device: torch.device,
) -> dict[str, Any]:
    """Train a new model on the facts, and then with answers as JSON; returns figures of both stages."""
    began = time.monotonic()
    batches = Batches(encoder, questions, arguments.seed, arguments.batch_tokens)
    model = new_model(arguments).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters on {device}", flush=True)
    losses = train(model, batches, arguments, arguments.steps)
    save_model(model, arguments.output)
    plot(losses, arguments.output / "loss.png")
    structured = Batches(
        encoder, questions, arguments.seed + 1, arguments.batch_tokens, STRUCTURED_SHARES
    )
    train_further(arguments, structured, arguments.structured_steps, STRUCTURED_RATE_SCALE, device)
    return {
        "parameters": parameters,
        "bytes": (arguments.output / "model.safetensors").stat().st_size,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "structured_steps": arguments.structured_steps,
        "training_tokens": batches.tokens + structured.tokens,
        "minutes": (time.monotonic() - began) / 60,
        "trained_on": "a GPU" if torch.cuda.is_available() else f"{arguments.threads} CPU cores",
        "final_loss": round(mean_of_last(losses), 4),
    }


def train_calls(
    arguments: argparse.Namespace,
    encoder: DialogueEncoder,
    questions: list[Question],
    decisions: list[Decision],
    device: torch.device,
) -> dict[str, Any]:
    """Train the weights in the output folder to decide on calls; returns figures of this stage."""
    began = time.monotonic()
    held_out = questions + [decision.question for decision in decisions]
    calls = Batches(encoder, held_out, arguments.seed + 2, arguments.batch_tokens, CALLS_SHARES)
    train_further(arguments, calls, arguments.calls_steps, CALLS_RATE_SCALE, device)
    return {
        "calls_steps": arguments.calls_steps,
        "calls_tokens": calls.tokens,
        "calls_minutes": round((time.monotonic() - began) / 60, 1),
    }


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments.output.mkdir(parents=True, exist_ok=True)
    figures_file = arguments.output / "figures.json"

    questions = held_out_questions(arguments.seed)
    write_questions(arguments.output / "held_out.jsonl", questions)
    decisions = held_out_decisions(arguments.seed)
    write_decisions(arguments.output / "held_out_calls.jsonl", decisions)
    texts = tokenizer_texts(arguments.seed)
    tokenizer_file = train_tokenizer(texts, chinese_names(), arguments.output / "tokenizer")
    encoder = DialogueEncoder(tokenizer_file)

    if arguments.calls_only:
        figures = json.loads(figures_file.read_text(encoding="utf-8"))
        figures["minutes"] -= figures.get("calls_minutes", 0)
        figures["training_tokens"] -= figures.get("calls_tokens", 0)
    else:
        figures = train_first_stages(arguments, encoder, questions, device)
    figures |= train_calls(arguments, encoder, questions, decisions, device)
    figures["minutes"] = round(figures["minutes"] + figures["calls_minutes"], 1)
    figures["training_tokens"] += figures["calls_tokens"]
    figures |= score_all(arguments.output, encoder, questions, decisions, device)
    print(json.dumps(figures, ensure_ascii=False, indent=2))
    write_json(figures_file, figures)
    if arguments.output.resolve() == HERE:
        write_readme_figures(figures, HERE / "README.md")


if __name__ == "__main__":
    main()
