"""What is intact of a damaged container, as bytes with the gaps marked.

Owns what counts as intact and how a gap looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmzip.api.decompress import decode_pieces
from llmzip.codecs.base import Request
from llmzip.codecs.context import QUIET, Context
from llmzip.config import DecompressSettings
from llmzip.errors import Corrupt, IntegrityError, Truncated
from llmzip.lm.cache import Models
from llmzip.store.container import Container, read_container
from llmzip.store.damaged import read_damaged
from llmzip.store.hashes import content_hash
from llmzip.store.limits import check_work
from llmzip.store.pieces import PieceMap, Texts


@dataclass(frozen=True, kw_only=True)
class Salvaged:
    """The bytes, and which of the original's bytes are not among them."""

    data: bytes  # each gap is a line that says so
    gaps: tuple[tuple[int, int], ...]  # of the original: first, last (not included)
    original_bytes: int
    num_pieces: int
    num_intact: int
    noun: str  # what a piece is called

    @property
    def num_lost_bytes(self) -> int:
        return sum(last - first for first, last in self.gaps)


def salvage_bytes(
    data: bytes,
    settings: DecompressSettings,
    context: Context = QUIET,
    *,
    models: Models | None = None,
) -> Salvaged:
    """All pieces of a container whose texts pass their checks. Of stored bytes, which have none,
    those of a sound file alone.

    A sound file gives the whole of the original, verified, or the pieces that decode to the right
    text here. Raises what `decompress_bytes` raises; FormatError where nothing can be found, and
    IntegrityError where nothing is intact.
    """
    container, pieces, unreadable = _open(data, settings)
    texts: Texts = [None] * pieces.num_pieces
    if pieces.num_pieces:
        request = Request(
            wanted=range(pieces.num_pieces),
            unreadable=unreadable,
            batch=settings.compute.batch,
            perturb=settings.perturb,
        )
        texts = decode_pieces(container, settings, request, context, models=models)
    found = _gather(container, pieces, texts)
    if found.gaps and found.num_lost_bytes == found.original_bytes:
        raise IntegrityError("nothing in the file is intact. Nothing was written.")
    return found


def mark(num_bytes: int) -> bytes:
    """What stands in the place of lost bytes."""
    return f"\n[llmzip: {num_bytes} bytes are lost here]\n".encode()


def _open(
    data: bytes, settings: DecompressSettings
) -> tuple[Container, PieceMap, frozenset[int] | None]:
    """A file's contents; the pieces that cannot be read, None in a sound one."""
    try:
        container = read_container(data, max_output_bytes=settings.max_output_bytes)
    except (Corrupt, Truncated):
        found = read_damaged(
            data, max_output_bytes=settings.max_output_bytes, max_tokens=settings.max_tokens
        )
        return found.container, PieceMap.of(found.container, found.runs), found.unreadable
    check_work(container.num_tokens, len(data), settings.max_tokens)
    return container, PieceMap.of(container), None


def _gather(container: Container, pieces: PieceMap, texts: Texts) -> Salvaged:
    parts: list[bytes] = []
    gaps: list[tuple[int, int]] = []
    for extent in pieces.extents(0, container.original_bytes):
        data = extent.bytes_of(texts)
        if data is not None:
            parts.append(data)
        elif gaps and gaps[-1][1] == extent.first:
            gaps[-1] = gaps[-1][0], extent.last
            parts[-1] = mark(gaps[-1][1] - gaps[-1][0])
        else:
            gaps.append((extent.first, extent.last))
            parts.append(mark(extent.last - extent.first))
    whole = b"".join(parts)
    if not gaps and content_hash(whole) != container.original_hash:
        raise IntegrityError(
            "every piece passes its check, but the text fails the hash of the whole. Nothing was "
            "written."
        )
    return Salvaged(
        data=whole,
        gaps=tuple(gaps),
        original_bytes=container.original_bytes,
        num_pieces=pieces.num_pieces,
        num_intact=sum(text is not None for text in texts),
        noun=pieces.noun,
    )
