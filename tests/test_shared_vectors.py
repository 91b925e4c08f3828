"""Vectors before whole segments of crammed files: how they are found, kept in a file and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

import llmzip
from llmzip.api.compress import compress_bytes, estimate_bytes
from llmzip.api.decompress import salvage_bytes
from llmzip.codecs.context import Context
from llmzip.codecs.cram import plan as planning
from llmzip.codecs.cram import sharing
from llmzip.codecs.cram.checkpoint import pack_segments, unpack_segments
from llmzip.codecs.cram.chunking import CutRule, plan_segments
from llmzip.codecs.cram.sharing import SharingPlan, learn_shared
from llmzip.codecs.shared import SharedMem
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.errors import Corrupt, SettingsError
from llmzip.inspect.export import export_vectors
from llmzip.lm.model import FrozenLM
from llmzip.progress import Forecast, Progress
from llmzip.store.container import parse_container, write_container
from llmzip.store.payload import TextRun
from llmzip.store.vectors import GridMem, mem_bits
from tests.containers import changed, cram_container, cram_of
from tests.reference import read_container
from tests.test_checkpoint import Stopwatch, compress
from tests.test_coded import a_grid, coded_chunk
from tests.tiny_models import TEXT

DATA = Path(__file__).parent / "data"
LONG = TEXT.encode() * 3
WHOLE = CutRule(context_tokens=9**9, budget_bits=9e9)
PLAN = SharingPlan(num_mem=1, spared=0.1, seed=0, free_steps=8, grid_steps=4)


# In a file


def a_file(*shared: GridMem | None, **more: Any) -> Any:
    """As many segments of one chunk as there are entries."""
    chunks = [coded_chunk(check=index) for index in range(len(shared))]
    return cram_container(chunks, bits=4, shared=shared, **more)


A, B = a_grid(2, 0), a_grid(-1, 3, step=0x3FA0)


@pytest.mark.parametrize(
    "shared", [(A,), (None, A), (A, A, None, A), (A, B, B), (None, A, None, None, B, None)]
)
def test_any_segments_may_have_some(shared: tuple[GridMem | None, ...]) -> None:
    container = a_file(*shared)
    assert read_container(write_container(container)) == container
    assert cram_of(container).shared_mems == shared


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([None, A, B]), min_size=1, max_size=12))
def test_what_is_written_is_read(shared: list[GridMem | None]) -> None:
    shared = shared if any(each is not None for each in shared) else []
    container = a_file(*shared) if shared else a_file(A)
    packed = write_container(container)
    assert read_container(packed) == container
    assert write_container(read_container(packed)) == packed


def test_its_bytes() -> None:
    """Of a file with signs: 5 more in the header for each of the plane's sizes and codes, 2 in the
    columns for a set."""
    with_some = (DATA / "v1_shared.crm").read_bytes()
    without = (DATA / "v1_signs.crm").read_bytes()
    plane = parse_container(with_some).sizes.planes["shared"]
    assert "shared" not in parse_container(without).sizes.planes
    fields = bytes.fromhex("02 02") + bytes([plane]) + bytes.fromhex("03 fc 03 02")
    assert fields in with_some and len(with_some) == len(without) + plane + 8 + 4
    assert with_some[9] == without[9] and with_some[12] == without[12] + 4


@pytest.mark.parametrize(
    "shared, why",
    [
        ((A, A, A), "shared vectors of 3 segments"),
        ((None, None), "before no segment"),
        ((A, a_grid(1, 2, 3)), "shared vectors: symbols are"),
        (
            (A, GridMem(symbols=np.zeros((2, 2), np.int16), steps=A.steps)),
            "shared vectors: symbols",
        ),
        ((a_grid(2000, 0), None), "a symbol beyond"),
        ((a_grid(1, 1, step=3), None), "an invalid step"),
    ],
)
def test_rules(shared: tuple[GridMem | None, ...], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        write_container(changed(a_file(A, A), shared=shared))


def test_raw_files_have_none() -> None:
    raw = cram_container([replace(coded_chunk(), mem=mem_bits(a_grid()))], bits=16, shared=(A,))
    with pytest.raises(SettingsError, match="beside raw ones"):
        write_container(raw)


def test_damage_is_found() -> None:
    """Every byte of the plane and of the columns that say whose it is."""
    packed = write_container(a_file(None, A, B, B))
    for place in range(12, len(packed)):
        broken = bytearray(packed)
        broken[place] ^= 0x55
        with pytest.raises(llmzip.FormatError):
            read_container(bytes(broken))


def resealed(packed: bytes, old: bytes, new: bytes) -> bytes:
    """With one place changed and both checksums right again."""
    from tests.test_container import seal, split

    front, fields, body = split(packed)
    assert (fields + body).count(old) == 1 and len(old) == len(new)
    return seal(front, fields.replace(old, new), body.replace(old, new))


@pytest.mark.parametrize(
    "old, new, why",
    [
        # Columns: the first set skips one segment and has one, the second has two.
        (bytes([1, 1, 0, 2]), bytes([1, 0, 0, 2]), "shared vectors before 1 segments of 4"),
        (bytes([1, 1, 0, 2]), bytes([1, 1, 0, 3]), "shared vectors before 5 segments of 4"),
        (bytes([1, 1, 0, 2]), bytes([9, 1, 0, 2]), "shared vectors before 10 segments of 4"),
    ],
)
def test_spans_that_cannot_be(old: bytes, new: bytes, why: str) -> None:
    with pytest.raises(Corrupt, match=why):
        read_container(resealed(write_container(a_file(None, A, B, B)), old, new))


def test_two_sets_that_are_one() -> None:
    apart, joined = write_container(a_file(A, None, A, A)), bytes([0, 1, 1, 2])
    with pytest.raises(Corrupt, match="spans of shared vectors that are one"):
        read_container(resealed(apart, joined, bytes([0, 2, 0, 2])))


# How they are found


def test_they_lower_the_surprisal(lm: FrozenLM, ids: tuple[int, ...]) -> None:
    told: list[tuple[int, int]] = []
    shared = learn_shared(lm, ids, PLAN, start_id=1, on_step=lambda *step: told.append(step))
    assert shared is not None and shared.num_mem == 1
    assert told == [(done + 1, 12) for done in range(12)]
    (plain,) = plan_segments(lm, ids, WHOLE, start_id=1)
    (behind,) = plan_segments(lm, ids, WHOLE, start_id=1, shared=shared)
    assert sum(behind.surprisal_bits) < sum(plain.surprisal_bits) - 20
    assert behind.shared == shared and behind.from_token(3).shared is shared
    again = learn_shared(lm, ids, PLAN, start_id=1)
    assert again == shared and hash(again) == hash(shared)
    assert learn_shared(lm, ids, replace(PLAN, seed=1), start_id=1) != shared


@pytest.mark.parametrize("start_id", [None, 1])
@pytest.mark.parametrize("num_tokens", [1, 2, 30])
def test_texts_of_any_length(
    lm: FrozenLM, ids: tuple[int, ...], start_id: int | None, num_tokens: int
) -> None:
    shared = learn_shared(lm, ids[:num_tokens], replace(PLAN, num_mem=2), start_id=start_id)
    assert shared is not None and shared.mem.shape == (2, lm.dim)
    assert not shared.grid.problem(2, lm.dim)


def test_windows_are_read_apart(
    lm: FrozenLM, ids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is the sum over windows, each behind the vectors."""
    monkeypatch.setattr(sharing, "_WINDOW_TOKENS", 10)
    whole = sharing._Learner(lm, ids[:30], PLAN, start_ids=[1])
    assert [len(window) for window in whole._windows] == [10, 10, 10]
    parts = [
        sharing._Learner(lm, ids[first : first + 10], PLAN, start_ids=[1])
        for first in range(0, 30, 10)
    ]
    expected = sum(part._gradient() for part in parts)
    assert torch.allclose(whole._gradient(), torch.as_tensor(expected), rtol=1e-3, atol=1e-5)


def test_segments_are_kept_with_them(lm: FrozenLM, ids: tuple[int, ...]) -> None:
    shared = SharedMem(grid=a_grid(*range(lm.dim)))
    other = SharedMem(grid=a_grid(*range(1, lm.dim + 1)))
    rule = CutRule(context_tokens=24, budget_bits=40.0)
    parts = [
        list(plan_segments(lm, ids, rule, start_id=1, shared=own))
        for own in (None, shared, other, shared)
    ]
    assert all(len(part) > 1 for part in parts)
    found = unpack_segments(pack_segments(parts), [ids] * 4)
    assert found == parts and found[1][0].shared is found[3][-1].shared


# From end to end


FAST: dict[str, Any] = {"budget_bits": 60.0, "context_tokens": 100, "bits": 1, "max_steps": 24}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def packed(model: Path) -> bytes:
    """A file of more than one segment."""
    return llmzip.compress(LONG[:700], model=str(model), shared_mem=2, **FAST)


def test_round_trip(packed: bytes, model: Path) -> None:
    payload = cram_of(read_container(packed))
    assert len(payload.segment_ranges) > 1 and len(payload.shared) == len(payload.segment_ranges)
    assert all(mem is not None and mem.symbols.shape[0] == 2 for mem in payload.shared)
    assert llmzip.decompress(packed, model=str(model)) == LONG[:700]
    with llmzip.open(BytesIO(packed), "rb", model=str(model)) as file:
        file.seek(500)
        assert file.read(40) == LONG[500:540]


def test_what_is_said_of_them(packed: bytes, model: Path) -> None:
    report = llmzip.info(packed)
    assert report.num_shared_vectors == 2
    assert report.bit_counts["shared"] == report.shared_bits > 0
    size = report.shared_bits // 8
    assert f"shared    2 vectors before whole segments, {size:,} bytes" in report.to_text()
    tensors = load(export_vectors(packed))
    assert tensors["shared"].shape[:2] == (1, 2) and tensors["shared"].dtype == torch.bfloat16
    assert tensors["shared_row"].tolist() == [0] * len(tensors["mem"])
    without = llmzip.compress(LONG[:90], model=str(model), shared_mem=0, **FAST)
    assert "shared" not in llmzip.info(without).to_text() and "shared" not in load(
        export_vectors(without)
    )


def test_wrong_vectors_give_no_text(packed: bytes, model: Path) -> None:
    container = read_container(packed)
    others = [
        GridMem(symbols=-mem.symbols, steps=mem.steps)
        for mem in cram_of(container).shared if mem is not None
    ]  # fmt: skip
    broken = write_container(changed(container, shared=tuple(others)))
    with pytest.raises(llmzip.IntegrityError):
        llmzip.decompress(broken, model=str(model))


def test_salvage_needs_them(packed: bytes, model: Path) -> None:
    sizes = parse_container(packed).sizes
    end = len(packed) - 8 - sizes.stored_bytes
    first_vector = end - sizes.planes["patches"] - sizes.planes["vectors"]
    found = salvage_bytes(packed[:-8] + bytes(8), DecompressSettings(model=str(model)))
    assert found.data == LONG[:700]
    is_named = False
    for place in range(first_vector - sizes.planes["shared"], first_vector):
        broken = bytearray(packed)
        broken[place] ^= 0xFF
        try:
            found = salvage_bytes(bytes(broken), DecompressSettings(model=str(model)))
        except Corrupt as error:
            is_named |= "the shared vectors are damaged" in str(error)
        else:
            assert found.num_lost_bytes > 0
    assert is_named


def test_stretches_of_a_long_text(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own vectors; they are found once, whatever the run is interrupted at."""
    monkeypatch.setattr(planning, "STRETCH_TOKENS", 100)
    watch = Stopwatch(None)
    text = LONG[:900]
    options = FAST | {"preset": "fast", "context_tokens": 50}
    packed = compress(text, model, None, watch, shared_mem=1, **options)
    payload = cram_of(read_container(packed))
    sets = {mem.symbols.tobytes() for mem in payload.shared if mem is not None}
    assert len(sets) > 1 and len(payload.segment_ranges) >= 2 * len(sets) - 1
    assert llmzip.decompress(packed, model=str(model)) == text
    steps = [event.tokens_right for event in watch.events if event.stage == "share"]
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] % len(sets) == 0


def test_a_run_goes_on_with_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "STRETCH_TOKENS", 100)
    learned: list[int] = []
    learn = planning.learn_shared

    def noted(lm: FrozenLM, ids: Any, *args: Any, **more: Any) -> Any:
        found = learn(lm, ids, *args, **more)
        learned.append(len(ids))
        return found

    monkeypatch.setattr(planning, "learn_shared", noted)
    options = FAST | {"shared_mem": 1, "context_tokens": 50}
    whole = compress(LONG[:420], model, None, Stopwatch(None), **options)
    all_learned, path = list(learned), tmp_path / "x.part"
    learned.clear()
    assert len(all_learned) > 2
    for at in (2, 14, 30, 60):
        with pytest.raises(llmzip.Interrupted):
            compress(LONG[:420], model, path, Stopwatch(at), **options)
    assert compress(LONG[:420], model, path, Stopwatch(None), **options) == whole
    assert learned == all_learned


def test_when_they_are_looked_for(model: Path) -> None:
    """Only where they are asked for."""

    def has_steps(**more: Any) -> bool:
        watch = Stopwatch(None)
        compress(LONG[:100], model, None, watch, **FAST | more)
        return any(event.stage == "share" for event in watch.events)

    assert not has_steps() and not has_steps(shared_mem=0) and has_steps(shared_mem=1)
    assert has_steps(shared_mem=1, time_budget_s=600.0)


def test_how_long_all_takes_is_told_once_and_early(model: Path) -> None:
    told: list[float] = []
    stages: list[str] = []

    def note(forecast: Forecast) -> None:
        if forecast.seconds is not None:
            told.append(forecast.seconds)
            stages.append("forecast")

    def see(event: Progress) -> None:
        stages.append(event.stage)

    settings = CompressSettings(model=str(model), shared_mem=1, **FAST)
    context = Context(on_progress=see, on_forecast=note)
    compress_bytes(LONG[:100], settings, context=context)
    assert len(told) == 1 and told[0] > 0
    assert stages[: stages.index("forecast")].count("share") == 2
    estimate = estimate_bytes(LONG[:100], settings, Context())
    without = estimate_bytes(LONG[:100], replace(settings, shared_mem=0), Context())
    assert estimate.seconds > without.seconds > 0


def test_not_with_raw_vectors() -> None:
    with pytest.raises(SettingsError, match="`shared_mem` does not go with 16 `bits`"):
        llmzip.compress(b"text", bits=16, shared_mem=1)


def test_stored_bytes_between_texts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text has its own."""
    monkeypatch.setattr("llmzip.codecs.input._BLOCK_BYTES", 256)
    data = LONG[:256] + bytes(range(256)) + LONG[300:556]
    packed = llmzip.compress(data, model=str(model), shared_mem=1, **FAST)
    container = read_container(packed)
    assert sum(isinstance(run, TextRun) for run in container.runs) == 2
    assert llmzip.decompress(packed, model=str(model)) == data
