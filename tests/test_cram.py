"""The engine and the decoder on tiny models: what they must keep, whatever the optimisation
does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmzip.codecs.cram.chunking import (
    MAX_CHUNK_TOKENS,
    TAIL_LOAD,
    CutRule,
    Segment,
    Span,
    plan_segments,
)
from llmzip.codecs.cram.engine import Engine
from llmzip.codecs.cram.greedy import DecodeChunk, decode_chunks, decode_segments
from llmzip.codecs.cram.slots import as_stored
from llmzip.codecs.cram.tasks import Crammed, EngineSettings, Task, split
from llmzip.codecs.shared import opening_embeds
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows
from llmzip.lm.model import FrozenLM, load_model, target_margins
from llmzip.lm.zoo import resolve

CPU = torch.device("cpu")
MIN_MARGIN = 0.05


def plan(
    lm: FrozenLM, ids: tuple[int, ...], *, context: int, budget: float, spared: float = 0.0
) -> list[Segment]:
    rule = CutRule(context_tokens=context, budget_bits=budget, spared=spared)
    return list(plan_segments(lm, ids, rule, start_id=None))


def engine(lm: FrozenLM, *, max_steps: int = 80, num_mem: int = 2, seed: int = 0) -> Engine:
    settings = EngineSettings(
        num_mem=num_mem, max_steps=max_steps, seed=seed, context_tokens=1000,
        min_margin=MIN_MARGIN, step_price_bits=0.2, batch_tokens=256,
    )  # fmt: skip
    return Engine(lm, lm, settings)


def cram(lm: FrozenLM, segments: list[Segment], **settings: int) -> list[Crammed]:
    tasks = (
        Task(segment=segment, start=span.start, end=span.end)
        for segment in segments
        for span in segment.spans
    )
    found = list(engine(lm, **settings).run(tasks))
    return sorted(found, key=lambda chunk: (chunk.task.segment.index, chunk.task.place))


def weights_hash(lm: FrozenLM) -> str:
    digest = hashlib.sha256()
    parts = [lm._backend.embedding, lm._backend.head]
    for layer in lm._backend._layers:  # type: ignore[attr-defined]
        parts += [getattr(part, "_weight", part) for part in vars(layer).values()]
    for tensor in parts:
        assert not tensor.requires_grad
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


class TestChunking:
    def test_every_token_is_in_exactly_one_chunk(self, lm: FrozenLM, ids: tuple[int, ...]) -> None:
        for context in (0, 7, 1000):
            segments = plan(lm, ids, context=context, budget=40.0)
            assert tuple(i for segment in segments for i in segment.ids) == ids
            for segment in segments:
                edges = [span.start for span in segment.spans] + [len(segment.ids)]
                assert edges[0] == 0
                assert [span.end for span in segment.spans] == edges[1:]

    def test_chunks_hold_bits_not_tokens(self, lm: FrozenLM, ids: tuple[int, ...]) -> None:
        budget = 40.0
        (segment,) = plan(lm, ids, context=1000, budget=budget)
        bits = segment.surprisal_bits
        for span in segment.spans:
            held = sum(bits[span.start : span.end])
            assert held == pytest.approx(span.surprisal_bits)
            assert held <= budget or span.end - span.start == 1
        assert len({span.end - span.start for span in segment.spans}) > 1
        fewest, open_bits = 1, 0.0  # chunks, each filled until the next token does not fit
        for token_bits in bits:
            fewest, open_bits = (
                (fewest, open_bits + token_bits)
                if open_bits + token_bits <= budget
                else (fewest + 1, token_bits)
            )
        assert len(segment.spans) == fewest
        held = [span.surprisal_bits for span in segment.spans]
        assert min(held) > max(held) - 2 * max(bits)  # and none is a small rest

    def test_the_least_expected_tokens_count_nothing(
        self, lm: FrozenLM, ids: tuple[int, ...]
    ) -> None:
        (segment,) = plan(lm, ids, context=1000, budget=40.0, spared=0.25)
        for span in segment.spans:
            bits = segment.surprisal_bits[span.start : span.end]
            kept = [each for each in bits if each <= segment.most_bits]
            assert sum(kept) == pytest.approx(span.surprisal_bits)
            assert sum(kept) <= TAIL_LOAD * 40.0  # the end of a text shares out what is over
        spared = sum(each > segment.most_bits for each in segment.surprisal_bits)
        assert 0.2 * len(ids) < spared <= 0.25 * len(ids)
        (plain,) = plan(lm, ids, context=1000, budget=40.0)
        assert len(segment.spans) < len(plain.spans)

    def test_the_last_bits_of_a_text_get_no_vector_of_their_own(
        self, lm: FrozenLM, ids: tuple[int, ...]
    ) -> None:
        (whole,) = plan(lm, ids, context=1000, budget=1e9)
        bits = whole.surprisal_bits
        budget = sum(bits[:-2])  # all but two tokens fill one chunk
        for context in (0, 1000):
            found = plan(lm, ids, context=context, budget=max(budget, sum(bits) / 1.19))
            assert [(s.start, s.end) for f in found for s in f.spans] == [(0, len(ids))]
        found = plan(lm, ids, context=1000, budget=sum(bits) / 1.3)
        assert len(found[0].spans) == 2

    def test_context_bounds_what_is_left_of_a_chunk(
        self, lm: FrozenLM, ids: tuple[int, ...]
    ) -> None:
        for context in (0, 5, 20):
            segments = plan(lm, ids, context=context, budget=30.0)
            assert all(span.start <= context for s in segments for span in s.spans)
            # A segment ends only where its next chunk would see more than that.
            assert all(len(segment.ids) > context for segment in segments[:-1])

    def test_surprisal_is_taken_with_the_decoders_context(
        self, lm: FrozenLM, ids: tuple[int, ...]
    ) -> None:
        segment = plan(lm, ids, context=1000, budget=50.0)[0]
        block, live = pad_ids([segment.ids], CPU)
        with torch.no_grad():
            hidden, _ = lm.extend(lm.empty(1), lm.embed(block), live)
            logp = torch.log_softmax(lm.logits(hidden[0]), dim=1) / -torch.log(torch.tensor(2.0))
        expected = logp[:-1].gather(1, block[0, 1:, None])[:, 0]
        assert torch.allclose(torch.tensor(segment.surprisal_bits[1:]), expected, atol=1e-3)

    def test_a_predictable_text_still_closes_its_chunks(self, lm: FrozenLM) -> None:
        segments = plan(lm, (1,) * 300, context=0, budget=1e9)
        assert [len(segment.ids) for segment in segments] == [MAX_CHUNK_TOKENS, 44]


class TestEngine:
    def test_only_mem_moves_and_the_vectors_returned_are_the_ones_certified(
        self, lm: FrozenLM, ids: tuple[int, ...]
    ) -> None:
        before = weights_hash(lm)
        segments = plan(lm, ids, context=30, budget=40.0)
        chunks = cram(lm, segments)
        assert weights_hash(lm) == before
        assert sum(chunk.mem is not None for chunk in chunks) >= len(chunks) / 2
        for chunk in chunks:
            if chunk.mem is None:
                continue
            assert chunk.mem.dtype == torch.bfloat16
            # Teacher-forced, in one piece, without any cache of the engine's.
            task = chunk.task
            block, live = pad_ids([task.ids], CPU)
            mem = chunk.mem.float()[None]
            embeds, live_new = mem_and_chunk(mem, lm.embed(block), live)
            past, past_live = pad_ids([task.segment.ids[: task.start]], CPU)
            with torch.no_grad():
                _, state = lm.extend(lm.empty(1), lm.embed(past), past_live)
                if not task.start:
                    state = lm.empty(1)
                hidden, _ = lm.extend(state, embeds, live_new)
                rows = predicting_rows(hidden, mem.shape[1])[0]
                margins = target_margins(lm.logits(rows), block[0])
            kept = [p for p in range(task.num_tokens) if p not in dict(chunk.patches)]
            assert min(float(margins[p]) for p in kept) == pytest.approx(chunk.min_margin, abs=1e-3)
            assert chunk.min_margin is not None
            assert chunk.min_margin >= MIN_MARGIN

    def test_what_bf16_finds_fp32_certifies(
        self, lm: FrozenLM, ids: tuple[int, ...], tiny_model: Callable[..., Path]
    ) -> None:
        files = resolve(str(tiny_model("llama")))
        fast = load_model(files, device=CPU, dtype=torch.bfloat16, attention="sdpa")
        settings = EngineSettings(
            num_mem=2, max_steps=60, seed=0, context_tokens=1000,
            min_margin=MIN_MARGIN, step_price_bits=0.2,
        )  # fmt: skip
        segments = plan(lm, ids[:24], context=1000, budget=40.0)
        tasks = (Task(segment=s, start=p.start, end=p.end) for s in segments for p in s.spans)
        chunks = list(Engine(fast, lm, settings).run(tasks))
        got: dict[int, list[int]] = {}
        chunks.sort(key=lambda chunk: chunk.task.place)
        decode_segments(
            lm,
            [
                [
                    DecodeChunk(
                        num_tokens=chunk.task.num_tokens,
                        mem=None if chunk.mem is None else chunk.mem.float(),
                        patches=dict(chunk.patches),
                    )
                    for chunk in chunks
                ]
            ],
            openings=[opening_embeds(lm, [], None)],
            batch=1,
            on_chunk=lambda segment, chunk, row, margins: got.__setitem__(chunk, row),
        )
        assert [i for _, row in sorted(got.items()) for i in row] == list(ids[:24])
        assert any(chunk.mem is not None for chunk in chunks)

    def test_no_step_is_lost_between_batches(self, lm: FrozenLM, ids: tuple[int, ...]) -> None:
        segments = plan(lm, ids, context=0, budget=30.0)
        together = cram(lm, segments, seed=3)
        alone = [chunk for segment in segments for chunk in cram(lm, [segment], seed=3)]
        assert [c.task.ids for c in together if c.mem is not None]
        covered = [i for chunk in together for i in chunk.task.ids]
        assert covered == list(ids) == [i for chunk in alone for i in chunk.task.ids]

    def test_split_keeps_every_token_and_balances_bits(self) -> None:
        segment = Segment(
            index=0, offset=10, start_ids=(), ids=(1, 2, 3, 4, 5),
            surprisal_bits=(8.0, 1.0, 1.0, 1.0, 5.0),
            spans=(Span(start=0, end=5, surprisal_bits=16.0),),
        )  # fmt: skip
        task = Task(segment=segment, start=0, end=5)
        first, second = split(task, context_tokens=1000)
        assert (first.ids, second.ids) == ((1,), (2, 3, 4, 5))
        assert (first.place, second.place) == (10, 11)
        first, second = split(task, context_tokens=0)
        assert (first.ids, second.ids) == ((1,), (2, 3, 4, 5))
        assert (second.start, second.place) == (0, 11)
        first, second = split(Task(segment=segment, start=2, end=5), context_tokens=3)
        assert (first.ids, second.ids) == ((3, 4), (5,))
        assert (second.start, second.segment.offset) == (0, 14)  # 4 tokens would be left of it
        two = split(Task(segment=segment, start=3, end=5), context_tokens=1000)
        assert [part.ids for part in two] == [(4,), (5,)]


class TestDecoding:
    def test_cached_decoding_equals_decoding_from_scratch(
        self, lm: FrozenLM, ids: tuple[int, ...]
    ) -> None:
        mem = torch.randn(2, 2, lm.dim, generator=torch.Generator().manual_seed(1))
        lead = [list(ids[:9]), list(ids[9:14])]
        decoded, _ = decode_chunks(lm, lm.empty(2), lead, mem, [(12, {}), (7, {3: 5})])
        for row, (start, length, forced) in enumerate(
            zip(lead, (12, 7), ({}, {3: 5}), strict=True)
        ):
            taken: list[int] = []
            for position in range(length):
                known = torch.cat([lm.embed(torch.tensor(start)), mem[row]])
                if taken:
                    known = torch.cat([known, lm.embed(torch.tensor(taken))])
                live = torch.ones(1, known.shape[0], dtype=torch.bool)
                with torch.no_grad():
                    hidden, _ = lm.extend(lm.empty(1), known[None], live)
                best = int(lm.logits(hidden[0, -1:]).argmax())
                taken.append(forced.get(position, best))
            assert decoded.ids[row, :length].tolist() == taken

    def test_end_of_text_does_not_stop_it(
        self, lm: FrozenLM, tiny_model: Callable[..., Path]
    ) -> None:
        config = json.loads((tiny_model("llama") / "config.json").read_text())
        end = int(config["eos_token_id"])
        mem = torch.randn(1, lm.dim, generator=torch.Generator().manual_seed(2))
        got: list[list[int]] = []
        decode_segments(
            lm,
            [[DecodeChunk(num_tokens=9, mem=as_stored(mem), patches={2: end})]],
            openings=[opening_embeds(lm, [], None)],
            batch=4,
            on_chunk=lambda segment, chunk, row, margins: got.append(row),
        )
        assert len(got[0]) == 9
        assert got[0][2] == end
