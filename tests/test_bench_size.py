"""`scripts/bench.py size --codecs cram`: its figures hold together, its bits are the model's."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bench
import bench_size
import pytest
import torch
from typer.testing import CliRunner

from llmzip.api.compress import compress_bytes
from llmzip.codecs.shared import opening_embeds
from llmzip.config import CompressSettings, ComputeSettings
from llmzip.errors import IntegrityError
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.vectors import mem_bits
from tests.containers import cram_of

TEXT = b"the old mill stands by the river, and the water turns its wheel"
SETTINGS = CompressSettings(
    codec="cram",
    budget_bits=40.0,
    max_steps=80,
    context_tokens=24,
    num_mem=2,
    compute=ComputeSettings(threads=1),
)


@pytest.fixture(scope="module")
def settings(tiny_model: Callable[..., Path]) -> CompressSettings:
    return replace(SETTINGS, model=str(tiny_model("llama")))


@pytest.fixture(scope="module", params=[3, 16])
def bits(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def sample(settings: CompressSettings, bits: int) -> bench_size.SizeSample:
    return bench_size.size_job(TEXT, replace(settings, bits=bits))


@pytest.fixture(scope="module")
def payload(settings: CompressSettings, bits: int) -> CramPayload:
    return cram_of(read_container(compress_bytes(TEXT, replace(settings, bits=bits))))


@pytest.fixture(scope="module")
def tokens(settings: CompressSettings) -> Tokens:
    return Tokens.load(Path(str(settings.model)))


def test_figures_hold_together(sample: bench_size.SizeSample, payload: CramPayload) -> None:
    row = sample.to_dict()
    chunks = [chunk for chunk in payload.chunks if chunk.mem is not None]
    dimensions = len(chunks) * payload.num_mem * payload.mem_dim
    num_tokens = sum(chunk.num_tokens for chunk in chunks)
    assert chunks and sample.report.needs_model
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["file_bits_per_byte"] == pytest.approx(8 * row["bytes"] / len(TEXT))
    vector_bits = row["stored_bits_per_dimension"] * dimensions
    assert row["stored_bits_per_token"] * num_tokens == pytest.approx(vector_bits)
    assert row["patched_token_share"] * num_tokens == pytest.approx(
        sum(len(chunk.patches) for chunk in chunks)
    )
    assert row["model_bits_per_byte"] * len(TEXT) == pytest.approx(row["surprisal_bits"])
    gain = row["unpatched_gain_bits"]
    assert 0 < gain <= row["surprisal_bits"]  # the vectors alone tell these tokens
    assert row["stored_bits_per_information_bit"] * gain == pytest.approx(vector_bits)
    assert sample.compress_seconds > 0 and sample.decompress_seconds > 0
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert pickle.loads(pickle.dumps(sample)) == sample


def test_bits_are_those_of_one_pass_over_the_whole_sequence(
    sample: bench_size.SizeSample, payload: CramPayload, tokens: Tokens, lm: FrozenLM
) -> None:
    """Every chunk anew, behind all that stands left of it, with nothing remembered."""
    known: list[int] = []
    surprisal = gain = unpatched = 0.0
    chunk_ids = list(bench_size.ids_of_chunks(TEXT, payload, tokens))
    assert tokens.bytes_of([token for ids in chunk_ids for token in ids]) == TEXT
    for chunk, ids in zip(payload.chunks, chunk_ids, strict=True):
        if chunk.starts_segment:
            known = [] if payload.model.start_id is None else [payload.model.start_id]
        nothing = torch.zeros(0, lm.dim)
        plain = _bits(lm, known, nothing, ids)
        surprisal += float(plain.sum())
        if chunk.mem is not None:
            mem = torch.from_numpy(mem_bits(chunk.mem)).view(torch.bfloat16).float()
            saved = plain - _bits(lm, known, mem, ids)
            patched = {position for position, _ in chunk.patches}
            gain += float(saved.sum())
            unpatched += sum(float(s) for i, s in enumerate(saved) if i not in patched)
        known += ids
    assert len({chunk.starts_segment for chunk in payload.chunks}) == 2
    found = sample.information
    assert found.surprisal_bits == pytest.approx(surprisal, rel=1e-4)
    assert found.gain_bits == pytest.approx(gain, rel=1e-4)
    assert found.unpatched_gain_bits == pytest.approx(unpatched, rel=1e-4)


def _bits(lm: FrozenLM, known: list[int], mem: torch.Tensor, ids: tuple[int, ...]) -> torch.Tensor:
    """Surprisal of each of `ids` behind the tokens in `known` and `mem`."""
    embeds = torch.cat(
        [lm.embed(torch.tensor(known, dtype=torch.int64)), mem, lm.embed(torch.tensor(ids))]
    )[None]
    live = torch.ones(embeds.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        hidden, _ = lm.extend(lm.empty(1), embeds, live)
        logits = lm.logits(hidden[0, -len(ids) - 1 : -1])
    return -torch.log_softmax(logits, dim=1)[range(len(ids)), list(ids)] / 0.6931471805599453


@pytest.mark.parametrize("start_ids", [[], [259]])
def test_windows_score_every_token_once_behind_half_a_window(
    lm: FrozenLM, ids: tuple[int, ...], start_ids: list[int]
) -> None:
    opening = opening_embeds(lm, start_ids, None)
    whole, _ = bench_size.read_alone(lm, opening, ids)
    assert len(whole) == len(ids)
    for window in (len(ids), len(ids) + 1):
        bits = bench_size.window_bits(lm, opening, ids, window)
        assert bits == pytest.approx(float(whole.sum()))
    wanted, window = 0.0, 8
    for position in range(len(ids)):
        begin = 0 if position < window else 4 * ((position - window) // 4 + 1)
        near, _ = bench_size.read_alone(lm, opening, ids[begin : begin + window])
        wanted += float(near[position - begin])
    bits = bench_size.window_bits(lm, opening, ids, window)
    assert bits == pytest.approx(wanted)


def test_text_that_is_not_crammed_has_no_information(settings: CompressSettings) -> None:
    sample = bench_size.size_job(bytes(range(256)), settings)
    row = sample.to_dict()
    assert not sample.report.needs_model
    assert row["gain_bits"] == row["surprisal_bits"] == 0
    for name in ("stored_bits_per_information_bit", "model_bits_per_byte", "tokens_per_vector"):
        assert row[name] is None
    assert sum(row["shares"].values()) == pytest.approx(1)


def test_tokens_of_another_text_are_refused(payload: CramPayload, tokens: Tokens) -> None:
    for other in (TEXT.replace(b"mill", b"hill"), TEXT + b" and on"):
        with pytest.raises(IntegrityError):
            list(bench_size.ids_of_chunks(other, payload, tokens))


def test_a_time_budget_is_refused(settings: CompressSettings) -> None:
    with pytest.raises(ValueError, match="time budget"):
        bench_size.size_job(TEXT, replace(settings, time_budget_s=1.0))


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: CompressSettings,
    sample: bench_size.SizeSample,
) -> Callable[..., tuple[str, str]]:
    """`bench.py size` on two texts, in this process, with `sample` for every one; its output."""
    monkeypatch.setattr(bench, "_alone", lambda job, *arguments: job(*arguments))
    monkeypatch.setattr(bench_size, "size_job", lambda text, settings: sample)
    files = [tmp_path / name for name in ("one.txt", "two.txt")]
    options = ["size", "--codecs", "cram", "--model", str(settings.model), "--threads", "1"]
    options += ["--bytes", str(len(TEXT))]
    for file in files:
        file.write_bytes(TEXT + b" in the dark")
        options += ["--text", str(file)]

    def call(*more: str) -> tuple[str, str]:
        result = CliRunner().invoke(bench.app, [*options, *more])
        assert result.exit_code == 0, result.output
        return result.stdout, result.stderr

    return call


def test_one_json_object(
    run: Callable[..., tuple[str, str]], sample: bench_size.SizeSample
) -> None:
    out, errors = run("--presets", "fast,small", "--json")
    result = json.loads(out)
    assert "brotli 11" in errors
    assert result["model_digest"] == sample.report.model_digest
    assert result["cram"]["num_mem"] == 1
    assert result["torch"] == torch.__version__ and result["threads"] == 1
    assert [text["text"] for text in result["texts"]] == ["one.txt", "two.txt"]
    for text in result["texts"]:
        assert text["bytes"] == len(TEXT)
        assert text["presets"] == {"fast": sample.to_dict(), "small": sample.to_dict()}
        assert list(text["others"]) == [
            "gzip -9", "bzip2 -9", "xz -9e", "zstd -19", "brotli 11",
        ]  # fmt: skip
        assert text["others"]["xz -9e"]["bytes"] == sample.report.xz_bytes
        assert text["others"]["zstd -19"]["bytes"] == sample.report.zstd_bytes
        assert text["model_window_bits_per_byte"] > 0
        assert text["arith"] is None and text["published"] == []


def test_tables_are_aligned(run: Callable[..., tuple[str, str]]) -> None:
    out, _ = run()
    blocks = out.split("\n\n")[1:]
    for block in [block for block in blocks if "brotli" not in block]:
        rows = block.rstrip("\n").split("\n")
        full = [row for row in rows if row.split()[0] in {"fast", "balanced", "small"}]
        assert len(full) == 3
        assert len({len(row) for row in [rows[0], *full]}) == 1
    assert len(blocks) == 3 * 2  # each text: beside others, sizes, gains
