"""Which row predicts which token, proven with a model whose hidden states can be read by eye."""

from __future__ import annotations

import pytest
import torch

from llmzip.codecs.cram.greedy import DecodeChunk, decode_segments
from llmzip.codecs.shared import opening_embeds
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows, segment_start, tokens_and_mem
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State, attention_bias, empty_state, new_positions, stack_states

VOCAB = 16
CPU = torch.device("cpu")


class CountingModel:
    """Knows one rule: after a mem vector one-hot at t comes token t, after token t comes token t +
    1."""

    def __init__(self) -> None:
        self.embedding = torch.eye(VOCAB)
        self.head = torch.eye(VOCAB)

    def extend(
        self, state: State, embeds: torch.Tensor, live_new: torch.Tensor
    ) -> tuple[torch.Tensor, State]:
        is_mem = embeds.sum(dim=2, keepdim=True) > 1.5  # mem vectors are one-hot times 2
        hidden = torch.where(is_mem, embeds, embeds.roll(1, dims=2))
        return hidden, State(live=torch.cat([state.live, live_new], dim=1))


def counting_lm() -> FrozenLM:
    return FrozenLM(CountingModel(), dtype=torch.float32, max_positions=1000)


def mem_for(token: int, num_mem: int) -> torch.Tensor:
    """[K, D]; only the last vector may decide token 0."""
    mem = torch.zeros(num_mem, VOCAB)
    mem[:, 3] = 2.0
    mem[-1] = 0.0
    mem[-1, token] = 2.0
    return mem


@pytest.mark.parametrize("num_mem", [1, 2, 5])
def test_teacher_forced_rows_predict_their_tokens(num_mem: int) -> None:
    lm = counting_lm()
    ids, live = pad_ids([[7, 8, 9, 10], [4, 5]], CPU)
    mem = torch.stack([mem_for(7, num_mem), mem_for(4, num_mem)])
    embeds, live_new = mem_and_chunk(mem, lm.embed(ids), live)
    assert embeds.shape == (2, num_mem + 3, VOCAB)
    assert live_new.tolist()[1] == [True] * num_mem + [True, False, False]
    hidden, _ = lm.extend(lm.empty(2), embeds, live_new)
    rows = predicting_rows(hidden, num_mem)
    assert rows.shape[1] == ids.shape[1]
    assert lm.logits(rows[0]).argmax(dim=1).tolist() == [7, 8, 9, 10]
    assert lm.logits(rows[1]).argmax(dim=1).tolist()[:2] == [4, 5]


@pytest.mark.parametrize("num_mem", [1, 2, 5])
@pytest.mark.parametrize("start_id", [None, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_decoder_starts_at_token_0_and_takes_patches(
    num_mem: int, start_id: int | None, batch: int
) -> None:
    segments = [
        [
            DecodeChunk(num_tokens=3, mem=mem_for(7, num_mem), patches={}),
            DecodeChunk(num_tokens=4, mem=mem_for(2, num_mem), patches={1: 11}),
        ],
        [DecodeChunk(num_tokens=2, mem=None, patches={0: 5, 1: 9})],
        [
            DecodeChunk(num_tokens=2, mem=None, patches={0: 1, 1: 1}),
            DecodeChunk(num_tokens=1, mem=mem_for(14, num_mem), patches={}),
        ],
    ]
    got: dict[tuple[int, int], list[int]] = {}
    lm = counting_lm()
    decode_segments(
        lm,
        segments,
        openings=[opening_embeds(lm, segment_start(start_id), None)] * len(segments),
        batch=batch,
        on_chunk=lambda segment, chunk, ids, margins: got.__setitem__((segment, chunk), ids),
    )
    assert got == {
        (0, 0): [7, 8, 9],
        (0, 1): [2, 11, 12, 13],  # the patch at position 1, then on from it
        (1, 0): [5, 9],
        (2, 0): [1, 1],
        (2, 1): [14],
    }


def test_decoder_input_is_lead_then_mem() -> None:
    lm = counting_lm()
    ids, live = pad_ids([[1, 2], [3]], CPU)
    mem = torch.stack([mem_for(5, 2), mem_for(6, 2)])
    embeds, live_new = tokens_and_mem(lm.embed(ids), live, mem)
    assert embeds.shape == (2, 4, VOCAB)
    assert live_new.tolist() == [[True] * 4, [True, False, True, True]]
    assert torch.equal(embeds[1, 2:], mem[1])


def test_segment_start() -> None:
    assert segment_start(None) == []
    assert segment_start(0) == [0]


def test_positions_skip_padding() -> None:
    state = State(live=torch.tensor([[True, True, True], [True, False, False]]))
    live_new = torch.tensor([[True, True, False], [True, True, True]])
    assert new_positions(state, live_new).tolist() == [[3, 4, 4], [1, 2, 3]]


def test_attention_sees_the_past_and_never_padding() -> None:
    state = State(live=torch.tensor([[True, False]]))
    bias = attention_bias(state, torch.tensor([[True, False, True]]), torch.float32)
    assert (bias[0, 0] == 0).tolist() == [
        [True, False, True, False, False],
        [True, False, True, True, False],  # padding sees itself, so that its softmax is not empty
        [True, False, True, False, True],
    ]


def test_stacked_states_pad_short_rows() -> None:
    def state(slots: int) -> State:
        return State(
            live=torch.ones(1, slots, dtype=torch.bool),
            memory=((torch.full((1, 2, slots, 3), float(slots)),),),
        )

    both = stack_states([state(3), empty_state(1, CPU), state(1)])
    assert both.live.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert both.memory[0][0].shape == (3, 2, 3, 3)
    assert torch.equal(both.rows([2]).first(1).memory[0][0], state(1).memory[0][0])
