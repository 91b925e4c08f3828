"""The product as it ships: the default model crams, and decodes the same everywhere.

These tests fetch the default model once (93 MB) and take minutes on two cores.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.config import Attention, Codec, CompressSettings, ComputeSettings, DecompressSettings
from llmzip.store.container import parse_container, read_container
from llmzip.store.payload import TextRun
from tests.containers import cram_of

pytestmark = pytest.mark.real_model

# Prose, and at its end what a chunk's border may cut: emoji, CJK, invalid UTF-8, special tokens.
TEXT = (
    b"The postman had a theory about gates. A gate that squeaks, he said, belongs to someone who "
    b"wants to know you are coming, and a gate that does not belongs to someone who would rather "
    b"you had not.\r\n"
    + "Naïve? Perhaps. 漢字 🚀".encode()
    + b" <|endoftext|><|im_start|> \xff\x00 end"
)


@pytest.fixture(scope="module", params=[16, None], ids=["16bits", "2bits"])
def packed(request: pytest.FixtureRequest) -> bytes:
    budget = 100.0 if request.param is None else 150.0  # several chunks a segment
    # Of a text so small, vectors are kept where their bits are named.
    settings = CompressSettings(bits=request.param or 2, context_tokens=48, budget_bits=budget)
    return compress_bytes(TEXT, settings)


def test_it_crams_and_says_honestly_how_large_that_is(packed: bytes) -> None:
    result = parse_container(packed)
    payload, sizes = cram_of(result.container), result.sizes
    crammed = [chunk for chunk in payload.chunks if chunk.mem is not None]
    assert payload.model.model_id == "smollm2-135m-text"
    assert crammed
    if payload.is_coded:
        assert sizes.planes["vectors"] < len(crammed) * 576 * 4 / 8  # under 4 bits a dimension
        assert sizes.metadata_bytes <= 128 + 4 * len(payload.chunks)
    else:
        assert sizes.planes["vectors"] == len(crammed) * 2 * 576
    assert sizes.file_bytes == len(packed)
    patched = sum(len(chunk.patches) for chunk in crammed)
    assert patched <= sum(chunk.num_tokens for chunk in crammed) / 8 + len(crammed)
    assert payload.min_margin is not None
    assert payload.min_margin >= 0.0499  # stored rounded down
    assert isinstance(result.container.runs[0], TextRun)
    assert any(not chunk.starts_segment for chunk in payload.chunks)  # left context was used


@pytest.mark.parametrize(
    "compute",
    [
        ComputeSettings(batch=1),
        ComputeSettings(batch=7, threads=1),
        ComputeSettings(attention="eager", threads=2),
    ],
    ids=["batch1", "batch7-1thread", "eager"],
)
def test_it_decodes_to_the_same_bytes(packed: bytes, compute: ComputeSettings) -> None:
    assert decompress_bytes(packed, DecompressSettings(compute=compute)) == TEXT


def test_two_vectors_a_chunk() -> None:
    text = TEXT[:120]
    packed = compress_bytes(text, CompressSettings(num_mem=2, context_tokens=0))
    assert cram_of(read_container(packed)).num_mem == 2
    assert decompress_bytes(packed, DecompressSettings()) == text


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_file_of_the_first_release_decodes(attention: Attention) -> None:
    data = Path(__file__).parent / "data"
    compute = ComputeSettings(attention=attention)
    found = decompress_bytes(
        (data / "v1_prose.crm").read_bytes(), DecompressSettings(compute=compute)
    )
    assert found == (data / "v1_prose.txt").read_bytes()


def test_the_setting_of_the_paper() -> None:
    text = TEXT[:100]
    settings = CompressSettings(bits=16, context_tokens=0, num_mem=1)
    packed = compress_bytes(text, settings)
    payload = cram_of(read_container(packed))
    assert (payload.bits, payload.num_mem, payload.context_tokens) == (16, 1, 0)
    assert all(chunk.starts_segment for chunk in payload.chunks)
    assert decompress_bytes(packed, DecompressSettings()) == text


@pytest.mark.quick
@pytest.mark.parametrize("codec", ["cram", "arith"])
def test_a_sentence_goes_there_and_back(codec: Codec) -> None:
    # Shorter ones are stored: the vectors of cram are named, which keeps it from that.
    text, settings = TEXT[:160], CompressSettings(codec=codec)
    if codec == "cram":
        text, settings = TEXT[:60], CompressSettings(bits=16, preset="fast")
    packed = compress_bytes(text, settings)
    payload = read_container(packed).payload
    assert payload is not None and payload.codec == codec
    assert decompress_bytes(packed, DecompressSettings()) == text
