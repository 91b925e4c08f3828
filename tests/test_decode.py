"""The decoder's waves: whatever shares a batch, every chunk decodes to the same tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmzip.codecs.cram.greedy import DecodeChunk, decode_chunks, decode_segments
from llmzip.codecs.shared import opening_embeds
from llmzip.lm.layout import pad_ids, segment_start
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.state import State, empty_state, stack_states
from llmzip.lm.zoo import resolve
from tests.tiny_models import ARCHITECTURES

CPU = torch.device("cpu")
NUM_MEM = 2


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> FrozenLM:
    files = resolve(str(tiny_model(request.param)))
    return load_model(files, device=CPU, dtype=torch.float32, attention="sdpa", decode_only=True)


def random_segments(lm: FrozenLM) -> list[list[DecodeChunk]]:
    """11 segments of 1 to 4 chunks of unlike lengths; some patched, some literal."""
    rng, generator = random.Random(5), torch.Generator().manual_seed(5)

    def chunk() -> DecodeChunk:
        num_tokens = rng.randint(1, 14)
        mem = 3.0 * torch.randn(NUM_MEM, lm.dim, generator=generator)
        share = rng.choice([0.0, 0.0, 0.3, 1.0])  # of patched tokens
        patches = {p: rng.randrange(256) for p in range(num_tokens) if rng.random() < share}
        return DecodeChunk(
            num_tokens=num_tokens, mem=None if share == 1.0 else mem, patches=patches
        )

    return [[chunk() for _ in range(rng.randint(1, 4))] for _ in range(11)]


def decode(
    lm: FrozenLM, segments: list[list[DecodeChunk]], *, batch: int, start_id: int | None = 3
) -> dict[tuple[int, int], list[int]]:
    got: dict[tuple[int, int], list[int]] = {}
    places: dict[int, int] = {}

    def on_chunk(segment: int, chunk: int, ids: list[int], margins: list[float]) -> bool:
        assert chunk == places.get(segment, 0)  # in order, once
        places[segment] = chunk + 1
        got[segment, chunk] = ids
        return True

    openings = [opening_embeds(lm, segment_start(start_id), None)] * len(segments)
    decode_segments(lm, segments, openings=openings, batch=batch, on_chunk=on_chunk)
    return got


@torch.no_grad()
def decode_plainly(
    lm: FrozenLM, segments: list[list[DecodeChunk]], *, start_id: int
) -> dict[tuple[int, int], list[int]]:
    """One chunk at a time, everything read anew for every token."""
    got: dict[tuple[int, int], list[int]] = {}
    for index, segment in enumerate(segments):
        context = [start_id]
        for place, chunk in enumerate(segment):
            taken: list[int] = []
            for position in range(chunk.num_tokens):
                token = chunk.patches.get(position)
                if token is None:
                    assert chunk.mem is not None
                    parts = [lm.embed(torch.tensor(context)), chunk.mem]
                    parts.append(lm.embed(torch.tensor(taken, dtype=torch.int64)))
                    known = torch.cat(parts)[None]
                    live = torch.ones(known.shape[:2], dtype=torch.bool)
                    hidden, _ = lm.extend(lm.empty(1), known, live)
                    token = int(lm.logits(hidden[0, -1:]).argmax())
                taken.append(token)
            got[index, place] = taken
            context += taken
    return got


def test_every_batch_size_gives_the_tokens_of_plain_decoding(lm: FrozenLM) -> None:
    segments = random_segments(lm)
    expected = decode_plainly(lm, segments, start_id=3)
    assert any(chunk.mem is None for segment in segments for chunk in segment)
    assert len({tuple(ids) for ids in expected.values()}) > 20
    for batch in (1, 2, 7, 100):
        assert decode(lm, segments, batch=batch) == expected


def test_without_a_start_token(lm: FrozenLM) -> None:
    segments = random_segments(lm)[:5]
    one = decode(lm, segments, batch=1, start_id=None)
    assert decode(lm, segments, batch=5, start_id=None) == one


def test_margins_do_not_depend_on_what_shares_the_batch(lm: FrozenLM) -> None:
    chunks = [c for segment in random_segments(lm) for c in segment if c.mem is not None]
    mem = torch.stack([c.mem for c in chunks if c.mem is not None])
    leads = [list(range(2, 2 + index % 5)) for index in range(len(chunks))]
    lengths = [c.num_tokens for c in chunks]
    rows = [(c.num_tokens, c.patches) for c in chunks]
    together, after = decode_chunks(lm, lm.empty(len(chunks)), leads, mem, rows)
    for row, length in enumerate(lengths):
        alone, _ = decode_chunks(
            lm, lm.empty(1), leads[row : row + 1], mem[row : row + 1], rows[row : row + 1]
        )
        assert together.ids[row, :length].tolist() == alone.ids[0].tolist()
        assert torch.allclose(together.margins[row, :length], alone.margins[0], atol=1e-3)
    # The state returned is the one before mem, untouched by the rows that moved while decoding.
    again, _ = decode_chunks(lm, after, [[]] * len(chunks), mem, rows)
    assert torch.equal(again.ids, together.ids)
    assert torch.allclose(again.margins, together.margins, atol=1e-3)


def test_a_state_in_a_room_reads_as_one_without(lm: FrozenLM) -> None:
    first, first_live = pad_ids([[5, 6, 7], [8]], CPU)
    then, then_live = pad_ids([[9], [4, 5, 6, 7]], CPU)

    def read(state: State) -> tuple[torch.Tensor, State]:
        _, state = lm.extend(state, lm.embed(first), first_live)
        return lm.extend(state, lm.embed(then), then_live)

    with torch.no_grad():
        plain, _ = read(lm.empty(2))
        roomy, state = read(stack_states([lm.empty(2)], room_slots=9))
        assert torch.allclose(roomy[then_live], plain[then_live], atol=1e-4)
        alone = state.row(1)
        assert alone.live.tolist() == [[True] * 5]
        one, one_live = pad_ids([[3], [3]], CPU)
        both, _ = lm.extend(state, lm.embed(one), one_live)
        single, _ = lm.extend(alone, lm.embed(one[:1]), one_live[:1])
    assert torch.allclose(single[0], both[1], atol=1e-4)


def test_a_state_does_not_keep_what_its_memory_was_cut_from() -> None:
    whole = torch.arange(24.0).view(1, 6, 1, 4)
    state = empty_state(1, CPU)
    for part in state.grown(0, tuple(whole.split(2, dim=1))):
        assert part.untyped_storage().nbytes() == part.numel() * 4


def test_rows_kept_in_a_room_move_into_the_gaps() -> None:
    memory = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 3, 4)
    state = State(live=torch.ones(5, 3, dtype=torch.bool), memory=((memory,),))
    for room_slots in (None, 6):
        whole = stack_states([state, empty_state(1, CPU)], room_slots=room_slots)
        kept, order = whole.keep([0, 3, 4])
        assert sorted(order) == [0, 3, 4]
        assert order[0] == 0  # stays where it was
        assert kept.memory[0][0][:, 0, 0, 0].tolist() == [float(row) for row in order]
        assert kept.live.tolist() == [[True] * 3] * 3
