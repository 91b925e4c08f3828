"""Hostile planes: zstd frames, vectors, patches and segments that no writer makes.

Owns the list of files whose fault lies behind a header that looks right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from llmzip.errors import Corrupt, LimitExceeded, UnsupportedVersion
from llmzip.store.cram_patches import ChunkPatches, pack_coded_patches
from llmzip.store.residual import Ranked
from tests.soak.files import FRONT_BYTES, MAGIC, PLANES, Parts, seal
from tests.soak.frames import BLOCK_BYTES, Frame, rle_blocks, skippable
from tests.soak.hostile import (
    GIB,
    HUGE,
    Bomb,
    changed,
    lying,
    numbers,
    sound_files,
    stored_file,
    with_planes,
)

SMALL_LIMIT = 64 << 20


def plane_bombs() -> Iterator[Bomb]:
    """All of them, under names of their own."""
    parts = sound_files()
    tiny, coded, arith = (parts[name] for name in ("tiny", "coded", "arith"))
    yield from _frames(parts["stored"], tiny, arith)
    yield from _vectors(tiny, coded, arith)
    yield from _raw_patches(tiny)
    yield from _coded_patches(coded)
    yield from _segments(arith)


def _frames(stored: Parts, tiny: Parts, arith: Parts) -> Iterator[Bomb]:
    """Stored bytes and columns in zstd frames that lie, expand, or want memory."""
    block, many, eight = BLOCK_BYTES, rle_blocks(GIB // BLOCK_BYTES), rle_blocks(8)
    good = Frame(size=8 * block, blocks=eight)
    for name, frame, num_bytes in (
        ("a claim of 1 GiB", Frame(size=GIB, blocks=rle_blocks(1)), GIB),
        ("more in it than it says", Frame(size=block, blocks=many), block),
        ("less in it than it says", replace(good, size=9 * block), 9 * block),
        ("a frame of no size", replace(good, size=None), 8 * block),
        ("a size of 2^64 - 1", replace(good, size=2**64 - 1), 8 * block),
        ("no last block", replace(good, is_whole=False), 8 * block),
        ("a dictionary", replace(good, dictionary=b"\7\7\7\7"), 8 * block),
        ("a wrong checksum", replace(good, checksum=b"abcd"), 8 * block),
        ("a window of 2^41", replace(good, window=0xF8), 8 * block),
        ("a window of 2^31, cut", replace(good, window=0xA8, is_whole=False), 8 * block),
        ("a reserved bit", replace(good, reserved=True), 8 * block),
    ):
        data = stored_file(stored, frame.pack(), num_bytes=num_bytes)
        yield Bomb(name=f"stored: {name}", data=data, error=Corrupt, looks_sound=True)
    sound = Frame(size=block, blocks=rle_blocks(1)).pack()
    bomb = Frame(size=GIB, blocks=many).pack()
    for name, plane in (
        ("two frames", sound + bomb),
        ("a skippable frame first", skippable(b"abcd") + sound),
        ("a skippable frame behind", sound + skippable(b"abcd")),
        ("a skippable frame of 4 GiB", skippable(b"", size=2**32 - 1)),
        ("half a frame header", sound[:5]),
        ("no zstd", bytes(50)),
    ):
        data = stored_file(stored, plane, num_bytes=block)
        yield Bomb(name=f"stored: {name}", data=data, error=Corrupt, looks_sound=True)
    data = stored_file(stored, bomb, num_bytes=GIB)
    limit = {"max_output_bytes": SMALL_LIMIT}
    yield Bomb(name="stored: 1 GiB, of 33 KB", data=data, error=LimitExceeded, **limit)
    # A reader may need the memory that its user allows before it finds that a frame is damaged.
    half = Frame(size=SMALL_LIMIT, blocks=rle_blocks(SMALL_LIMIT // block), is_whole=False)
    data = stored_file(stored, half.pack(), num_bytes=SMALL_LIMIT)
    name = "stored: no last block of very many"
    yield Bomb(name=name, data=data, error=Corrupt, looks_sound=True, **limit)
    for base, title in ((tiny, "chunks"), (arith, "segments")):
        header = replace(base.header, required=base.header.required | 2)
        for name, plane in (
            ("1 GiB", bomb),
            ("a claim of 1 GiB", Frame(size=GIB, blocks=rle_blocks(1)).pack()),
            ("1 MiB", good.pack()),
            ("no size", replace(good, size=None).pack()),
        ):
            data = with_planes(base, {"columns": plane}, header)
            yield Bomb(name=f"columns of {title}: {name}", data=data, error=Corrupt)
            # As many of them as would need such columns.
            path = "payload.num_chunks" if base is tiny else "payload.num_segments"
            data = with_planes(base, {"columns": plane}, changed(header, path, GIB))
            yield Bomb(name=f"columns of 2^30 {title}: {name}", data=data, error=Corrupt)


def giant() -> Bomb:
    """A sound file of 33 KB that holds 1 GiB: to look at it must not take that much."""
    frame = Frame(size=GIB, blocks=rle_blocks(GIB // BLOCK_BYTES)).pack()
    data = stored_file(sound_files()["stored"], frame, num_bytes=GIB)
    return Bomb(name="1 GiB in 33 KB", data=data, error=None, looks_sound=True)


def _vectors(tiny: Parts, coded: Parts, arith: Parts) -> Iterator[Bomb]:
    """Numbers that are none, and products that overflow."""
    plane = tiny.plane("vectors")
    for name, bits, error in (
        ("infinity", 0x7F80, Corrupt),
        ("less than nothing, infinitely", 0xFF80, Corrupt),
        ("a NaN", 0x7FC0, Corrupt),
        ("a signalling NaN", 0x7F81, Corrupt),
        ("the smallest number", 0x0001, None),
        ("less than zero by nothing", 0x8000, None),
        ("the largest number", 0x7F7F, None),
    ):
        for at in (0, 10, len(plane) - 2):
            vectors = plane[:at] + bits.to_bytes(2, "little") + plane[at + 2 :]
            data = with_planes(tiny, {"vectors": vectors})
            yield Bomb(name=f"vectors: {name} at {at}", data=data, error=error)
    for name, parts, path in (("chunks", coded, "coded.grid"), ("the file", arith, "grid")):
        for field, value in (
            ("first_step", 1017),  # the largest step is then the largest of all
            ("first_step", 1018),
            ("first_step", 0),
            ("step_span", 1019),
            ("max_symbol", 1024),
            ("max_symbol", 0),
            ("max_symbol", 1023),
        ):
            header = changed(parts.header, f"payload.{path}.{field}", value)
            data = lying(header, parts)
            title = f"vectors of {name}: {field} is {value}"
            is_deep = (field, value) in (("first_step", 1017), ("max_symbol", 1023))
            yield Bomb(name=title, data=data, error=Corrupt, looks_sound=is_deep)
        most = 64 if parts is arith else 1024
        where = "payload" if parts is arith else "payload.empty"
        header = changed(parts.header, f"{where}.num_mem", most)
        header = changed(header, f"{where}.mem_dim", 65536)
        yield Bomb(
            name=f"vectors of {name}: all there can be", data=lying(header, parts), error=Corrupt
        )
        data = with_planes(parts, {"vectors": parts.plane("vectors") + b"\0"})
        yield Bomb(
            name=f"vectors of {name}: a zero more", data=data, error=Corrupt, looks_sound=True
        )


def _raw_patches(tiny: Parts) -> Iterator[Bomb]:
    """The four chunks have 7, 5, 2 and 6 tokens; the third one is literal."""
    for name, first, second, literal, last in (
        ("more patches than tokens", (8, *range(16)), (0,), (1, 1), (0,)),
        ("2^63 - 1 patches", (HUGE,), (0,), (1, 1), (0,)),
        ("a position behind the end", (1, 7, 1), (0,), (1, 1), (0,)),
        ("a gap of 2^63 - 1", (2, 1, HUGE, 1, 1), (0,), (1, 1), (0,)),
        ("a token id of 2^31", (1, 1, 2**31), (0,), (1, 1), (0,)),
        ("a token id of 2^63 - 1", (0,), (1, 0, HUGE), (1, 1), (0,)),
        ("a literal token of 2^31", (0,), (0,), (2**31, 1), (0,)),
        ("one literal token too many", (0,), (0,), (1, 1, 1), (0,)),
        ("a number too many", (0,), (0,), (1, 1), (0, 0)),
        ("a number too few", (0,), (0,), (1, 1), ()),
    ):
        plane = numbers(*first, *second, *literal, *last)
        data = with_planes(tiny, {"patches": plane})
        yield Bomb(name=f"patches: {name}", data=data, error=Corrupt)


def _coded_patches(coded: Parts) -> Iterator[Bomb]:
    """The same chunks, and four patches in two of them."""

    def plane(*patches: int | Ranked, literal: tuple[int, int] = (354, 101)) -> bytes:
        second, last = patches[:2], patches[2:]
        return pack_coded_patches(
            [
                ChunkPatches(num_tokens=7, is_literal=False),
                ChunkPatches(num_tokens=5, is_literal=False, patches=tuple(enumerate(second))),
                ChunkPatches(num_tokens=2, is_literal=True, patches=tuple(enumerate(literal))),
                ChunkPatches(num_tokens=6, is_literal=False, patches=tuple(enumerate(last))),
            ]
        )

    good = plane(1, 2, 3, 4)
    for name, patches, error in (
        ("token ids", good, None),
        ("rank 257 alone", plane(1, Ranked(skip=256, size=1, index=0), 3, 4), Corrupt),
        ("rank 276 alone", plane(1, Ranked(skip=275, size=1, index=0), 3, 4), Corrupt),
        ("ranks 255 to 510", plane(1, 2, Ranked(skip=254, size=256, index=0), 4), Corrupt),
        ("ranks 2 to 257", plane(Ranked(skip=1, size=256, index=9), 2, 3, 4), Corrupt),
        ("a token id of 2^31", plane(1, 2, 3, 2**31), Corrupt),
        ("a token id of 2^32 - 2", plane(2**32 - 2, 2, 3, 4), Corrupt),
        ("a literal token of 2^31", plane(1, 2, 3, 4, literal=(0, 2**31)), Corrupt),
        ("three patches", plane(1, 2, 3), Corrupt),
        ("a byte too many", good + b"\0", Corrupt),
        ("nothing but ones", b"\xff" * len(good), Corrupt),
        ("nothing but zeros", bytes(len(good)), Corrupt),
    ):
        data = with_planes(coded, {"patches": patches})
        yield Bomb(name=f"coded patches: {name}", data=data, error=error, looks_sound=True)


def _segments(arith: Parts) -> Iterator[Bomb]:
    """The text of two segments has 26 bytes in two runs, with 4 stored bytes between them."""
    second, runs = (13, 17, 2, 2), (15, 4, 11)
    for name, table, first, more in (
        ("2^24 + 1 tokens", runs, (2**24 + 1, 2**25, 1, 3), {}),
        ("2^24 tokens in 3 bytes", runs, (2**24, 2**25, 1, 3), {}),
        ("no tokens", runs, (0, 9, 1, 3), {}),
        ("fewer bytes than tokens", runs, (10, 9, 1, 3), {}),
        ("65 lanes", runs, (100, 100, 65, 3), {}),
        ("more lanes than tokens", runs, (7, 9, 8, 3), {}),
        ("no lanes", runs, (7, 9, 0, 3), {}),
        ("no stream", runs, (7, 9, 1, 0), {}),
        ("streams of more than there is", runs, (7, 9, 1, 4), {}),
        ("a stream of 2^63 - 1 bytes", runs, (7, 9, 1, HUGE), {}),
        ("2^63 - 1 bytes", runs, (7, HUGE, 1, 3), {}),
        ("a run of no bytes", (15, 0, 11), (7, 9, 1, 3), {}),
        ("a run of 2^63 - 1 bytes", (15, HUGE, 11), (7, 9, 1, 3), {}),
        ("runs of more than the segments", (16, 4, 11), (7, 9, 1, 3), {}),
        ("a window of 2^24 + 1", runs, (7, 9, 1, 3), {"window_tokens": 2**24 + 1}),
        ("no window", runs, (7, 9, 1, 3), {"window_tokens": 0}),
        ("a prefix of 65536", runs, (7, 9, 1, 3), {"prefix_tokens": 65536}),
        ("no guard", runs, (7, 9, 1, 3), {"guard_code": 0}),
        ("another line break", runs, (7, 9, 1, 3), {"wrap": 3}),
    ):
        header = arith.header
        for field, value in more.items():
            header = changed(header, f"payload.empty.{field}", value)
        columns = numbers(*table, *first) + bytes(4) + numbers(*second) + bytes(4)
        data = with_planes(arith, {"columns": columns}, header)
        yield Bomb(name=f"segments: {name}", data=data, error=Corrupt)
    first, last = arith.fields
    fields, front = arith.data[first:last], arith.data[len(MAGIC) : FRONT_BYTES]
    known = arith.header.payload.model.digest + b"\7\1"  # type: ignore[union-attr]
    assert fields.count(known) == 1
    body = b"".join(map(arith.plane, PLANES))
    for recipe in (0, 2, HUGE):
        unknown = fields.replace(known, known[:-1] + numbers(recipe))
        data = seal(front, unknown, body)
        yield Bomb(name=f"segments: recipe {recipe}", data=data, error=UnsupportedVersion)
