"""The product as it ships: the default model crams, and decodes the same everywhere.

These tests fetch the default model once (93 MB) and take minutes on two cores.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmzip.api import compress as codec
from llmzip.config import Attention, CompressSettings, ComputeSettings, DecompressSettings
from llmzip.store.container import CramRun, parse_container, read_container

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
    budget = 100.0 if request.param is None else None
    # Of a text so small, vectors are kept where their bits are named.
    settings = CompressSettings(bits=request.param or 2, context_tokens=48, budget_bits=budget)
    return codec.compress_bytes(TEXT, settings)


def test_it_crams_and_says_honestly_how_large_that_is(packed: bytes) -> None:
    result = parse_container(packed)
    container, sizes = result.container, result.sizes
    crammed = [chunk for chunk in container.chunks if chunk.mem is not None]
    assert container.model_id == "smollm2-135m"
    assert crammed
    if container.is_coded:
        assert sizes.vector_bytes < len(crammed) * 576 * 4 / 8  # under 4 bits a dimension
        assert sizes.metadata_bytes <= 128 + 4 * len(container.chunks)
    else:
        assert sizes.vector_bytes == len(crammed) * 2 * 576
    assert sizes.file_bytes == len(packed)
    patched = sum(len(chunk.patches) for chunk in crammed)
    assert patched <= sum(chunk.num_tokens for chunk in crammed) / 8 + len(crammed)
    assert container.min_margin is not None
    assert container.min_margin >= 0.0499  # stored rounded down
    assert isinstance(container.runs[0], CramRun)
    assert any(not chunk.starts_segment for chunk in container.chunks)  # left context was used


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
    assert codec.decompress_bytes(packed, DecompressSettings(compute=compute)) == TEXT


def test_two_vectors_a_chunk() -> None:
    text = TEXT[:120]
    packed = codec.compress_bytes(text, CompressSettings(num_mem=2, context_tokens=0))
    assert read_container(packed).num_mem == 2
    assert codec.decompress_bytes(packed, DecompressSettings()) == text


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_file_of_the_first_release_decodes(attention: Attention) -> None:
    data = Path(__file__).parent / "data"
    compute = ComputeSettings(attention=attention)
    found = codec.decompress_bytes(
        (data / "v1_prose.crm").read_bytes(), DecompressSettings(compute=compute)
    )
    assert found == (data / "v1_prose.txt").read_bytes()


def test_the_setting_of_the_paper() -> None:
    text = TEXT[:100]
    settings = CompressSettings(bits=16, context_tokens=0, num_mem=1)
    packed = codec.compress_bytes(text, settings)
    container = read_container(packed)
    assert (container.bits, container.num_mem, container.context_tokens) == (16, 1, 0)
    assert all(chunk.starts_segment for chunk in container.chunks)
    assert codec.decompress_bytes(packed, DecompressSettings()) == text
