"""The report of a container: figures, JSON, words."""

from __future__ import annotations

import copy
import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

from llmzip.errors import LimitExceeded, NotACrmFile
from llmzip.inspect.report import BitCounts, Report, printable, read_report
from llmzip.store.container import read_container, write_container
from tests.containers import changed

DATA = Path(__file__).parent / "data"


@pytest.fixture
def tiny():
    """The golden file with every part of the format in it."""
    return read_report((DATA / "v1_tiny.crm").read_bytes())


@pytest.fixture
def arith():
    """The golden file of two arith segments with stored bytes inside the text."""
    return read_report((DATA / "v1_arith.crm").read_bytes())


@pytest.fixture
def stored():
    return read_report((DATA / "v1_stored.crm").read_bytes())


def with_payload(report: Report, **changes: object) -> Report:
    """The same with other figures of what holds its text."""
    return replace(report, payload=replace(report.payload, **changes))


def test_figures_of_the_golden_file(tiny):
    assert (tiny.num_crammed, tiny.num_patched, tiny.num_literal) == (1, 2, 1)
    assert (tiny.num_chunks, tiny.num_segments, tiny.num_vectors) == (4, 2, 3)
    assert (tiny.num_tokens, tiny.num_vector_tokens, tiny.num_patches) == (20, 18, 3)
    assert (tiny.num_mem, tiny.mem_dim, tiny.bits_per_dimension) == (1, 4, 16)
    assert (tiny.num_stored_runs, tiny.stored_original_bytes) == (1, 4)
    assert tiny.original_bytes == 30
    assert tiny.vector_text_bytes == 23
    assert tiny.tokens_per_vector == 6
    assert tiny.text_bytes_per_vector == pytest.approx(23 / 3)
    assert tiny.container_bytes_per_vector == 8
    assert tiny.model_digest == bytes(range(16)).hex()


def test_figures_of_the_arith_file(arith):
    figures = arith.arith
    assert (arith.num_segments, figures.num_lanes, arith.num_tokens) == (2, 3, 20)
    assert (figures.prefix_tokens, figures.window_tokens) == (4, 300)
    assert figures.guard_nats == 2.0**-11
    assert figures.line_end == "LF"
    assert (arith.num_stored_runs, arith.stored_original_bytes, figures.text_bytes) == (1, 4, 26)
    assert arith.bit_counts.streams == 8 * 5
    assert figures.bits_per_token == 40 / 20
    assert figures.bits_per_byte == 40 / 26
    assert (figures.num_shared_vectors, figures.shared_dim) == (2, 5)
    assert figures.shared_bits == arith.bit_counts.vectors > 0


def test_what_a_report_does_not_have_is_no_attribute(tiny, arith, stored):
    assert tiny.arith is stored.arith is stored.cram is arith.cram is None
    assert tiny.cram is tiny.payload and arith.arith is arith.payload
    for report in (tiny, arith, stored):
        for owner in (report, report.bit_counts):
            with pytest.raises(AttributeError, match="no_such_figure"):
                _ = owner.no_such_figure
        assert copy.copy(report) == pickle.loads(pickle.dumps(report)) == report


def test_an_arith_file_has_no_chunks_and_no_vectors_of_theirs(arith):
    assert arith.num_chunks == arith.num_vectors == arith.num_vector_tokens == 0
    assert (arith.num_mem, arith.mem_dim, arith.context_tokens) == (0, 0, 0)
    assert arith.stored_bits_per_dimension is arith.tokens_per_vector is arith.min_margin is None


def test_each_file_names_its_codec(tiny, arith, stored):
    assert [report.codec for report in (tiny, arith, stored)] == ["cram", "arith", "stored"]
    assert [report.to_dict()["codec"] for report in (tiny, arith)] == ["cram", "arith"]


@pytest.mark.parametrize(("wrap", "line_end"), [(0, None), (1, "LF"), (2, "CR LF")])
def test_line_ends_are_named(wrap, line_end):
    container = read_container((DATA / "v1_arith.crm").read_bytes())
    report = read_report(write_container(changed(container, wrap=wrap)))
    assert report.arith.line_end == line_end
    assert ("line ends taken out" in report.to_text()) == (line_end is not None)


def test_bits_add_up_to_the_file(tiny, arith, stored):
    for report, name in (
        (tiny, "v1_tiny.crm"),
        (arith, "v1_arith.crm"),
        (stored, "v1_stored.crm"),
    ):
        size = (DATA / name).stat().st_size
        counts = report.bit_counts
        total = counts.vectors + counts.patches + counts.streams + counts.stored + counts.metadata
        assert total == 8 * report.container_bytes == 8 * size
        assert sum(counts.shares().values()) == pytest.approx(1)
    assert tiny.bit_counts.vectors == 3 * 4 * 16
    assert tiny.bit_counts.streams == stored.bit_counts.streams == arith.bit_counts.patches == 0


def test_ratio_and_rate_are_each_others_inverse(tiny):
    assert tiny.compression_ratio == pytest.approx(30 / tiny.container_bytes)
    assert tiny.file_bits_per_byte * tiny.compression_ratio == pytest.approx(8)


def test_json_has_a_schema_and_survives_json(tiny, stored):
    fields = tiny.to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert fields["schema"] == 1
    assert fields["bits"]["vectors"] == 192
    assert fields["chunks"] == {"total": 4, "crammed": 1, "patched": 2, "literal": 1}
    assert fields["model"]["digest"] == bytes(range(16)).hex()
    assert fields["model"]["counted"] is False
    assert fields["xz_9e_bytes"] == 88
    assert fields["zstd_19_bits_per_byte"] == pytest.approx(8 * 38 / 30)
    assert set(stored.to_dict()) == set(fields)
    assert stored.to_dict()["model"] is None
    assert stored.to_dict()["arith"] is fields["arith"] is None
    assert stored.to_dict()["tokens_per_vector"] is None


def test_json_of_an_arith_file(arith, tiny):
    fields = arith.to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert set(fields) == set(tiny.to_dict())
    assert (fields["schema"], fields["bits"]["streams"]) == (1, 40)
    assert fields["arith"] == {
        "num_lanes": 3,
        "prefix_tokens": 4,
        "window_tokens": 300,
        "guard_nats": 2.0**-11,
        "line_end": "LF",
        "text_bytes": 26,
        "bits_per_token": 2.0,
        "bits_per_byte": 40 / 26,
        "num_shared_vectors": 2,
        "shared_dim": 5,
        "shared_bits": arith.bit_counts.vectors,
    }


def test_text_of_an_arith_file(arith):
    lines = arith.to_text(name="book.crm").splitlines()
    for expected in (
        "codec     arith: language model and arithmetic coder",
        "segments  2 of about 10 tokens, 3 lanes in all, prefix 4, window 300 tokens",
        "tokens    20, 2.00 bits each, 1.54 bits per byte of text",
        "vectors   2 shared by all segments, each 5 dimensions x 2.4 bits, 3 bytes in all",
        "wrap      line ends taken out: LF",
        "stored    1 run of 4 bytes, kept without the model",
    ):
        assert expected in lines
    (guard,) = (line for line in lines if line.startswith("guard     "))
    assert guard.startswith("guard     0.00049 nats: decodes the same wherever ")
    (bits,) = (line for line in lines if line.startswith("bits      "))
    assert "vectors 24 (" in bits and "streams 40 (" in bits and "patches" not in bits
    for absent in ("chunks", "crammed", "margin", "patch", "context"):
        assert absent not in "\n".join(lines)


def test_text_of_an_arith_file_without_vectors_and_of_one_segment(arith):
    none = with_payload(arith, num_shared_vectors=0, shared_dim=0, shared_bits=0)
    counts = BitCounts(none.bit_counts | {"vectors": 0})
    text = replace(with_payload(none, line_end=None), bit_counts=counts).to_text()
    assert "vectors" not in text and "line ends" not in text
    one = with_payload(none, num_segments=1, num_tokens=37_982, num_lanes=8)
    assert "segments  1 of 37,982 tokens, 8 lanes, prefix 4, window" in one.to_text()
    alone = with_payload(one, num_lanes=1)
    assert "segments  1 of 37,982 tokens, 1 lane, window 300 tokens" in alone.to_text()


def test_the_words_of_the_guard_are_those_of_the_encoder(arith):
    from llmzip.codecs.arith.encoder import _GUARD_OF_NOISE

    assert _GUARD_OF_NOISE == 8 and "at most an eighth" in arith.arith.guard_text()


def test_text_shows_what_a_reader_needs(tiny):
    text = tiny.to_text(name="book.crm")
    assert text.startswith("book.crm   .crm v1   30 → ")
    assert text.endswith("\n") and not text.endswith("\n\n")
    for expected in (
        f"{tiny.file_bits_per_byte:.2f} bits per byte",
        "xz -9e 88 (23.47), zstd -19 38 (10.13) (model not counted)",
        "vectors 192 (",
        "4: 1 crammed, 2 patched, 1 literal; 2 segments, context 16 tokens",
        "each 4 dimensions x 16 bits = 8 bytes, for 6.0 tokens or 7.7 bytes of text",
        "tokens    20, 3 patches",
        "toy at 0123456789abcdef0123456789abcdef01234567, digest 000102",
        "1 run of 4 bytes",
        "weakest 0.5 logits, about 5,000 times the noise",
    ):
        assert expected in text
    for absent in ("streams", "codec", "guard", "lane"):
        assert absent not in text


def test_text_without_a_model_claims_no_model(stored):
    text = stored.to_text(name="x.crm")
    assert "model     none needed" in text
    for absent in ("chunks", "vectors   ", "margin", "not counted", "larger"):
        assert absent not in text


def test_a_larger_container_says_so_and_why(tiny, stored):
    costly = with_payload(tiny, vector_bytes=3 * 1152)
    expensive = replace(costly, container_bytes=5000, bit_counts=replace_bits(3 * 1152 * 8))
    assert expensive.is_larger
    assert "larger than the original by 4,970 bytes" in expensive.to_text()
    assert "16-bit vectors cost more than this text" in expensive.to_text()
    assert "each of 3 vectors takes 1,152 bytes and holds 8 bytes" in expensive.to_text()
    short = replace(stored, original_bytes=10)
    assert "on so few bytes" in short.to_text()
    assert "vectors cost" not in short.to_text()


def replace_bits(vectors: int) -> BitCounts:
    return BitCounts(vectors=vectors, patches=0, streams=0, stored=0, metadata=40_000 - vectors)


@pytest.mark.parametrize(
    ("margin", "bf16_safe", "label", "words"),
    [
        (2.5, True, "bf16-safe", "as well as in fp32"),
        (2.5, False, "robust", "about 25,000 times"),
        (0.05, False, "robust", "about 500 times"),
        (0.0499, False, "thin", "above the noise"),
        (0.001, False, "thin", "about 10 times"),
        (0.0009, False, "fragile", "about 9 times"),
        (None, False, "none", "every token is stored"),
    ],
)
def test_margin_in_words(tiny, margin, bf16_safe, label, words):
    report = with_payload(tiny, min_margin=margin, bf16_safe=bf16_safe)
    assert report.margin_label == label == report.to_dict()["margin_label"]
    assert words in report.payload.margin_text()
    assert words in report.to_text()


def test_an_empty_original_has_no_rate(stored):
    empty = replace(stored, original_bytes=0)
    assert empty.file_bits_per_byte is None
    assert empty.compression_ratio == 0
    assert "bits per byte" not in empty.to_text()
    json.dumps(empty.to_dict(), allow_nan=False)


def test_names_cannot_drive_the_terminal(tiny):
    text = tiny.to_text(name="a\x1b[31m\r\n\u202eb\udcff.crm")
    assert text.startswith("a\\x1b[31m\\r\\n\\u202eb\\udcff.crm   ")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    assert printable("Übung 1 – ok.txt") == "Übung 1 – ok.txt"


def test_what_cannot_be_read_is_refused(tiny):
    with pytest.raises(NotACrmFile):
        read_report(b"no container at all")
    whole = (DATA / "v1_tiny.crm").read_bytes()
    assert read_report(whole, max_output_bytes=30) == tiny
    with pytest.raises(LimitExceeded):
        read_report(whole, max_output_bytes=29)
