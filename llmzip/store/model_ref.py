"""Which language model a file needs: its name, its revision, its digest, its start token.

Owns these fields, their limits and their coding in the header. Does not know what a codec stores of
the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llmzip.errors import Corrupt, UnsupportedVersion
from llmzip.store.residual import MAX_TOKEN_ID
from llmzip.store.varint import Cursor, encode_varint, require

# Models that a file names by their number: name, revision, digest. A number is never given to
# another model; docs/FORMAT.md has them, too. 2 and 3 were adapters that no release had.
NUMBERED = {
    1: ("smollm2-135m", "", bytes.fromhex("632270f3ddf1b2fbd28ac0404007e1d4")),
    4: ("smollm2-135m-text", "", bytes.fromhex("fdb6c77b81948ca9998b4c4cb910375c")),
}

DIGEST_BYTES = 16
COMMIT_BYTES = 20
MAX_NAME_BYTES = 255

# Line breaks, terminal controls, bidirectional overrides: what could make a printed name look like
# something else. A fixed list, so that no file is valid under one version of Unicode only.
_UNPRINTABLE = frozenset(
    chr(code)
    for first, last in (
        (0x00, 0x1F), (0x7F, 0x9F), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069)
    )
    for code in range(first, last + 1)
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """A language model, as a file names it."""

    model_id: str
    revision: str  # a commit, a label, or nothing
    digest: bytes  # 16 bytes: identity of weights, config and vocabulary
    start_id: int | None  # start token: stands before the first token of every segment
    # A file of an earlier version spells out a model that has a number, and is written so again.
    is_spelled: bool = field(default=False, compare=False)

    def check(self) -> None:
        """Raise Corrupt unless every field is in range."""
        require(self.model_id != "", "text that needs a model needs a model id")
        _check_name(self.model_id, what="model id")
        _check_name(self.revision, what="revision")
        require(len(self.digest) == DIGEST_BYTES, f"a model digest has {DIGEST_BYTES} bytes")
        _check_start(self.start_id)

    @property
    def number(self) -> int | None:
        """Its number in the file, or None where it is spelled out."""
        if self.is_spelled:
            return None
        own = (self.model_id, self.revision, self.digest)
        return next((number for number, model in NUMBERED.items() if model == own), None)

    def encode(self) -> bytes:
        """All but the start token, whose place in the header depends on the codec."""
        if self.number is not None:
            return encode_varint(self.number)
        name = self.model_id.encode()
        out = encode_varint(len(name)) + name
        if is_commit(self.revision):
            return out + b"\x01" + bytes.fromhex(self.revision) + self.digest
        label = self.revision.encode()
        return out + (encode_varint(len(label) + 1) + label if label else b"\x00") + self.digest

    def encode_start(self) -> bytes:
        """The start token, where there is one."""
        return b"" if self.start_id is None else encode_varint(self.start_id)


def read_model_ref(cursor: Cursor, *, has_number: bool) -> ModelRef:
    """The inverse of `ModelRef.encode`. Files of earlier versions spell out numbered models, too.
    Raises Corrupt, UnsupportedVersion."""
    if has_number:
        number = cursor.varint()
        if number not in NUMBERED:
            raise UnsupportedVersion(f"model number {number}")
        model_id, revision, digest = NUMBERED[number]
        return ModelRef(model_id=model_id, revision=revision, digest=digest, start_id=None)
    model_id = _read_text(cursor, cursor.varint(), what="model id")
    require(model_id, "header: empty model id")
    code = cursor.varint()
    if code == 1:
        revision = bytes(cursor.take(COMMIT_BYTES)).hex()
    else:
        revision = _read_text(cursor, max(code - 1, 0), what="revision")
        require(not is_commit(revision), "header: a commit stored as text")
    digest = bytes(cursor.take(DIGEST_BYTES))
    return ModelRef(
        model_id=model_id, revision=revision, digest=digest, start_id=None, is_spelled=True
    )


def read_start(cursor: Cursor, *, has_start: bool) -> int | None:
    """The inverse of `ModelRef.encode_start`. Raises Corrupt."""
    start_id = cursor.varint() if has_start else None
    _check_start(start_id)
    return start_id


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit in the one spelling that is stored as raw bytes."""
    return len(revision) == 2 * COMMIT_BYTES and set(revision) <= set("0123456789abcdef")


def _check_start(start_id: int | None) -> None:
    if start_id is not None:
        require(0 <= start_id <= MAX_TOKEN_ID, f"start token {start_id}, at most {MAX_TOKEN_ID}")


def _check_name(name: str, *, what: str) -> None:
    """Raise Corrupt for a name too long, or with characters that could mislead a reader."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise Corrupt(f"{what} is not valid Unicode") from error
    require(size <= MAX_NAME_BYTES, f"{what} of {size} bytes, at most {MAX_NAME_BYTES}")
    require(_UNPRINTABLE.isdisjoint(name), f"{what} has control characters")


def _read_text(cursor: Cursor, size: int, *, what: str) -> str:
    is_short = size <= MAX_NAME_BYTES
    require(is_short, f"header: {what} of {size} bytes, at most {MAX_NAME_BYTES}")
    try:
        text = bytes(cursor.take(size)).decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"header: {what} is not UTF-8") from error
    _check_name(text, what=what)
    return text
