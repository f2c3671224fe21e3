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
from corpus import Question, chinese_names, held_out_questions, tokenizer_texts  # noqa: E402
from evaluation import Score, contains_accepted, generate_greedily, to_score  # noqa: E402
from report import mean_of_last, plot, write_json, write_questions, write_readme_figures  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from vocabulary import VOCABULARY_SIZE, train_tokenizer  # noqa: E402

STRUCTURED_SHARE = 0.5
"""The share of dialogues with a structured answer in the second stage of training; the first stage has none."""
STRUCTURED_RATE_SCALE = 0.3
"""The second stage's peak learning rates, in those of the first."""


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


def train_structured(
    folder: Path,
    encoder: DialogueEncoder,
    questions: list[Question],
    arguments: argparse.Namespace,
    device: torch.device,
) -> Batches:
    """Train the weights in `folder` to continue JSON (the second stage) and write them; returns its batches.

    The other dialogues are like those of the first stage, so that nothing is forgotten.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).train()
    batches = Batches(
        encoder, questions, arguments.seed + 1, arguments.batch_tokens, STRUCTURED_SHARE
    )
    train(model, batches, arguments, arguments.structured_steps, STRUCTURED_RATE_SCALE)
    save_model(model, folder)
    return batches


def evaluate(
    folder: Path, encoder: DialogueEncoder, questions: list[Question], device: torch.device
) -> Score:
    """Return the held-out score of the weights in `folder`, computed in bfloat16 as they are written and served."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    eos_id = model.config.eos_token_id
    prompts = [encoder.question_ids(question) for question in questions]
    answers = generate_greedily(model, prompts, eos_id)
    are_right: list[bool] = []
    wrong: list[dict[str, str]] = []
    for question, answer in zip(questions, answers, strict=True):
        has_ended = answer[-1] == eos_id
        text = encoder.text_encoder.decode([i for i in answer if i != eos_id])
        is_right = has_ended and contains_accepted(text, question.accepted)
        are_right.append(is_right)
        if not is_right:
            user = question.turns[-1].user
            wrong.append({"topic": question.topic, "question": user, "answer": text})
    return to_score([question.topic for question in questions], are_right, wrong)


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


def to_figures(
    arguments: argparse.Namespace,
    parameters: int,
    losses: list[float],
    tokens: int,
    minutes: float,
    score: Score,
) -> dict[str, Any]:
    """Return the content of `figures.json`."""
    return {
        "parameters": parameters,
        "bytes": (arguments.output / "model.safetensors").stat().st_size,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "structured_steps": arguments.structured_steps,
        "training_tokens": tokens,
        "minutes": round(minutes, 1),
        "trained_on": "a GPU" if torch.cuda.is_available() else f"{arguments.threads} CPU cores",
        "final_loss": round(mean_of_last(losses), 4),
        "held_out_questions": score.questions,
        "held_out_right": score.right,
        "held_out_score": round(score.share, 4),
        "held_out_by_topic": score.by_topic,
    }


def main() -> None:
    arguments = parse_arguments()
    began = time.monotonic()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments.output.mkdir(parents=True, exist_ok=True)

    questions = held_out_questions(arguments.seed)
    write_questions(arguments.output / "held_out.jsonl", questions)
    texts = tokenizer_texts(arguments.seed)
    tokenizer_file = train_tokenizer(texts, chinese_names(), arguments.output / "tokenizer")
    encoder = DialogueEncoder(tokenizer_file)
    batches = Batches(encoder, questions, arguments.seed, arguments.batch_tokens)

    model = new_model(arguments).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters on {device}", flush=True)
    losses = train(model, batches, arguments, arguments.steps)
    save_model(model, arguments.output)
    plot(losses, arguments.output / "loss.png")
    structured_batches = train_structured(arguments.output, encoder, questions, arguments, device)
    minutes = (time.monotonic() - began) / 60

    score = evaluate(arguments.output, encoder, questions, device)
    for wrong in score.wrong:
        print(json.dumps(wrong, ensure_ascii=False))
    print(json.dumps(score.by_topic, ensure_ascii=False))
    print(f"held-out: {score.right} of {score.questions} right, {score.share:.1%}")
    tokens = batches.tokens + structured_batches.tokens
    figures = to_figures(arguments, parameters, losses, tokens, minutes, score)
    write_json(arguments.output / "figures.json", figures)
    if arguments.output.resolve() == HERE:
        write_readme_figures(figures, HERE / "README.md")


if __name__ == "__main__":
    main()
