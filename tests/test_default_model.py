"""The product as it ships: the default model crams, and decodes the same everywhere.

These tests fetch the default model once (93 MB) and take minutes on two cores.
"""

from __future__ import annotations

import pytest

from llmzip import codec
from llmzip.config import CompressSettings, ComputeSettings, DecompressSettings
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


@pytest.fixture(scope="module")
def packed() -> bytes:
    return codec.compress_bytes(TEXT, CompressSettings(context_tokens=48))


def test_it_crams_and_says_honestly_how_large_that_is(packed: bytes) -> None:
    result = parse_container(packed)
    container, sizes = result.container, result.sizes
    crammed = [chunk for chunk in container.chunks if chunk.mem is not None]
    assert container.model_id == "smollm2-135m"
    assert crammed
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
