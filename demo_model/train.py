"""Train the embedded demo model: one command, the same weights for the same seed.

    python demo_model/train.py

Writes the corpus from the facts beside this file, trains the tokenizer and a small LLaMA-2 on the Alpaca-2 template,
and asks it questions in wordings that training never saw. Needs no network; uses a GPU where there is one.
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
from batches import CONTEXT, IGNORED, Batch, Corpus, Renderer  # noqa: E402
from corpus import Question, held_out, names, tokenizer_texts  # noqa: E402
from evaluation import Score, accepts, greedy, to_score  # noqa: E402
from report import describe, mean_of_last, plot, write_json, write_questions  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from vocabulary import SIZE, train_tokenizer  # noqa: E402

STRUCTURED_SHARE = 0.5
"""Of the second stage's dialogues, those that may end with JSON."""
STRUCTURED_RATE = 0.3
"""Its rates beside the first stage's."""


def new_model(arguments: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=arguments.width,
        intermediate_size=arguments.inner,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // 64,
        num_key_value_heads=arguments.width // 64,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def optimizers(
    model: LlamaForCausalLM, arguments: argparse.Namespace, scale: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the embeddings, AdamW for the rest; `scale` is of their rates."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inner = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inner]
    return [
        torch.optim.Muon(
            matrices, lr=arguments.matrix_rate * scale, weight_decay=0.01, momentum=0.95
        ),
        torch.optim.AdamW(rest, lr=arguments.rate * scale, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_at(step: int, steps: int) -> float:
    """Warm up, hold, and fall to nothing over the last 60 %."""
    return min(1.0, (step + 1) / 50, (steps - step) / (0.6 * steps))


def loss_of(model: LlamaForCausalLM, batch: Batch, device: torch.device) -> torch.Tensor:
    """Mean loss over the answers; the vocabulary is scored there only."""
    ids, targets = batch.ids.to(device), batch.labels[:, 1:].to(device)
    learnt = targets != IGNORED
    with torch.autocast(device.type, torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][learnt]
        scores = model.lm_head(hidden)
    return cross_entropy(scores.float(), targets[learnt])


def train(
    model: LlamaForCausalLM,
    corpus: Corpus,
    arguments: argparse.Namespace,
    steps: int,
    scale: float = 1.0,
) -> list[float]:
    """Train for so many batches and return the loss of each."""
    device = next(model.parameters()).device
    both = optimizers(model, arguments, scale)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in both]
    losses: list[float] = []
    bar = tqdm(total=steps, unit="step", mininterval=2, smoothing=0.05)
    for step, batch in zip(range(steps), corpus, strict=False):
        loss = loss_of(model, batch, device)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(both, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate_at(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        corpus.tokens += batch.ids.numel()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{mean_of_last(losses):.4f}", tokens=corpus.tokens, refresh=False)
        bar.update()
    bar.close()
    return losses


def train_structured(
    folder: Path,
    renderer: Renderer,
    questions: list[Question],
    arguments: argparse.Namespace,
    device: torch.device,
) -> Corpus:
    """The second stage: the weights in `folder` learn to go on with JSON, and forget nothing by more of the first."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).train()
    corpus = Corpus(
        renderer, questions, arguments.seed + 1, arguments.batch_tokens, STRUCTURED_SHARE
    )
    train(model, corpus, arguments, arguments.structured_steps, STRUCTURED_RATE)
    save_model(model, folder)
    return corpus


def evaluate(
    folder: Path, renderer: Renderer, questions: list[Question], device: torch.device
) -> Score:
    """The score of the weights as they were written, in bfloat16."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    eos_id = model.config.eos_token_id
    answers = greedy(model, [renderer.question(question) for question in questions], eos_id)
    texts = [renderer.encoder.decode([i for i in answer if i != eos_id]) for answer in answers]
    verdicts = [
        answer[-1] == eos_id and accepts(question.accepted, text)
        for question, answer, text in zip(questions, answers, texts, strict=True)
    ]
    wrong = [
        {"topic": question.topic, "question": question.turns[-1].user, "answer": text}
        for question, text, verdict in zip(questions, texts, verdicts, strict=True)
        if not verdict
    ]
    return to_score([question.topic for question in questions], verdicts, wrong)


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": CONTEXT,
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
        "--seed", type=int, default=1, help="decides corpus, first weights and order (1)"
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


def figures(
    arguments: argparse.Namespace,
    parameters: int,
    losses: list[float],
    tokens: int,
    minutes: float,
    score: Score,
) -> dict[str, Any]:
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

    questions = held_out(arguments.seed)
    write_questions(arguments.output / "held_out.jsonl", questions)
    tokenizer = train_tokenizer(
        tokenizer_texts(arguments.seed), names(), arguments.output / "tokenizer"
    )
    renderer = Renderer(tokenizer)
    corpus = Corpus(renderer, questions, arguments.seed, arguments.batch_tokens)

    model = new_model(arguments).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters on {device}", flush=True)
    losses = train(model, corpus, arguments, arguments.steps)
    save_model(model, arguments.output)
    plot(losses, arguments.output / "loss.png")
    structured = train_structured(arguments.output, renderer, questions, arguments, device)
    minutes = (time.monotonic() - began) / 60

    score = evaluate(arguments.output, renderer, questions, device)
    for wrong in score.wrong:
        print(json.dumps(wrong, ensure_ascii=False))
    print(json.dumps(score.by_topic, ensure_ascii=False))
    print(f"held-out: {score.right} of {score.questions} right, {score.share:.1%}")
    found = figures(
        arguments, parameters, losses, corpus.tokens + structured.tokens, minutes, score
    )
    write_json(arguments.output / "figures.json", found)
    if arguments.output.resolve() == HERE:
        describe(found, HERE / "README.md")


if __name__ == "__main__":
    main()
