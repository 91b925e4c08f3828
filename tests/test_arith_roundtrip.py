"""The arith codec from bytes to bytes: every architecture, every way to decode, noise, damage."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.codecs.arith.decoder import decode_segments_of
from llmzip.codecs.arith.reader import Reader, Steps
from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import QUIET
from llmzip.codecs.token_odds import Floats, TokenOdds
from llmzip.config import CompressSettings, ComputeSettings, DecompressSettings
from llmzip.errors import Corrupt, IntegrityError, LlmzipError, SettingsError
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import DEFAULT_MODEL, resolve
from llmzip.store.arith_payload import ArithPayload, guard_value
from llmzip.store.container import Container, read_container, write_container
from llmzip.store.payload import StoredRun
from llmzip.store.pieces import restore
from tests.tiny_models import ARCHITECTURES, TEXT

CPU = torch.device("cpu")
WAYS = list(itertools.product((1, 3, None), (1, 2), ("sdpa", "eager")))
PROSE = TEXT.encode() + b" so he said, and the mill went on turning."
GOLDEN = Path(__file__).parent / "data" / "v1_arith_prose.crm"


@pytest.fixture(autouse=True)
def _arith_whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model predicts worse than zstd: keep its containers all the same."""
    monkeypatch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
    monkeypatch.setattr("llmzip.codecs.arith.segments._TOKENS_OF_ONE_LANE", 100)


def compress(data: bytes, model: str, **settings: object) -> bytes:
    return compress_bytes(data, CompressSettings(model=model, codec="arith", **settings))  # type: ignore[arg-type]


def arith_of(container: Container) -> ArithPayload:
    assert isinstance(container.payload, ArithPayload)
    return container.payload


def changed(container: Container, **changes: Any) -> bytes:
    """The file with other values in its payload."""
    payload = replace(arith_of(container), **changes)
    return write_container(replace(container, payload=payload))


def decompress(data: bytes, model: str, **settings: object) -> bytes:
    compute = ComputeSettings(
        **{
            name: settings.pop(name)
            for name in ("batch", "threads", "attention")
            if name in settings
        }  # type: ignore[arg-type]
    )
    return decompress_bytes(data, DecompressSettings(model=model, compute=compute, **settings))  # type: ignore[arg-type]


def wrapped(width: int, line_end: bytes) -> bytes:
    """Prose in filled lines."""
    words, lines, line = (PROSE.replace(b"\n", b" ") * 2).split(), [], b""
    for word in words:
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = b""
        line += (b" " if line else b"") + word
    return line_end.join([*lines, line]) + line_end


@contextmanager
def whatever_it_costs(segment_bytes: int = 1 << 18) -> Iterator[None]:
    """The same for fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
        patch.setattr("llmzip.codecs.arith.segments._TOKENS_OF_ONE_LANE", 100)
        patch.setattr("llmzip.codecs.arith.segments._SEGMENT_BYTES", segment_bytes)
        yield


TWICE = PROSE + PROSE.upper()


@pytest.fixture(scope="module")
def several(model: str) -> bytes:
    """`TWICE` in several segments, since the codec's own are larger than any tiny text."""
    with whatever_it_costs(segment_bytes=400):
        return compress(TWICE, model)


@pytest.fixture(scope="module")
def packed(model: str) -> bytes:
    """`PROSE`, encoded once."""
    with whatever_it_costs():
        return compress(PROSE, model)


@pytest.fixture(scope="module")
def container(model: str) -> Container:
    """`PROSE` with a shared vector."""
    with whatever_it_costs():
        return read_container(compress(PROSE, model, shared_mem=1))


class TestEveryArchitecture:
    @pytest.mark.parametrize("arch", ARCHITECTURES)
    @pytest.mark.parametrize("bos", [False, True])
    def test_round_trip(self, tiny_model: Callable[..., Path], arch: str, bos: bool) -> None:
        model = str(tiny_model(arch, bos=bos))
        packed = compress(PROSE, model, verify="quick" if bos else "full")
        assert arith_of(read_container(packed)).segments[0].num_lanes > 1
        assert decompress(packed, model) == PROSE


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama"))


@pytest.mark.parametrize(
    "data",
    [
        b"a cat sat on the mat and looked at me",
        PROSE,
        wrapped(64, b"\n"),
        wrapped(60, b"\r\n"),
        PROSE + bytes(range(256)) * 20 + PROSE,
        "Grüße, 漢字 \U0001f680; naïve café. ".encode() * 12,
        b"\xef\xbb\xbf" + PROSE + b"\xff\xfe end of text <|endoftext|> here and there\r",
        b"x" * 300,
    ],
    ids=["short", "prose", "LF", "CR LF", "binary between", "UTF-8", "BOM", "one letter"],
)
def test_round_trips(model: str, data: bytes) -> None:
    packed = compress(data, model)
    assert decompress(packed, model) == data


@pytest.mark.parametrize("line_end, wrap", [(b"\n", 1), (b"\r\n", 2)])
def test_line_ends_are_taken_out(model: str, line_end: bytes, wrap: int) -> None:
    assert arith_of(read_container(compress(wrapped(64, line_end), model))).wrap == wrap


def test_same_input_same_bytes(model: str) -> None:
    assert compress(PROSE, model) == compress(PROSE, model)


def test_stored_where_zstd_needs_less(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    data = random.Random(0).randbytes(4000)
    assert not read_container(compress(data, model)).needs_model
    text = b"the same line again and again and over again\n" * 100
    packed = compress(text, model)
    assert len(packed) < 256
    assert decompress(packed, model) == text


def test_shared_vectors(model: str) -> None:
    packed = compress(PROSE, model, shared_mem=2)
    assert arith_of(read_container(packed)).num_mem == 2
    assert decompress(packed, model) == PROSE
    alone = read_container(compress(PROSE, model, shared_mem=0))
    assert arith_of(alone).mem is None


class TestSegments:
    def test_all(self, several: bytes, model: str) -> None:
        assert len(arith_of(read_container(several)).segments) > 3
        assert decompress(several, model) == TWICE

    def test_spans(self, several: bytes, model: str) -> None:
        for first, last in [(0, 0), (0, 1), (5, 120), (380, 450), (len(TWICE) - 7, len(TWICE))]:
            assert decompress(several, model, span=(first, last)) == TWICE[first:last]

    def test_only_the_segments_needed_are_decoded(self, several: bytes, model: str) -> None:
        container = read_container(several)
        broken = self._damaged(container, [0, 1])
        assert decompress(broken, model, span=(len(TWICE) - 20, len(TWICE))) == TWICE[-20:]
        with pytest.raises(IntegrityError, match="segment 1 of"):
            decompress(broken, model, span=(0, 20))
        with pytest.raises(IntegrityError, match="segment 1 of"):
            decompress(broken, model)

    def test_the_bad_segment_is_named(self, several: bytes, model: str) -> None:
        container = read_container(several)
        with pytest.raises(IntegrityError, match="segment 3 of"):
            decompress(self._damaged(container, [2]), model)

    @staticmethod
    def _damaged(container: Container, numbers: list[int]) -> bytes:
        """A sound file whose streams hold other texts than their checks say."""
        segments = list(arith_of(container).segments)
        for number in numbers:
            stream = bytearray(segments[number].stream)
            stream[len(stream) // 2] ^= 0x40
            segments[number] = replace(segments[number], stream=bytes(stream))
        return changed(container, segments=tuple(segments))

    def test_a_span_beyond_the_end(self, several: bytes, model: str) -> None:
        with pytest.raises(SettingsError, match="`span`"):
            decompress(several, model, span=(0, len(TWICE) + 1))


class TestWaysToDecode:
    @pytest.mark.parametrize("batch, threads, attention", WAYS)
    def test_batches_threads_and_kernels(
        self, packed: bytes, model: str, batch: int | None, threads: int, attention: str
    ) -> None:
        assert decompress(packed, model, batch=batch, threads=threads, attention=attention) == PROSE

    def test_uncached(self, packed: bytes, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Reader, "open_prefix", _open_uncached)
        monkeypatch.setattr(Reader, "open_lanes", _lanes_uncached)
        assert decompress(packed, model) == PROSE

    @pytest.mark.parametrize("share", [0.5, 0.99])
    def test_noise_within_the_guard(self, packed: bytes, model: str, share: float) -> None:
        # What the machine itself adds is an eighth of the guard at most.
        own = 1 / 8 if share > 0.8 else 0.0
        assert decompress(packed, model, perturb=share - own) == PROSE

    def test_noise_beyond_the_guard_is_noticed(self, packed: bytes, model: str) -> None:
        with pytest.raises(IntegrityError, match="segment 1 of 1 decodes to different text"):
            decompress(packed, model, perturb=3000.0)

    def test_noise_needs_an_arith_file(self, model: str) -> None:
        with pytest.raises(SettingsError, match="arith"):
            decompress(compress_bytes(b"", CompressSettings(model=model)), model, perturb=0.5)


class _Uncached:
    """Rows whose whole past is read anew for every token."""

    def __init__(self, reader: Reader, pasts: list[list[int]], prefix: list[int]) -> None:
        self._reader, self._pasts, self._prefix = reader, pasts, prefix
        self.state = reader._lm.empty(1)
        self.hidden = torch.zeros(len(pasts), 1)

    def masses(self) -> Floats | None:
        lm, opening = self._reader._lm, self._reader._opening
        rows = []
        for past in self._pasts:
            ids = torch.tensor([[*self._prefix, *past]], dtype=torch.int64)
            embeds = torch.cat([opening, lm.embed(ids)], dim=1)
            live = torch.ones(embeds.shape[:2], dtype=torch.bool)
            with torch.no_grad():
                hidden, _ = lm.extend(lm.empty(1), embeds, live)
            rows.append(self._reader._token_odds.masses(lm.logits(hidden[0, -1:])))
        return np.concatenate(rows)

    def read(self, ids: list[int]) -> None:
        for past, token in zip(self._pasts, ids, strict=True):
            past.append(token)

    def keep(self, rows: list[int]) -> list[int]:
        self._pasts = [self._pasts[i] for i in rows]
        return list(rows)


def _open_uncached(reader: Reader, num_tokens: int) -> _Uncached:
    return _Uncached(reader, [[]], [])


def _lanes_uncached(reader: Reader, prefixes: list[_Uncached], num_tokens: int) -> _Uncached:
    return _Uncached(reader, [[] for _ in prefixes], list(prefixes[0]._pasts[0]))


class TestUnfitFiles:
    def test_a_window_of_no_whole_blocks(self, container: Container, model: str) -> None:
        with pytest.raises(Corrupt, match="window"):
            decompress(changed(container, window_tokens=100), model)

    def test_a_lane_longer_than_the_model_reads(self, container: Container, model: str) -> None:
        segment = arith_of(container).segments[0]
        long = replace(segment, num_lanes=1, num_tokens=len(PROSE))
        with pytest.raises(Corrupt, match="lane of"):
            decompress(changed(container, segments=(long,)), model)

    def test_a_start_token_that_there_is_not(self, container: Container, model: str) -> None:
        other = replace(arith_of(container).model, start_id=99_999)
        with pytest.raises(Corrupt, match="start token"):
            decompress(changed(container, model=other), model)

    def test_any_damage_is_one_of_our_errors(self, container: Container, model: str) -> None:
        segment = arith_of(container).segments[0]
        chance = random.Random(1)
        for _ in range(6):
            stream = bytearray(segment.stream)
            stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
            odd = replace(segment, stream=bytes(stream))
            with pytest.raises(LlmzipError):
                decompress(changed(container, segments=(odd,)), model)


def test_runs_of_both_kinds(model: str) -> None:
    text = b"".join(bytes(letter for letter in PROSE if letter % 7 != i) for i in range(7))
    data = text + random.Random(2).randbytes(9000) + text[::-1]
    container = read_container(compress(data, model))
    assert [type(run) is StoredRun for run in container.runs] == [False, True, False]
    packed = write_container(container)
    assert decompress(packed, model) == data
    for first, last in [(len(text) - 9, len(text) + 9), (len(text) + 5000, len(data) - 5)]:
        assert decompress(packed, model, span=(first, last)) == data[first:last]


def test_decoding_takes_another_model_of_the_same_weights(model: str) -> None:
    files = resolve(model)
    container = read_container(compress(PROSE, model))
    lm = load_model(files, device=CPU, dtype=torch.float32, attention="sdpa")
    payload = arith_of(container)
    decoding_model = DecodingModel(lm=lm, tokens=Tokens.load(files.path))
    request = Request(wanted=range(len(payload.segments)))
    texts = decode_segments_of(payload, decoding_model, request, QUIET)
    assert restore(container, texts) == PROSE


@pytest.mark.real_model
class TestDefaultModel:
    def test_golden_file(self) -> None:
        source = GOLDEN.with_suffix(".txt").read_bytes()
        assert decompress_bytes(GOLDEN.read_bytes(), DecompressSettings()) == source

    def test_ways_to_decode(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        text = (
            b"The lighthouse keeper wrote two letters a year, one to his sister and one to the "
            b"ministry, and neither had ever been answered.\r\nHe kept the copies in a tin. "
            + "Sehr geehrte Herren, it began, \u6f22\u5b57 \U0001f680".encode()
        )
        packed = compress(text * 3, DEFAULT_MODEL)
        assert guard_value(arith_of(read_container(packed)).guard_code) < 1e-2
        assert len(packed) < 400
        for batch, threads, attention in ((1, 1, "sdpa"), (3, 2, "eager"), (None, 2, "sdpa")):
            ways = {"batch": batch, "threads": threads, "attention": attention}
            assert decompress(packed, DEFAULT_MODEL, **ways, perturb=0.5) == text * 3
        with pytest.raises(IntegrityError, match="segment 1"):
            decompress(packed, DEFAULT_MODEL, perturb=3000.0)


def test_steps_and_frozen_lm_are_what_the_uncached_rows_stand_for() -> None:
    """The stand-in above must have the methods that decoding calls."""
    for name in ("masses", "read", "keep"):
        assert callable(getattr(Steps, name)) and callable(getattr(_Uncached, name))
    assert callable(TokenOdds.masses) and callable(FrozenLM.extend)
