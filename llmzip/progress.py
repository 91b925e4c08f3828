"""What a long run tells its caller while it works.

Owns the one event type and the cancel check. Knows nothing of terminals.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llmzip.errors import Interrupted

Stage = Literal["model", "share", "measure", "cram", "code", "verify", "decode", "lab"]
ChunkMode = Literal["crammed", "patched", "literal"]


@dataclass(frozen=True, kw_only=True)
class ChunkEvent:
    """What has just happened to one chunk.

    A chunk that is refused by the decoder is optimised further or anew; one that is split comes
    back as two others, which are started in their turn.
    """

    what: Literal["started", "accepted", "refused", "split"]
    first_token: int  # place among all tokens that are crammed
    num_tokens: int
    steps: int = 0  # of the optimiser, so far
    # Of an accepted chunk: how it is stored, at what cost, and how safely it decodes.
    mode: ChunkMode | None = None
    num_patches: int = 0
    stored_bytes: int = 0  # nearly, where vectors are entropy-coded together
    min_margin: float | None = None  # logits


@dataclass(frozen=True, kw_only=True)
class ChunkView:
    """One chunk under way, token by token."""

    first_token: int  # place among all tokens that are crammed
    step: int
    pieces: tuple[bytes, ...]  # [L] the text of each token
    margins: tuple[float, ...]  # [L] logits, as measured last; minus infinity: not yet taken up
    wanted: float  # logits by which a token must lead
    sees_signs: bool  # whether the model sees the vectors as signs alone

    @property
    def shortfall(self) -> float:
        """Mean of the logits that tokens are short of what they must lead by; of those taken up."""
        short = [max(0.0, self.wanted - margin) for margin in self.margins if margin > -math.inf]
        return sum(short) / len(short) if short else 0.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A snapshot, and what has just happened, if anything. Counts that a stage does not have are 0;
    `message` is for people.

    Chunks are segments where an arith file is decoded and texts in the stage "lab"; tokens are the
    optimiser's steps in the stage "share".
    """

    stage: Stage
    message: str = ""
    chunks_done: int = 0
    chunks_total: int = 0
    tokens_right: int = (
        0  # tokens that greedy decoding would get right now, finished chunks included
    )
    tokens_total: int = 0
    bytes_done: int = 0  # original bytes in finished chunks
    bytes_total: int = 0
    bytes_kept: int = 0  # of those done, by an earlier run
    output_bytes: int = 0  # container bytes so far, vectors and patches
    # Share of the stage's work, half-finished chunks included, 0 to 1; and what an earlier run did
    # of it. 0: not known.
    work_done: float = 0.0
    work_kept: float = 0.0
    min_margin: float | None = None  # weakest of the chunks so far, in logits
    chunk: ChunkEvent | None = None  # in the stage "cram"
    view: Callable[[], ChunkView] | None = None  # of a chunk under way; while the callback runs


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the work ahead will take, before it is begun. None: not known, or not this time."""

    seconds: float | None = None
    needs_bytes: int | None = None  # of memory, the device's
    free_bytes: int | None = None


OnProgress: TypeAlias = Callable[[Progress], None]
# Is told before the model is loaded (memory) and before the optimiser begins (time); may raise to
# end the work there.
OnForecast: TypeAlias = Callable[[Forecast], None]


def check_cancelled(cancel: threading.Event | None) -> None:
    """Raise Interrupted where the caller asked to stop; called between optimiser and decoder
    steps."""
    if cancel is not None and cancel.is_set():
        raise Interrupted("stopped before the end; nothing was written")
