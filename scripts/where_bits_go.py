"""Where the bits of a text go when the arith codec codes it.

    python scripts/where_bits_go.py TEXT [--model NAME]

Reads the text with the model as `llmzip compress --codec arith` does, and codes it three times into
coders that count bits: with the model alone, with the model mixed with what the text has taught,
and as the file has it, on grids that bear the decoder's noise. Owns the parts that the bits are
counted by. Two such runs of one text on one machine give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from llmzip.codecs.arith.line_breaks import choose_wrap, walk_flags
from llmzip.codecs.arith.reader import Reader, opening_embeds
from llmzip.codecs.arith.segments import WINDOW_TOKENS, Segment, cut_segments
from llmzip.codecs.arith.stream import OFFSET_TOKENS, SegmentCoder
from llmzip.codecs.odds_grid import GRIDS, grid_of, safe_offset
from llmzip.codecs.token_odds import Floats, Tree, token_odds_of
from llmzip.lm.devices import borrowed_torch
from llmzip.lm.layout import segment_start
from llmzip.lm.model import load_model, start_token
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import DEFAULT_MODEL, resolve

ONE = 1 << 24
GUARD = 3e-4  # nats: what a file bears at least


class Tally:
    """A coder that writes nothing and adds up what its bits would take."""

    def __init__(self) -> None:
        self.bits = 0.0

    def bit(self, ones: int, bit: int | None) -> int:
        assert bit is not None
        self.bits -= math.log2((ones if bit else ONE - ones) / ONE)
        return bit

    def taken(self) -> float:
        """Bits since the last call."""
        found, self.bits = self.bits, 0.0
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
    reader = Reader(lm, token_odds, opening_embeds(lm, start_id, None), window_tokens=WINDOW_TOKENS)
    alone = mixed = tokens_bits = offsets = flags = 0.0
    for segment in segments:
        odds = reader.known_odds(segment.lanes, segment.ids)
        alone += float(token_odds.path_bits(odds, np.array(segment.ids)).sum())
        mixed += coded(token_odds.tree, segment, odds, guard=None)[0]
        own, between = coded(token_odds.tree, segment, odds, guard=GUARD)
        tokens_bits, offsets = tokens_bits + own, offsets + between
        if segment.flags is not None:
            tally: Any = Tally()
            walk_flags(tally, segment.unwrapped, segment.flags)
            flags += tally.taken()
    num_tokens = sum(len(segment.ids) for segment in segments)
    return [
        (f"tokens, {num_tokens:,}: surprisal under the model", alone),
        ("  mixed with what the text has taught (rounded, no guard)", mixed),
        ("  as coded: on grids with a guard", tokens_bits),
        ("offsets of the grids", offsets),
        ("line ends", flags),
        ("all of a stream", tokens_bits + offsets + flags),
    ]


def coded(
    tree: Tree, segment: Segment, odds: Floats, *, guard: float | None
) -> tuple[float, float]:
    """Bits of a segment's tokens and of its offsets. guard: of the grids; None: the first grid
    always, and no offset."""
    tally: Any = Tally()
    ids, lanes = segment.ids, segment.lanes
    coder = SegmentCoder(tally, tree, lanes.num_lanes)
    is_decision = tree.nodes[np.asarray(ids)] >= 0
    own = offsets = 0.0
    blocks: list[list[list[int]]] = [[] for _ in lanes.spans]
    for lane, place in lanes.order:
        index = len(coder.predictor.pasts[lane])
        if index % OFFSET_TOKENS == 0:
            places = slice(place, min(place + OFFSET_TOKENS, lanes.spans[lane][1]))
            grid = GRIDS[0]
            if guard is not None:
                offset = safe_offset(odds[places], is_decision[places], guard=guard)
                coder.offset(lane, offset)
                offsets += tally.taken()
                grid = grid_of(offset) or grid
            blocks[lane] = grid.values(odds[places]).tolist()
        coder.token(lane, given(blocks[lane][index % OFFSET_TOKENS]), ids[place])
        own += tally.taken()
    return own, offsets


def given(row: list[int]) -> Callable[[int, int], int]:
    return lambda depth, _node: row[depth]


if __name__ == "__main__":
    typer.run(main)
