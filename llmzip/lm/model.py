"""FrozenLM: a language model whose weights never change and never need a gradient.

Owns loading, dtype, device, the output head and the choice between the forward passes of `native`
and `foreign`. Knows nothing of chunks or containers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmzip.config import Attention
from llmzip.errors import MEMORY_HINT, LimitExceeded, LlmzipError, ModelUnavailable, lacks_memory
from llmzip.lm.adapter import Adapter
from llmzip.lm.digest import read_json, unusable, weight_files
from llmzip.lm.native import LlamaShape, NativeLlama
from llmzip.lm.products import Matrix, whole_rows
from llmzip.lm.state import State, empty_state
from llmzip.lm.token_graph import TokenGraphs
from llmzip.lm.tokens import Tokens
from llmzip.lm.weights import Weights
from llmzip.lm.zoo import ModelFiles

# Rows of fp32 logits in memory at a time: 64 x 49152 take 12 MiB.
_LOGIT_ROWS = {"cpu": 64, "cuda": 2048, "mps": 512}
# Rows of two bytes, half as many of four, that are multiplied with the head at a time: 256 x 49152
# take 24 MiB. The head itself takes more, and is read anew for each product.
_HEAD_ROWS = {"cpu": 256, "cuda": 2048, "mps": 512}
# Probabilities below this count as 0 in a gradient. A sharp softmax is full of numbers so small
# that products with them are subnormal, and many CPUs take several times as long for those.
_NEGLIGIBLE = 1e-9


class Backend(Protocol):
    """A forward pass from input embeddings to final hidden states, and the output head."""

    embedding: Tensor  # [V, D], in the compute dtype or as stored
    head: Tensor  # [V, Dh], likewise

    def extend(self, state: State, embeds: Tensor, live_new: Tensor) -> tuple[Tensor, State]: ...


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model predicts for known tokens, row by row."""

    margins: Tensor  # [N] fp32, logit of the target token minus the best other logit
    gradient: Tensor  # [N, Dh] of the summed cross-entropy; zero in rows that need no gradient


class FrozenLM:
    """A loaded model, in the dtype it computes in: fp32 to decode, and to optimise bf16 where that
    is faster."""

    def __init__(
        self, backend: Backend, *, dtype: torch.dtype, max_positions: int, decode_only: bool = False
    ) -> None:
        self._backend = backend
        self.dtype = dtype
        self.max_positions = max_positions
        self.device = backend.embedding.device
        self.vocab_size, self.dim = backend.embedding.shape
        self._logit_rows = _LOGIT_ROWS[self.device.type]
        self._head_rows = _HEAD_ROWS[self.device.type] * 2 // dtype.itemsize
        # Elsewhere, the host would have to wait for the device to know which rows to pick.
        self._picks_rows = self.device.type == "cpu"
        self._head = Matrix(backend.head.to(dtype), packed=decode_only)
        self._head_bias: Tensor | None = getattr(backend, "head_bias", None)
        self._token_graphs: TokenGraphs | None = None
        if isinstance(backend, NativeLlama):
            self._token_graphs = TokenGraphs(backend.extend, self.embed, self.device)

    @cached_property
    def embedding_rms(self) -> float:
        """Root mean square of the coordinates of about 1024 input embeddings."""
        some = self._backend.embedding[:: max(1, self.vocab_size // 1024)]
        return float(some.float().square().mean().sqrt())

    def borrow_embedding(self, other: FrozenLM) -> None:
        """Share the embedding table of another instance of the same model, to save memory. Does
        nothing where the two tables differ in dtype."""
        table = other._backend.embedding
        if table.dtype == self._backend.embedding.dtype:
            if self._backend.head is self._backend.embedding:
                self._backend.head = table
            self._backend.embedding = table

    @property
    def needs_no_copy(self) -> bool:
        """Whether gradients are right where a state lies in a room."""
        return isinstance(self._backend, NativeLlama) and self._backend.needs_no_copy

    def empty(self, num_rows: int) -> State:
        """The state before the first position."""
        return empty_state(num_rows, self.device)

    def embed(self, ids: Tensor) -> Tensor:
        """ids: [...] int64 -> [..., D]."""
        return self._backend.embedding[ids].to(self.dtype)

    def extend(self, state: State, embeds: Tensor, live_new: Tensor) -> tuple[Tensor, State]:
        """Read new slots. embeds: [B, T, D], live_new: [B, T] bool -> the final hidden states
        [B, T, Dh] and the new state."""
        if embeds.shape[1] == 0:
            return embeds.new_zeros(embeds.shape[0], 0, self._head.num_in), state
        return self._backend.extend(state, embeds, live_new)

    @torch.no_grad()
    def read_tokens(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        """Read a token in each row, without gradients. ids: [B] int64 -> the final hidden states
        [B, Dh], good until the next token is read, and the new state."""
        found = self._token_graphs.of(state) if self._token_graphs else None
        if found is not None:
            graph, state = found
            return graph.read(state, ids)
        live = torch.ones(len(ids), 1, dtype=torch.bool, device=self.device)
        hidden, state = self.extend(state, self.embed(ids)[:, None], live)
        return hidden[:, -1], state

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [N, Dh] -> [N, V] fp32."""
        return self._scores(hidden).float()

    def _scores(self, hidden: Tensor) -> Tensor:
        """The logits in the dtype that the product gives, or in fp32 with the head's bias."""
        out = self._head.product(hidden)
        return out if self._head_bias is None else out.float() + self._head_bias.float()

    @torch.no_grad()
    def surprisal_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log2 p(target) from the rows that predict the targets. hidden: [N, Dh], targets: [N] ->
        [N] fp32."""
        parts = []
        blocks = zip(*(whole.split(self._logit_rows) for whole in (hidden, targets)), strict=True)
        for rows, ids in blocks:
            logits = self.logits(rows)
            right = logits.gather(1, ids[:, None])[:, 0]
            parts.append((torch.logsumexp(logits, dim=1) - right) / 0.6931471805599453)
        return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)

    @torch.no_grad()
    def predict(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        margin_goal: float | Tensor,
        temperature: float | Tensor = 1.0,
        asked: Tensor | None = None,
    ) -> Prediction:
        """The margins of the target tokens, and the gradient of the cross-entropy in the rows whose
        margin is below `margin_goal`.

        hidden: [N, Dh], targets: [N]; margin_goal, temperature: [N], or one for all rows. asked:
        [N] bool, the rows that may get a gradient; None for all. The gradient is that of logits
        divided by `temperature`, up to a constant factor. It is computed without autograd, so that
        the logits of only one block are in memory at a time.
        """
        num_rows, device = len(hidden), hidden.device
        missing = whole_rows(num_rows) - num_rows
        hidden, targets = F.pad(hidden, (0, 0, 0, missing)), F.pad(targets, (0, missing))
        if asked is None:
            asked = torch.ones(num_rows, dtype=torch.bool, device=device)
        goals, temperatures = (
            F.pad(_on(device, each).expand(num_rows), (0, missing), value=1.0)
            for each in (margin_goal, temperature)
        )
        whole = (hidden, targets, F.pad(asked, (0, missing)), goals, temperatures)
        margins, gradients = [], []
        size = self._head_rows
        for rows, ids, may_ask, goal, warmth in zip(*(w.split(size) for w in whole), strict=True):
            scores = self._scores(rows)  # [n, V]
            margin = target_margins(scores, ids)
            short = (margin < goal) & may_ask
            picked = self._picked(short)
            gradient = torch.zeros_like(rows)
            if len(picked):
                error = rows.new_empty(len(picked), scores.shape[1])
                for part, out in zip(
                    picked.split(self._logit_rows), error.split(self._logit_rows), strict=True
                ):
                    self._write_error(out, scores[part], ids[part], warmth[part], short[part])
                gradient[picked] = self._head.product_back(error)
            margins.append(margin)
            gradients.append(gradient)
        return Prediction(
            margins=torch.cat(margins)[:num_rows], gradient=torch.cat(gradients)[:num_rows]
        )

    def _picked(self, short: Tensor) -> Tensor:
        """Indices of the rows to compute the gradient of. short: [n] bool, those that need it."""
        if not self._picks_rows:
            return torch.arange(len(short), device=short.device)
        # Others make up a whole number of rows, none where none is short.
        return (~short).to(torch.uint8).argsort(stable=True)[: whole_rows(int(short.sum()))]

    def _write_error(
        self, out: Tensor, scores: Tensor, targets: Tensor, temperature: Tensor, short: Tensor
    ) -> None:
        """softmax(scores / temperature) - one_hot(targets) into `out`, zero in rows not `short`.
        scores: [n, V], overwritten."""
        warm = scores.float().div_(temperature[:, None])
        error = F.threshold(torch.softmax(warm, dim=1), _NEGLIGIBLE, 0.0, inplace=True)
        error[torch.arange(len(error), device=error.device), targets] -= 1.0
        out.copy_(error.mul_(short[:, None]))


def _on(device: torch.device, number: float | Tensor) -> Tensor:
    """A number as a tensor, made there: nothing is copied from the host."""
    return number if isinstance(number, Tensor) else torch.full((), number, device=device)


def target_margins(logits: Tensor, targets: Tensor) -> Tensor:
    """Logit of the target minus the best other one. logits: [N, V], targets: [N] -> [N] fp32.
    Changes `logits` for a moment: amax over the others is faster than topk."""
    rows = torch.arange(len(logits), device=logits.device)
    right = logits[rows, targets]  # `scatter_` would copy all logits, twice each time
    logits[rows, targets] = float("-inf")
    best_other = logits.amax(dim=1)
    logits[rows, targets] = right
    return right.float() - best_other.float()


def start_token(files: ModelFiles, tokens: Tokens) -> int | None:
    """The token before every segment: the one that the tokenizer puts first, else the one that the
    model was trained to see at the start of a text, else the one at the end of a text.

    With it, a mem vector without left context needs half the steps (docs/LOG.md).
    """
    if tokens.bos_id is not None:
        return tokens.bos_id
    config = _read_config(files)
    found = [config.get(name) for name in ("bos_token_id", "eos_token_id")]
    usable = (i for i in found if isinstance(i, int) and 0 <= i < tokens.vocab_size)
    return next(usable, None)


def load_model(
    files: ModelFiles,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: Attention,
    decode_only: bool = False,
) -> FrozenLM:
    """Load a model's weights for one dtype and device.

    decode_only: use a layout of the weights that is fast for a few rows and has no gradients.
    Raises ModelUnavailable where they cannot be read, LimitExceeded where memory is short.
    """
    config = _read_config(files)
    max_positions = int(
        config.get("max_position_embeddings") or config.get("max_sequence_length") or 1 << 20
    )
    backend: Backend
    try:
        shape = LlamaShape.from_config(config)
        adapter = None if files.adapter is None else Adapter(files.adapter)
        if shape is not None:
            weights = Weights(
                _read_weights(files.path), dtype=dtype, device=device, decode_only=decode_only,
                adapter=adapter,
            )  # fmt: skip
            backend = NativeLlama(shape, weights, attention=attention)
        elif adapter is not None:
            raise unusable(files.path, "only a model of the Llama family can have an adapter")
        else:
            from llmzip.lm.foreign import load_foreign  # imports transformers, which takes seconds

            backend = load_foreign(
                files.path, config, dtype=dtype, device=device, attention=attention
            )
    except LlmzipError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        if lacks_memory(error):
            raise LimitExceeded(
                f"there is not enough memory to load model {files.model_id}", hint=MEMORY_HINT
            ) from error
        raise ModelUnavailable(f"cannot load model {files.model_id}: {error}") from error
    return FrozenLM(backend, dtype=dtype, max_positions=max_positions, decode_only=decode_only)


def _read_config(files: ModelFiles) -> dict[str, Any]:
    path = files.path / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise unusable(path, "it is not a JSON object")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of the model in directory `path`, as stored."""
    weights: dict[str, Tensor] = {}
    for file in weight_files(path):
        with safe_open(file, framework="pt") as stored:
            weights |= {name: stored.get_tensor(name) for name in stored.keys()}
    return weights
