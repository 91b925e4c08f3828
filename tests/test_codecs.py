"""What every codec of the table keeps, and one that is registered from outside of the package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor

import llmzip
from llmzip.api.compress import compress_bytes, estimate_bytes
from llmzip.api.decompress import decompress_bytes, salvage_bytes
from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.table import CODECS
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.errors import (
    FormatError,
    IntegrityError,
    Interrupted,
    LimitExceeded,
    LlmzipError,
    SettingsError,
)
from llmzip.inspect.explain import explain_bytes
from llmzip.inspect.pieces import read_pieces
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from llmzip.progress import Progress
from llmzip.store.container import parse_container, read_container, write_container
from llmzip.store.journal import Journal
from llmzip.store.opening import END_MARK
from tests.tiny_models import TEXT
from tests.toy_codec import registered

NAMES = ("cram", "arith", "toy")
# Events of coding, after which a run is stopped: one at which something is kept, or could be.
STOP_AFTER = {"cram": 3, "arith": 1, "toy": 3}
QUICK: dict[str, dict[str, Any]] = {"cram": {"bits": 16, "preset": "fast"}, "arith": {}, "toy": {}}
PROSE = TEXT[:200].encode()
MIXED = PROSE[:190] + b"\n" + bytes(range(256)) * 2 + b"\n" + PROSE


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    with registered(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmzip.codecs.input._BLOCK_BYTES", 256)  # so that MIXED has both kinds
        yield


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama"))


@pytest.fixture(scope="module")
def packed(model: str) -> Iterator[Callable[[str, bytes], bytes]]:
    """A container by codec and text, made once."""
    made: dict[tuple[str, bytes], bytes] = {}

    def get(codec: str, data: bytes) -> bytes:
        if (codec, data) not in made:
            made[codec, data] = compress_bytes(data, settings(codec, model))
        return made[codec, data]

    yield get


def settings(codec: str, model: str) -> CompressSettings:
    return CompressSettings(codec=codec, model=model, **QUICK[codec])  # type: ignore[arg-type]


def back(data: bytes, model: str, **more: Any) -> bytes:
    return decompress_bytes(data, DecompressSettings(model=model, **more))


def signed(data: bytes, index: int, mask: int) -> bytes:
    """A file whose body has another bit, and a checksum that says it is right."""
    changed = bytearray(data)
    changed[index] ^= mask
    sizes = parse_container(data).sizes
    tail = 4 + len(END_MARK)
    begin = len(data) - tail - sum(sizes.planes.values()) - sizes.stored_bytes
    body = bytes(changed[_body_start(data) : -tail])
    assert index >= begin
    changed[-tail : -len(END_MARK)] = crc32(body).to_bytes(4, "little")
    return bytes(changed)


def _body_start(data: bytes) -> int:
    from llmzip.store.header import read_header

    return read_header(data)[1]


def test_every_codec_is_here_and_the_toy_one_is_from_outside() -> None:
    assert set(CODECS) == set(NAMES)
    with pytest.raises(SettingsError, match="cram, arith, auto, toy"):
        CompressSettings(codec="zip")  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("data", [PROSE, MIXED], ids=["prose", "mixed"])
def test_there_and_back(codec: str, data: bytes, model: str, packed: Any) -> None:
    found = packed(codec, data)
    assert back(found, model) == data
    assert read_container(found).payload.codec == codec
    assert write_container(read_container(found)) == found
    assert llmzip.decompress(found, model=model) == data


@pytest.mark.parametrize("codec", NAMES)
def test_the_same_input_gives_the_same_bytes(codec: str, model: str, packed: Any) -> None:
    assert compress_bytes(PROSE, settings(codec, model)) == packed(codec, PROSE)


@pytest.mark.parametrize("codec", NAMES)
def test_a_flipped_bit_is_always_found(codec: str, packed: Any) -> None:
    found = packed(codec, PROSE)
    for index in range(len(found)):
        for bit in range(8) if len(found) < 400 else (index % 8,):
            changed = bytearray(found)
            changed[index] ^= 1 << bit
            with pytest.raises(FormatError):
                read_container(bytes(changed))


@pytest.mark.parametrize("codec", NAMES)
def test_a_flipped_bit_with_the_right_checksum_gives_no_wrong_text(
    codec: str, model: str, packed: Any
) -> None:
    found = packed(codec, PROSE)
    begin, end = _body_start(found), len(found) - 4 - len(END_MARK)
    step = max(1, (end - begin) // 25)
    num_found = 0
    for number, index in enumerate(range(begin, end, step)):
        try:
            changed = signed(found, index, 1 << number % 8) if number else found
        except AssertionError:  # of the columns: their checks are those of `read_container`
            continue
        try:
            assert back(changed, model) == PROSE
        except (FormatError, IntegrityError, LimitExceeded):
            num_found += 1
    assert num_found > 5


@pytest.mark.parametrize("codec", NAMES)
def test_a_file_cut_anywhere_is_refused(codec: str, packed: Any) -> None:
    found = packed(codec, PROSE)
    for size in range(len(found)):
        with pytest.raises(FormatError):
            read_container(found[:size])


@pytest.mark.parametrize("codec", NAMES)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    codec: str, model: str, packed: Any, tmp_path: Path
) -> None:
    cancel = threading.Event()
    seen = 0

    def stop_soon(event: Progress) -> None:
        nonlocal seen
        seen += event.stage in ("cram", "code")
        if seen >= STOP_AFTER[codec]:
            cancel.set()

    path = str(tmp_path / "work.part")
    with closing(Journal.open(path)) as journal, pytest.raises(Interrupted):
        context = Context(on_progress=stop_soon, cancel=cancel, journal=journal)
        compress_bytes(PROSE, settings(codec, model), context)
    with closing(Journal.open(path)) as journal:
        found = compress_bytes(PROSE, settings(codec, model), Context(journal=journal))
    assert found == packed(codec, PROSE)


@pytest.mark.parametrize("codec", NAMES)
def test_limits(codec: str, model: str, packed: Any) -> None:
    found = packed(codec, PROSE)
    num_tokens = read_container(found).num_tokens
    assert back(found, model, max_output_bytes=len(PROSE), max_tokens=num_tokens) == PROSE
    with pytest.raises(LimitExceeded):
        back(found, model, max_output_bytes=len(PROSE) - 1)
    with pytest.raises(LimitExceeded):
        back(found, model, max_tokens=num_tokens - 1)


class Noisy:
    """A model whose logits carry noise."""

    def __init__(self, lm: FrozenLM, size: float) -> None:
        self._lm, self._size = lm, size
        self._generator = torch.Generator().manual_seed(1)

    def __getattr__(self, name: str) -> object:
        return getattr(self._lm, name)

    def logits(self, hidden: Tensor) -> Tensor:
        exact = self._lm.logits(hidden)
        return exact + self._size * (2 * torch.rand(exact.shape, generator=self._generator) - 1)


@pytest.mark.parametrize("codec", NAMES)
def test_noise_of_fp32_changes_nothing(codec: str, model: str, packed: Any) -> None:
    files = resolve(model)
    lm = load_model(files, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa")
    container = read_container(packed(codec, PROSE))
    noisy: Any = Noisy(lm, 2e-5)
    texts = CODECS[codec].decode(
        container,
        DecodingModel(lm=noisy, tokens=Tokens.load(files.path)),
        Request(wanted=range(len(container.payload.pieces))),  # type: ignore[union-attr]
        QUIET,
    )
    assert None not in texts and b"".join(text for text in texts if text is not None) == PROSE


@pytest.mark.parametrize("codec", NAMES)
def test_a_forecast_is_near_what_comes(codec: str, model: str, packed: Any) -> None:
    seen: list[Progress] = []
    found = estimate_bytes(PROSE, settings(codec, model), Context(on_progress=seen.append))
    assert found.codec == codec and found.result and found.sample and found.seconds > 0
    assert found.original_bytes == len(PROSE)
    size = len(packed(codec, PROSE))
    assert 0.5 * size <= found.container_bytes <= 2 * size


@pytest.mark.parametrize("codec", NAMES)
def test_a_range_is_decoded_alone(codec: str, model: str, packed: Any) -> None:
    found = packed(codec, MIXED)
    for span in ((0, 1), (30, 90), (len(PROSE) - 3, len(PROSE) + 3), (0, len(MIXED))):
        assert back(found, model, span=span) == MIXED[slice(*span)]


@pytest.mark.parametrize("codec", NAMES)
def test_a_file_object_reads_anywhere(codec: str, model: str, packed: Any, tmp_path: Path) -> None:
    path = tmp_path / "file.crm"
    path.write_bytes(packed(codec, MIXED))
    with llmzip.open(path, model=model) as file:
        file.seek(40)
        assert file.read(20) == MIXED[40:60]
        file.seek(0)
        assert file.read() == MIXED


@pytest.mark.parametrize("codec", NAMES)
def test_what_is_intact_of_a_cut_file_comes_back(codec: str, model: str, packed: Any) -> None:
    found = packed(codec, MIXED)
    whole = salvage_bytes(found, DecompressSettings(model=model))
    assert whole.data == MIXED and not whole.gaps
    sizes = parse_container(found).sizes
    cut = found[: len(found) - 4 - len(END_MARK) - sizes.stored_bytes]
    try:
        part = salvage_bytes(cut, DecompressSettings(model=model))
    except LlmzipError as error:
        assert isinstance(error, (FormatError, IntegrityError))
        return
    assert part.gaps and PROSE in part.data


@pytest.mark.parametrize("codec", NAMES)
def test_it_can_be_looked_at(codec: str, model: str, packed: Any) -> None:
    found = packed(codec, MIXED)
    report = llmzip.info(found)
    assert report.codec == codec and report.payload is not None
    assert sum(report.bit_counts.values()) == 8 * len(found)
    fields = report.to_dict()
    assert fields["codec"] == codec and {"chunks", "arith", "toy"} <= fields.keys()
    assert report.payload.count_text in (report.payload.summary() + report.payload.count_text)
    assert report.to_text(name="a.crm").endswith("\n")
    pieces = read_pieces(found)
    assert sum(piece.num_bytes for piece in pieces) == len(MIXED)
    assert sum(piece.num_tokens for piece in pieces) == report.num_tokens
    explained = explain_bytes(found, DecompressSettings(model=model))
    assert [piece.num_bytes for piece in explained] == [piece.num_bytes for piece in pieces]
    assert all(piece.head for piece in explained if piece.kind != "stored")


@pytest.mark.parametrize("codec", NAMES)
def test_a_run_is_ended(codec: str, model: str) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Interrupted):
        compress_bytes(PROSE, settings(codec, model), Context(cancel=cancel))
