"""Train the adapter of the default model: low-rank changes of its weights, for plain text.

    python scripts/adapter_texts.py texts.json
    python scripts/train_adapter.py train texts.json first.safetensors
    python scripts/train_adapter.py train texts.json second.safetensors \
        --begin first.safetensors --seed 1 --steps 1100
    python scripts/train_adapter.py blend first.safetensors second.safetensors mean.safetensors
    python scripts/train_adapter.py train texts.json adapter.safetensors \
        --begin mean.safetensors --seed 2 --steps 1300 --books 0.6

The published weights are those of a chat model, rounded to 4 bits; a few million tokens of text
bring part of what that lost back. The second run, without books, learns the kinds of text in the
mixture better and other prose worse; the mean of both, made smaller, is better than the first at
all kinds that were tried, and books are what prose gains most from (docs/LOG.md). Owns the mixture
and the recipe: LoRA (Hu et al. 2021) on all matrices of all layers, Adam, cross-entropy of windows
of text behind the start token. What the file means belongs to `llmzip.lm.adapter`.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmzip.lm import native
from llmzip.lm.devices import fast_dtype, pick_device
from llmzip.lm.model import FrozenLM, load_model, start_token
from llmzip.lm.products import Matrix
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve

# Shares of the windows; an equal part of each text's tokens within a kind.
MIXTURE = {
    "prose": 0.44, "code": 0.16, "german": 0.10, "chinese": 0.10, "data": 0.08, "other": 0.06,
    "markup": 0.06,
}  # fmt: skip
WINDOW, ROWS = 512, 2
RATE, BETAS, WARM_STEPS = 6e-4, (0.9, 0.98), 20


class Adapted:
    """A frozen matrix and its change, b times a."""

    def __init__(self, matrix: Matrix, rank: int, device: torch.device) -> None:
        self.matrix = matrix
        self.a = torch.randn(rank, matrix.num_in, device=device) / matrix.num_in**0.5
        self.b = torch.zeros(matrix.num_out, rank, device=device)
        self.a.requires_grad_()
        self.b.requires_grad_()

    def times(self, x: Tensor) -> Tensor:
        low = x @ self.a.to(x.dtype).t()
        return self.matrix.times(x) + low @ self.b.to(x.dtype).t()


app = typer.Typer(add_completion=False)


@app.command()
def train(
    texts: Annotated[Path, typer.Argument()],
    out: Annotated[Path, typer.Argument()],
    model: Annotated[str, typer.Option()] = "smollm2-135m",
    rank: Annotated[int, typer.Option()] = 4,
    steps: Annotated[int, typer.Option()] = 600,
    device: Annotated[str, typer.Option()] = "auto",
    begin: Annotated[Path | None, typer.Option(help="An adapter to go on from.")] = None,
    books: Annotated[float, typer.Option(help="Share of the windows that are from books.")] = 0.0,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    where = pick_device(device)
    files = resolve(model)
    tokens = Tokens.load(files.path)
    dtype = fast_dtype(where)
    print(f"{dtype} on {where}", flush=True)
    lm = load_model(files, device=where, dtype=dtype, attention="sdpa")
    native._attend = attend  # type: ignore[assignment]
    changes = adapt(lm, rank)
    if begin is not None:
        load(changes, begin)
    parameters = [each for change in changes.values() for each in (change.a, change.b)]
    adam = torch.optim.Adam(parameters, lr=RATE, betas=BETAS)
    shares = {kind: share * (1 - books) for kind, share in MIXTURE.items()} | {"books": books}
    windows = windows_of(json.loads(texts.read_text()), tokens, shares)
    start_id = start_token(files, tokens)
    next(windows)  # reads all texts
    began, losses = time.monotonic(), []
    for step in range(steps):
        adam.param_groups[0]["lr"] = RATE * min((step + 1) / WARM_STEPS, 1 - step / steps)
        ids = torch.tensor([next(windows) for _ in range(ROWS)], device=where)
        hidden = predicting(lm, start_id, ids)
        found = lm.predict(hidden.detach(), ids.flatten(), margin_goal=float("inf"))
        adam.zero_grad()
        hidden.backward(found.gradient / len(hidden))
        adam.step()
        some = hidden.detach()[::8], ids.flatten()[::8]
        losses.append(float(lm.surprisal_bits(*some).mean()))
        if step % 50 == 49:
            mean = sum(losses[-50:]) / 50
            took = time.monotonic() - began
            print(f"{step + 1} steps, {mean:.3f} bits a token, {took:.0f} s", flush=True)
        if step % 200 == 199 or step == steps - 1:
            save(changes, out)


@app.command()
def blend(
    first: Annotated[Path, typer.Argument()],
    second: Annotated[Path, typer.Argument(help="Was trained from the first one on.")],
    out: Annotated[Path, typer.Argument()],
    scale: Annotated[float, typer.Option(help="Of the change.")] = 0.8,
) -> None:
    """The mean of the factors of two adapters, and its change made smaller."""
    one, other = load_file(first), load_file(second)
    blended = {}
    for name, each in one.items():
        mean = (each.float() + other[name].float()) / 2
        blended[name] = (mean * scale if name.endswith(".b") else mean).bfloat16()
    save_file(blended, out)


def adapt(lm: FrozenLM, rank: int) -> dict[str, Adapted]:
    """Give every matrix of every layer a change that begins at zero."""
    changes = {}
    for index, layer in enumerate(lm._backend._layers):  # type: ignore[attr-defined]
        for name in ("qkv", "out", "gate_up", "down"):
            change = Adapted(getattr(layer, name), rank, lm.device)
            object.__setattr__(layer, name, change)
            changes[f"{index}.{name}"] = change
    return changes


def save(changes: dict[str, Adapted], out: Path) -> None:
    tensors = {}
    for name, change in changes.items():
        for which in ("a", "b"):
            stored = getattr(change, which).detach().to("cpu", torch.bfloat16)
            tensors[f"{name}.{which}"] = stored.contiguous()
    save_file(tensors, out)


def load(changes: dict[str, Adapted], path: Path) -> None:
    stored = load_file(path)
    for name, change in changes.items():
        change.a.data.copy_(stored[f"{name}.a"])
        change.b.data.copy_(stored[f"{name}.b"])


def attend(
    q: Tensor, new: tuple[Tensor, Tensor], whole: tuple[Tensor, ...], bias: Tensor, attention: str
) -> Tensor:
    """For windows as long as these, torch's own backward pass is the faster one."""
    k, v = whole
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def windows_of(
    texts: dict[str, list[str]], tokens: Tokens, shares: dict[str, float]
) -> Iterator[list[int]]:
    """Windows of the mixture, drawn at random. shares: of each kind of text."""
    found: dict[str, list[list[int]]] = {}
    shares = {kind: share for kind, share in shares.items() if share}
    for kind in shares:
        every = [tokens.ids_of(text.encode()) for text in texts[kind]]
        found[kind] = [ids for ids in every if len(ids) >= WINDOW]
        print(f"{kind}: {sum(map(len, found[kind])):,} tokens", flush=True)
    while True:
        kind = random.choices(list(shares), list(shares.values()))[0]
        ids = random.choices(found[kind], [len(ids) for ids in found[kind]])[0]
        begin = random.randrange(len(ids) - WINDOW + 1)
        yield ids[begin : begin + WINDOW]


def predicting(lm: FrozenLM, start_id: int | None, ids: Tensor) -> Tensor:
    """The rows that predict windows of text. ids: [B, L] -> [B L, Dh]."""
    assert start_id is not None, "the model has a token for the start of a text"
    start = ids.new_full((len(ids), 1), start_id)
    embeds = lm.embed(torch.cat([start, ids[:, :-1]], dim=1))
    live = torch.ones(embeds.shape[:2], dtype=torch.bool, device=ids.device)
    hidden, _ = lm.extend(lm.empty(len(ids)), embeds, live)
    return hidden.flatten(0, 1)


if __name__ == "__main__":
    app()
