"""Where the bits of a text go when the arith codec codes it.

    python scripts/where_bits_go.py TEXT [--model NAME]

Reads the text with the model as `llmzip compress --codec arith` does, and counts the bits of its
tokens three times: with the model alone, with the model mixed with what the text has taught, and as
the file has it, on grids that bear the decoder's noise. Owns the parts that the bits are counted
by. Two such runs of one text on one machine give the same figures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from llmzip.codecs.arith.line_breaks import choose_wrap, walk_flags
from llmzip.codecs.arith.reader import Reader
from llmzip.codecs.arith.segment_coding import write_tokens
from llmzip.codecs.arith.segments import WINDOW_TOKENS, Segment, cut_segments
from llmzip.codecs.arith.stream import SegmentCoder
from llmzip.codecs.shared import opening_embeds
from llmzip.codecs.token_odds import Floats, Tree, token_odds_of
from llmzip.lm.devices import borrowed_torch
from llmzip.lm.layout import segment_start
from llmzip.lm.model import load_model, start_token
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import DEFAULT_MODEL, resolve
from llmzip.store.range_coder import ONE

GUARD = 3e-4  # nats: what a file bears at least


class Tally:
    """A coder that writes nothing and adds up what its bits would take."""

    def __init__(self) -> None:
        self.bits = 0.0

    def bit(self, ones: int, bit: int | None) -> int:
        assert bit is not None
        self.bits -= math.log2((ones if bit else ONE - ones) / ONE)
        return bit


class Parts(SegmentCoder):
    """Codes a segment into a tally, and counts the bits of offsets apart."""

    def __init__(self, tree: Tree, num_lanes: int) -> None:
        tally: Any = Tally()
        super().__init__(tally, tree, num_lanes)
        self.tally, self.offset_bits = tally, 0.0

    def offset(self, lane: int, offset: int | None) -> int | None:
        before = self.tally.bits
        found = super().offset(lane, offset)
        self.offset_bits += self.tally.bits - before
        return found


def main(
    text: Annotated[Path, typer.Argument()],
    model: Annotated[str, typer.Option()] = DEFAULT_MODEL,
) -> None:
    data = text.read_bytes()
    with borrowed_torch(None), torch.no_grad():
        parts = count(data, model)
    for name, bits in parts:
        share = bits / len(data)
        print(f"{name:<58} {bits:>12,.0f} bits {share:8.4f} bits a byte")


def count(data: bytes, model: str) -> list[tuple[str, float]]:
    """What each part takes, in bits."""
    files = resolve(model)
    tokens = Tokens.load(files.path)
    lm = load_model(
        files, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa", decode_only=True
    )
    token_odds = token_odds_of(lm, tokens)
    start_id = start_token(files, tokens)
    wrap = choose_wrap(data)
    head = len(segment_start(start_id))
    segments = cut_segments(data, wrap, tokens, head_tokens=head, max_positions=lm.max_positions)
    assert segments is not None, "the text has bytes that no token stands for"
    reader = Reader(
        lm,
        token_odds,
        opening_embeds(lm, segment_start(start_id), None),
        window_tokens=WINDOW_TOKENS,
    )
    alone = mixed = tokens_bits = offsets = flags = 0.0
    for segment in segments:
        odds = reader.known_odds(segment.lanes, segment.ids)
        alone += float(token_odds.path_bits(odds, np.array(segment.ids)).sum())
        mixed += coded(token_odds.tree, segment, odds, guard=0.0)[0]
        own, between = coded(token_odds.tree, segment, odds, guard=GUARD)
        tokens_bits, offsets = tokens_bits + own, offsets + between
        if segment.flags is not None:
            tally: Any = Tally()
            walk_flags(tally, segment.unwrapped, segment.flags)
            flags += tally.bits
    num_tokens = sum(len(segment.ids) for segment in segments)
    return [
        (f"tokens, {num_tokens:,}: surprisal under the model", alone),
        ("  mixed with what the text has taught (rounded, no guard)", mixed),
        ("  as coded: on grids with a guard", tokens_bits),
        ("offsets of the grids", offsets),
        ("line ends", flags),
        ("all of a stream", tokens_bits + offsets + flags),
    ]


def coded(tree: Tree, segment: Segment, odds: Floats, *, guard: float) -> tuple[float, float]:
    """Bits of a segment's tokens and of its offsets."""
    coder = Parts(tree, segment.lanes.num_lanes)
    write_tokens(coder, tree, segment, odds, guard=guard)
    return coder.tally.bits - coder.offset_bits, coder.offset_bits


if __name__ == "__main__":
    typer.run(main)
