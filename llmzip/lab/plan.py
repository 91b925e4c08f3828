"""What a book needs: vectors, bytes and time, without cramming all of it.

Owns the study `plan`: stretches of a text are read, a few are crammed, the rest is reckoned. Knows
nothing of files.

Rows: "stretch", read without vectors (`seconds`: of reading). "growth" and "capacity" as in
`lab.capacity`, of the first texts, where nobody says what a vector holds. "trial": the front of a
stretch that has LOAD of what a vector holds, crammed from random vectors and decoded (detail:
seconds of decoding).

A chunk is read without left context, so its tokens are dearer than those of a long text: stretches
are as long as a chunk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from llmzip.errors import InputError
from llmzip.lab.capacity import search_exact
from llmzip.lab.crammer import Trial
from llmzip.lab.folder import Row
from llmzip.lab.length_search import front_tokens
from llmzip.lab.measures import Spread
from llmzip.lab.rows import number, row_head, trial_row
from llmzip.lab.study import Study
from llmzip.lab.texts import NATURAL, Sample
from llmzip.progress import check_cancelled

LOAD = 0.8  # of what a vector holds at most: beyond, a run takes many times the steps
BOOK = "book"  # the source that rows name
_ROOM = 3  # a crammed stretch has so many times the tokens of a chunk
_FIRST_SHARE = 0.6  # of a chunk, where the search begins
_RESOLUTION = 0.1  # of the search


@dataclass(frozen=True, kw_only=True)
class BookPlan:
    """A forecast. Errors are standard errors; nan where there is but one measurement."""

    model: str
    original_bytes: int
    num_tokens: int
    bits_a_token: float  # of chunks without left context
    bits_a_token_error: float
    total_bits: float
    gain_bits: float  # that a vector of 16 bits a coordinate holds exactly
    gain_bits_error: float
    tokens_a_vector: float
    is_gain_cut_off: bool  # a text ended before its vector was full: less is needed
    num_vectors: int  # by bits, each full
    num_vectors_error: float
    num_vectors_at_load: int  # each filled up to LOAD, as in the trials
    bytes_at_16_bits: int
    bits: int  # a coordinate, otherwise
    num_vectors_at_bits: int
    bytes_at_bits: int
    scaling: float  # what each of many vectors holds, of what one holds alone
    num_segments: int  # by tokens, as the paper counts: as long as the model reads
    num_vectors_by_tokens: int
    # Of the trials, at LOAD:
    seconds_a_token_step: float  # of the optimiser, a token of a step
    steps_a_chunk: float
    num_trials: int
    num_trials_exact: int
    optimiser_seconds: float
    decoding_seconds: float

    def to_dict(self) -> dict[str, object]:
        """For the summary."""
        return asdict(self)


def plan_book(
    study: Study,
    data: bytes,
    *,
    chunk_tokens: int,
    num_stretches: int = 32,
    num_trials: int = 3,
    gain_bits: Sequence[float] = (),
    bits: int = 4,
    held_share: float = 1.0,
    scaling: float = 1.0,
) -> BookPlan:
    """Leave the rows of a book, those that an earlier run has left excepted, and reckon.

    chunk_tokens: that one vector is expected to hold. gain_bits: that vectors held exactly in
    another run (`gains_of`); none: measured here. held_share: what a vector of so many `bits` a
    coordinate holds, of what one of 16 does. scaling: what each of many vectors holds, of what one
    holds alone. Raises InputError where the book has no tokens, or vectors hold nothing of it.
    """
    ids = study.loaded.tokens.ids_of(data)
    if not ids:
        raise InputError("there is no text to plan for")
    chunk_tokens = max(1, min(chunk_tokens, study.most_tokens, len(ids)))
    stretches = spread_stretches(
        ids, num_tokens=chunk_tokens, room_tokens=min(_ROOM * chunk_tokens, study.most_tokens),
        count=num_stretches,
    )  # fmt: skip
    _read_stretches(study, stretches, chunk_tokens)
    tried = _evenly(stretches, num_trials)
    if not gain_bits:
        first_bits = _FIRST_SHARE * sum(study.plain_bits(tried[0].ids[:chunk_tokens]))
        search_exact(study, tried, num_mem=1, first_bits=first_bits, resolution=_RESOLUTION)
        gain_bits = gains_of(study.own_rows, study.model, source=BOOK)
    gain = Spread.of(gain_bits)
    if not gain.mean > 0:
        raise InputError("one vector of this model holds nothing of this text")
    _run_trials(study, tried, LOAD * gain.mean)
    return reckon(
        study.own_rows, model=study.model, original_bytes=len(data), num_tokens=len(ids),
        mem_dim=study.loaded.decode_lm.dim, max_positions=study.loaded.decode_lm.max_positions,
        gain=gain, bits=bits, held_share=held_share, scaling=scaling,
    )  # fmt: skip


def spread_stretches(
    ids: Sequence[int], *, num_tokens: int, room_tokens: int, count: int
) -> list[Sample]:
    """Stretches that do not overlap in their first num_tokens, evenly spread, with what follows
    them up to room_tokens."""
    count = max(1, min(count, len(ids) // num_tokens))
    spare = (len(ids) // count - num_tokens) // 2
    starts = [i * len(ids) // count + spare for i in range(count)]
    return [
        Sample(
            source=BOOK,
            index=index,
            name=f"from token {start:,}",
            ids=tuple(ids[start : start + room_tokens]),
        )
        for index, start in enumerate(starts)
    ]


def _evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Some of them, evenly spread."""
    count = max(1, min(count, len(samples)))
    return [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]


def _done(study: Study, purpose: str) -> set[object]:
    return {row["text"] for row in study.own_rows if row["purpose"] == purpose}


def _read_stretches(study: Study, stretches: Sequence[Sample], num_tokens: int) -> None:
    crammer, known = study.crammer(), _done(study, "stretch")
    left = [each for each in stretches if each.index not in known]
    done, total = len(stretches) - len(left), len(stretches)
    for group in study.groups(left, "stretches read", done=done, total=total):
        check_cancelled(study.cancel)
        rows: list[Row] = []
        for sample in group:
            began = time.monotonic()
            trial = Trial(sample=sample, num_tokens=num_tokens, num_mem=0, seed=study.seed)
            plain = crammer.plain(trial.ids)
            rows.append({
                **row_head("stretch", study.model, trial, study.loaded.decode_lm.dim),
                "seconds": time.monotonic() - began, "plain_right": int(plain.right.sum()),
                "plain_bits": float(plain.bits.sum()),
            })  # fmt: skip
        study.folder.add(rows)
    study.tell("stretches read", total, total)


def _run_trials(study: Study, samples: Sequence[Sample], wanted_bits: float) -> None:
    known = _done(study, "trial")
    left = [each for each in samples if each.index not in known]
    study.tell("trial chunks", len(samples) - len(left), len(samples))
    trials = [
        Trial(
            sample=sample,
            num_tokens=front_tokens(study.plain_bits(sample.ids), wanted_bits),
            seed=study.seed,
        )
        for sample in left
    ]
    outcomes = list(study.cram(trials))
    began = time.monotonic()
    decoded = study.decode(outcomes)
    num_tokens = sum(outcome.trial.num_tokens for outcome in outcomes)
    second_a_token = (time.monotonic() - began) / max(1, num_tokens)
    study.folder.add(
        trial_row(
            "trial", study.model, outcome, greedy, detail=second_a_token * outcome.trial.num_tokens
        )
        for outcome, greedy in zip(outcomes, decoded, strict=True)
    )
    study.tell("trial chunks", len(samples), len(samples))


def gains_of(rows: Sequence[Row], model: str, *, source: str = NATURAL) -> list[float]:
    """Bits that one vector of 16 bits a coordinate held exactly, of each text of a source: from a
    study of capacity, or this one."""
    return [
        number(row, "plain_bits")
        for row in rows
        if row["purpose"] == "capacity"
        and (row["model"], row["source"], row["num_mem"], row["bits"]) == (model, source, 1, 16)
    ]


def reckon(
    rows: Sequence[Row],
    *,
    model: str,
    original_bytes: int,
    num_tokens: int,
    mem_dim: int,
    max_positions: int,
    gain: Spread,
    bits: int = 4,
    held_share: float = 1.0,
    scaling: float = 1.0,
) -> BookPlan:
    """From rows of stretches and trials to a forecast. gain: bits that a vector holds exactly."""
    rates = [
        number(row, "plain_bits") / number(row, "num_tokens") for row in _of(rows, model, "stretch")
    ]
    rate = Spread.of(rates)
    total_bits = rate.mean * num_tokens
    num_vectors = math.ceil(total_bits / gain.mean)
    at_bits = math.ceil(total_bits / (held_share * gain.mean))
    tokens_a_vector = gain.mean / rate.mean
    num_segments, by_tokens = vectors_by_tokens(
        num_tokens, tokens_a_vector=scaling * tokens_a_vector, max_positions=max_positions
    )
    error = math.hypot(_error(rate) / rate.mean, _error(gain) / gain.mean)
    trials = list(_of(rows, model, "trial"))
    trial_tokens = sum(number(row, "num_tokens") for row in trials)
    # Nothing moves after the last measurement, but it takes its time.
    token_steps = sum(number(row, "num_tokens") * (number(row, "steps") + 1) for row in trials)
    seconds = sum(number(row, "seconds") for row in trials)
    return BookPlan(
        model=model,
        original_bytes=original_bytes,
        num_tokens=num_tokens,
        bits_a_token=rate.mean,
        bits_a_token_error=_error(rate),
        total_bits=total_bits,
        gain_bits=gain.mean,
        gain_bits_error=_error(gain),
        tokens_a_vector=tokens_a_vector,
        is_gain_cut_off=any(row["setting"] == "cut off" for row in _of(rows, model, "capacity")),
        num_vectors=num_vectors,
        num_vectors_error=error * num_vectors,
        num_vectors_at_load=math.ceil(total_bits / (LOAD * gain.mean)),
        bytes_at_16_bits=math.ceil(num_vectors * mem_dim * 16 / 8),
        bits=bits,
        num_vectors_at_bits=at_bits,
        bytes_at_bits=math.ceil(at_bits * mem_dim * bits / 8),
        scaling=scaling,
        num_segments=num_segments,
        num_vectors_by_tokens=by_tokens,
        seconds_a_token_step=seconds / token_steps,
        steps_a_chunk=Spread.of(number(row, "steps") for row in trials).mean,
        num_trials=len(trials),
        num_trials_exact=sum(bool(row["exact"]) for row in trials),
        optimiser_seconds=seconds / trial_tokens * num_tokens,
        decoding_seconds=sum(number(row, "detail") for row in trials) / trial_tokens * num_tokens,
    )


def _of(rows: Sequence[Row], model: str, purpose: str) -> Iterator[Row]:
    return (row for row in rows if row["model"] == model and row["purpose"] == purpose)


def _error(spread: Spread) -> float:
    return spread.std / math.sqrt(spread.count) if spread.count > 1 else math.nan


def vectors_by_tokens(
    num_tokens: int, *, tokens_a_vector: float, max_positions: int
) -> tuple[int, int]:
    """Segments and vectors of a text by the paper's count: each vector holds so many tokens, and a
    segment, start token and vectors included, is as long as the model reads."""
    room = max_positions - 1
    num_mem = max(1, int(room / (1 + tokens_a_vector)))
    segment_tokens = max(1, min(int(num_mem * tokens_a_vector), room - num_mem))
    whole, rest = divmod(num_tokens, segment_tokens)
    num_vectors = whole * num_mem + math.ceil(rest / tokens_a_vector)
    return whole + bool(rest), num_vectors
