"""Tokens read in place, on the fixed buffers of graphs: the same as without. Here the kernels are
called instead of captured; a CUDA device captures the same functions (`test_cuda`)."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from llmzip.codecs.arith.reader import Reader
from llmzip.codecs.arith.segments import BLOCK_TOKENS, shape_of
from llmzip.codecs.cram.greedy import DecodeChunk, decode_segments
from llmzip.codecs.shared import opening_embeds
from llmzip.codecs.token_odds import TokenOdds, build_tree
from llmzip.lm import graphs as switch
from llmzip.lm import token_graph
from llmzip.lm.graphs import CaptureFailed, graphs, uses_graphs
from llmzip.lm.layout import pad_ids
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State, stack_states
from llmzip.lm.token_graph import TokenGraphs, row_bucket

CPU = torch.device("cpu")


@pytest.fixture
def in_place() -> Iterator[None]:
    with graphs(without_capture=True):
        yield


def graphs_of(lm: FrozenLM) -> TokenGraphs:
    assert lm._token_graphs is not None
    return lm._token_graphs


@torch.no_grad()
def begin(lm: FrozenLM, rows: Sequence[Sequence[int]], slots: int) -> State:
    ids, live = pad_ids(rows, CPU)
    return lm.extend(stack_states([lm.empty(len(rows))], room_slots=slots), lm.embed(ids), live)[1]


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.allclose(left, right, atol=1e-4)


@pytest.mark.usefixtures("in_place")
def test_it_reads_what_the_model_reads(lm: FrozenLM) -> None:
    """Rows of different lengths, some of which leave, and positions that are forgotten."""
    rows = [[5, 6, 7], [8], [9, 10], [3, 4, 5, 6], [2]]
    state, plain = begin(lm, rows, 40), begin(lm, rows, 40)
    own, count = 0, 5
    for step in range(30):
        if step in (7, 12, 20):
            going = [row for row in range(count) if row != step % count]
            count -= 1
            state, order = state.keep(going)
            plain, same = plain.keep(going)
            assert order == same
        if step == 15:
            state, plain = state.without(5, 9), plain.without(5, 9)
        ids = torch.arange(count) * 3 + step
        hidden, state = lm.read_tokens(state, ids)
        with graphs(on=False):
            expected, plain = lm.read_tokens(plain, ids)
        assert close(hidden, expected)
        assert torch.equal(state.live, plain.live)
        assert state.num_forgotten == plain.num_forgotten
        own += sum(graph.holds(state) for graph in graphs_of(lm)._kept)
    assert own == 30
    for layer, other in zip(state.memory, plain.memory, strict=True):
        for part, same_part in zip(layer, other, strict=True):
            seen = state.live[:, None, :, None]
            assert close(part * seen, same_part * seen)


@pytest.mark.usefixtures("in_place")
def test_batches_side_by_side_have_rows_of_their_own(lm: FrozenLM) -> None:
    first, second = begin(lm, [[1, 2]], 20), begin(lm, [[3, 4]], 20)
    with graphs(on=False):
        expected = [
            lm.read_tokens(lm.read_tokens(begin(lm, [row], 20), torch.tensor([7]))[1],
                           torch.tensor([8]))[0]
            for row in ([1, 2], [3, 4])
        ]  # fmt: skip
    _, first = lm.read_tokens(first, torch.tensor([7]))
    _, second = lm.read_tokens(second, torch.tensor([7]))
    assert close(lm.read_tokens(first, torch.tensor([8]))[0], expected[0])
    assert close(lm.read_tokens(second, torch.tensor([8]))[0], expected[1])
    mine, other = (next(g for g in graphs_of(lm)._kept if g.holds(s)) for s in (first, second))
    assert mine is not other and not mine.is_free
    earlier = first.first(2)  # lies in the same rows
    del first
    gc.collect()
    assert not mine.is_free
    del earlier
    gc.collect()
    assert mine.is_free
    _, third = lm.read_tokens(begin(lm, [[5, 6]], 20), torch.tensor([7]))
    assert mine.holds(third)  # used once more, not made anew


@pytest.mark.usefixtures("in_place")
def test_few_are_kept(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    monkeypatch.setattr(token_graph, "_MOST_KEPT", 2)
    for rows in (1, 2, 3, 5, 9):
        lm.read_tokens(begin(lm, [[1]] * rows, 9), torch.tensor([7] * rows))
        gc.collect()
    sizes = [(graph.num_rows, graph.num_slots) for graph in graphs_of(lm)._kept]
    assert sizes[-2:] == [(8, 256), (12, 256)]


def test_sizes_of_batches() -> None:
    assert [row_bucket(n) for n in (1, 2, 3, 5, 8, 9, 12, 13, 17, 33, 50, 97)] == [
        1, 2, 4, 8, 8, 12, 12, 16, 24, 48, 64, 128,
    ]  # fmt: skip


def test_where_capture_fails_tokens_are_read_without(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, ids = begin(lm, [[1, 2]], 9), torch.tensor([7])
    expected, _ = lm.read_tokens(begin(lm, [[1, 2]], 9), ids)

    def fails(*args: object) -> None:
        raise CaptureFailed("no")

    with graphs(without_capture=True):
        assert uses_graphs(CPU)
        monkeypatch.setattr(token_graph, "Replay", fails)
        monkeypatch.setattr(graphs_of(lm), "_kept", [])
        found, after = lm.read_tokens(state, ids)
    assert close(found, expected) and after.num_slots == 3
    assert not uses_graphs(CPU) and uses_graphs(torch.device("cuda"))
    with graphs(on=False):
        assert not uses_graphs(torch.device("cuda"))
    assert switch._Switch.uses_graphs


def test_chunks_decode_to_the_same(lm: FrozenLM) -> None:
    generator = torch.Generator().manual_seed(0)
    segments = [
        [
            DecodeChunk(
                num_tokens=3 + (index + number) % 5,
                mem=torch.randn(2, lm.dim, generator=generator),
                patches={1: index + number},
            )
            for number in range(1 + index % 3)
        ]
        for index in range(7)
    ]

    def decoded() -> dict[tuple[int, int], tuple[list[int], list[float]]]:
        found: dict[tuple[int, int], tuple[list[int], list[float]]] = {}
        decode_segments(
            lm, segments, openings=[opening_embeds(lm, [1], None)] * 7, batch=5,
            on_chunk=lambda s, c, ids, margins: found.__setitem__((s, c), (ids, margins)),
        )  # fmt: skip
        return found

    plain = decoded()
    with graphs(without_capture=True):
        in_place = decoded()
    assert in_place.keys() == plain.keys()
    for key, (ids, margins) in plain.items():
        assert in_place[key][0] == ids
        assert in_place[key][1] == pytest.approx(margins, abs=1e-3)


def test_lanes_forget_in_place(lm: FrozenLM, ids: tuple[int, ...]) -> None:
    token_odds = TokenOdds(build_tree([b"%03d" % token for token in range(lm.vocab_size)]), CPU)
    reader = Reader(lm, token_odds, opening_embeds(lm, [1], None), window_tokens=BLOCK_TOKENS)
    size = 3 * BLOCK_TOKENS + 20
    texts = [(list(ids) * 40)[start : start + size] for start in (0, 5, 9)]
    assert shape_of(size, 1, 0).longest == size

    def masses() -> list[np.ndarray]:
        prefix = [reader.open_prefix(2) for _ in texts]
        for steps, text in zip(prefix, texts, strict=True):
            steps.read(text[:1])
        steps, found = reader.open_lanes(prefix, size), []
        rows = list(range(3))
        for place in range(1, size):
            if place in (300, 700):
                rows = [rows[i] for i in steps.keep(list(range(len(rows) - 1)))]
            if place % 50 == 0:
                found.append(steps.masses())
            steps.read([texts[row][place] for row in rows])
        return [each for each in found if each is not None]

    plain = masses()
    with graphs(without_capture=True):
        in_place = masses()
    assert len(plain) == len(in_place) > 10
    for left, right in zip(plain, in_place, strict=True):
        assert np.allclose(left, right, atol=1e-5)
