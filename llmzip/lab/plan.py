"""What a book needs: vectors, bytes and time, without cramming all of it.

Owns the study `plan`: stretches of a text are read, a few are crammed, the rest is estimated.
Knows nothing of files.

Rows: "stretch", read without vectors (`seconds`: of reading). "growth" and "capacity" as in
`lab.capacity`, of a few stretches, where it is not known what a vector holds. "trial": the front of
a stretch with LOAD of what a vector holds, crammed from random vectors and decoded (detail: seconds
of decoding).

A chunk is read without left context, so its tokens have more bits than those of a long text:
stretches are as long as a chunk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llmzip.errors import InputError
from llmzip.lab.capacity import front_tokens, search_exact
from llmzip.lab.folder import Row
from llmzip.lab.measures import Spread, number, spread_of
from llmzip.lab.study import Study
from llmzip.lab.texts import NATURAL, Sample
from llmzip.lab.trials import Trial, row_head, trial_row
from llmzip.progress import check_cancelled

LOAD = 0.8  # of what a vector holds at most: beyond, a run takes many times the steps
BOOK = "book"  # the source in rows
_ROOM = 3  # tokens of a stretch that is crammed, divided by those of a chunk
_FIRST_SHARE = 0.6  # of a chunk, where the search begins
_RESOLUTION = 0.1  # of the search


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is measured of a book, and what is assumed of vectors."""

    chunk_tokens: int  # that one vector is expected to hold
    num_stretches: int = 32
    num_trials: int = 3
    gain_bits: Sequence[float] = ()  # that vectors hold exactly (`gains_of`); none: measured here
    bits: int = 4  # of a coordinate, beside 16
    held_share: float = 1.0  # what a vector of so many bits holds, divided by what one of 16 holds
    scaling: float = 1.0  # what each of many vectors holds, divided by what one alone holds


@dataclass(frozen=True, kw_only=True)
class Book:
    """The text, and the model that reads it."""

    model: str
    original_bytes: int
    num_tokens: int
    mem_dim: int
    max_positions: int


@dataclass(frozen=True, kw_only=True)
class BookPlan:
    """A forecast. Errors are standard errors; nan where there is only one measurement."""

    model: str
    original_bytes: int
    num_tokens: int
    bits_a_token: float  # of chunks without left context
    bits_a_token_error: float
    total_bits: float
    gain_bits: float  # that a vector of 16 bits a coordinate holds exactly
    gain_bits_error: float
    tokens_a_vector: float
    is_gain_cut_off: bool  # a text ended before its vector was full: fewer vectors are needed
    num_vectors: int  # by bits, each full
    num_vectors_error: float
    num_vectors_at_load: int  # each filled up to LOAD, as in the trials
    bytes_at_16_bits: int
    bits: int  # of a coordinate, beside 16
    num_vectors_at_bits: int
    bytes_at_bits: int
    scaling: float  # what each of many vectors holds, divided by what one alone holds
    num_segments: int  # by tokens, as the paper counts: as long as the model can read
    num_vectors_by_tokens: int
    # Of the trials, at LOAD:
    seconds_a_token_step: float  # of the optimiser, for one token in one step
    steps_a_chunk: float
    num_trials: int
    num_trials_exact: int
    optimiser_seconds: float
    decoding_seconds: float

    def to_dict(self) -> dict[str, object]:
        """For the summary."""
        return asdict(self)


def plan_book(study: Study, data: bytes, settings: PlanSettings) -> BookPlan:
    """Add the rows of a book, except for those that an earlier run has added, and estimate the
    rest. Raises InputError where the book has no tokens, or vectors hold nothing of it."""
    ids = study.loaded.tokens.ids_of(data)
    if not ids:
        raise InputError("there is no text to plan for")
    chunk_tokens = max(1, min(settings.chunk_tokens, study.max_tokens, len(ids)))
    stretches = spread_stretches(
        ids, num_tokens=chunk_tokens, room_tokens=min(_ROOM * chunk_tokens, study.max_tokens),
        count=settings.num_stretches,
    )  # fmt: skip
    _read_stretches(study, stretches, chunk_tokens)
    count = max(1, min(settings.num_trials, len(stretches)))
    crammed = [stretches[(2 * i + 1) * len(stretches) // (2 * count)] for i in range(count)]
    gain_bits = settings.gain_bits
    if not gain_bits:
        first_bits = _FIRST_SHARE * sum(study.plain_bits(crammed[0].ids[:chunk_tokens]))
        search_exact(study, crammed, num_mem=1, first_bits=first_bits, resolution=_RESOLUTION)
        gain_bits = gains_of(study.own_rows, study.model, source=BOOK)
    gain = Spread.of(gain_bits)
    if not gain.mean > 0:
        raise InputError("one vector of this model holds nothing of this text")
    _run_trials(study, crammed, LOAD * gain.mean)
    lm = study.loaded.decode_lm
    book = Book(
        model=study.model, original_bytes=len(data), num_tokens=len(ids), mem_dim=lm.dim,
        max_positions=lm.max_positions,
    )  # fmt: skip
    return forecast(study.own_rows, book, gain, settings)


def spread_stretches(
    ids: Sequence[int], *, num_tokens: int, room_tokens: int, count: int
) -> list[Sample]:
    """Stretches of room_tokens at most, evenly spread, whose first num_tokens do not overlap."""
    count = max(1, min(count, len(ids) // num_tokens))
    spare = (len(ids) // count - num_tokens) // 2
    starts = [i * len(ids) // count + spare for i in range(count)]
    samples = []
    for index, start in enumerate(starts):
        taken, name = tuple(ids[start : start + room_tokens]), f"from token {start:,}"
        samples.append(Sample(source=BOOK, index=index, name=name, ids=taken))
    return samples


def _read_stretches(study: Study, stretches: Sequence[Sample], num_tokens: int) -> None:
    runner = study.runner()

    def read(group: Sequence[Sample]) -> list[Row]:
        check_cancelled(study.cancel)
        rows: list[Row] = []
        for trial in study.trials(group, num_tokens, 0):
            began = time.monotonic()
            plain = runner.plain(trial.ids)
            right, bits = int(plain.right.sum()), float(plain.bits.sum())
            found: Row = {
                "seconds": time.monotonic() - began,
                "plain_right": right,
                "plain_bits": bits,
            }
            rows.append(row_head("stretch", study.model, trial, study.loaded.decode_lm.dim) | found)
        return rows

    what, left = "stretches read", study.without_rows(stretches, "stretch")
    study.measure([(what, left, read)], total=len(stretches), last=what)


def _run_trials(study: Study, samples: Sequence[Sample], wanted_bits: float) -> None:
    """Cram all trials side by side, as they would be in the whole book, and time them."""
    left = study.without_rows(samples, "trial")
    study.on_progress("trial chunks", len(samples) - len(left), len(samples))
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
    study.on_progress("trial chunks", len(samples), len(samples))


def gains_of(rows: Sequence[Row], model: str, *, source: str = NATURAL) -> list[float]:
    """Bits that one vector of 16 bits a coordinate held exactly, of each text of a source: from
    rows of `capacity` or of this study."""
    return [
        number(row, "plain_bits")
        for row in rows
        if row["purpose"] == "capacity"
        and (row["model"], row["source"], row["num_mem"], row["bits"]) == (model, source, 1, 16)
    ]


def forecast(rows: Sequence[Row], book: Book, gain: Spread, settings: PlanSettings) -> BookPlan:
    """Estimate a book from rows of stretches and trials. gain: bits that a vector holds exactly."""
    own = [row for row in rows if row["model"] == book.model]
    stretches = [row for row in own if row["purpose"] == "stretch"]
    rate = Spread.of(number(row, "plain_bits") / number(row, "num_tokens") for row in stretches)
    total_bits = rate.mean * book.num_tokens
    num_vectors = math.ceil(total_bits / gain.mean)
    at_bits = math.ceil(total_bits / (settings.held_share * gain.mean))
    tokens_a_vector = gain.mean / rate.mean
    num_segments, by_tokens = vectors_by_tokens(
        book.num_tokens, tokens_a_vector=settings.scaling * tokens_a_vector,
        max_positions=book.max_positions,
    )  # fmt: skip
    error = math.hypot(_error(rate) / rate.mean, _error(gain) / gain.mean)
    trials = [row for row in own if row["purpose"] == "trial"]
    trial_tokens, seconds, decoding_seconds = (
        sum(number(row, name) for row in trials) for name in ("num_tokens", "seconds", "detail")
    )
    # The last measurement takes its time, too, though nothing moves after it.
    token_steps = sum(number(row, "num_tokens") * (number(row, "steps") + 1) for row in trials)
    return BookPlan(
        model=book.model,
        original_bytes=book.original_bytes,
        num_tokens=book.num_tokens,
        bits_a_token=rate.mean,
        bits_a_token_error=_error(rate),
        total_bits=total_bits,
        gain_bits=gain.mean,
        gain_bits_error=_error(gain),
        tokens_a_vector=tokens_a_vector,
        is_gain_cut_off=any((r["purpose"], r["setting"]) == ("capacity", "cut off") for r in own),
        num_vectors=num_vectors,
        num_vectors_error=error * num_vectors,
        num_vectors_at_load=math.ceil(total_bits / (LOAD * gain.mean)),
        bytes_at_16_bits=math.ceil(num_vectors * book.mem_dim * 16 / 8),
        bits=settings.bits,
        num_vectors_at_bits=at_bits,
        bytes_at_bits=math.ceil(at_bits * book.mem_dim * settings.bits / 8),
        scaling=settings.scaling,
        num_segments=num_segments,
        num_vectors_by_tokens=by_tokens,
        seconds_a_token_step=seconds / token_steps,
        steps_a_chunk=spread_of(trials, "steps").mean,
        num_trials=len(trials),
        num_trials_exact=sum(bool(row["exact"]) for row in trials),
        optimiser_seconds=seconds / trial_tokens * book.num_tokens,
        decoding_seconds=decoding_seconds / trial_tokens * book.num_tokens,
    )


def _error(spread: Spread) -> float:
    return spread.std / math.sqrt(spread.count) if spread.count > 1 else math.nan


def vectors_by_tokens(
    num_tokens: int, *, tokens_a_vector: float, max_positions: int
) -> tuple[int, int]:
    """Segments and vectors of a text as the paper counts: each vector holds so many tokens, and a
    segment, start token and vectors included, is as long as the model can read."""
    room = max_positions - 1
    num_mem = max(1, int(room / (1 + tokens_a_vector)))
    segment_tokens = max(1, min(int(num_mem * tokens_a_vector), room - num_mem))
    whole, rest = divmod(num_tokens, segment_tokens)
    num_vectors = whole * num_mem + math.ceil(rest / tokens_a_vector)
    return whole + bool(rest), num_vectors
