"""zstd frames made by hand, of blocks that each repeat one byte: 4 bytes become 128 KiB.

Owns the layout of frames as RFC 8878 has it, wrong ones included.
"""

from __future__ import annotations

from dataclasses import dataclass

MAGIC = b"\x28\xb5\x2f\xfd"
BLOCK_BYTES = 128 << 10  # no block gives more
_RLE = 1


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a frame says, true or not."""

    size: int | None  # of the content
    blocks: tuple[bytes, ...]  # without the mark of the last one
    window: int = 0x38  # 2^17: exponent less 10 in the upper five bits
    is_whole: bool = True  # the last block is marked
    reserved: bool = False
    dictionary: bytes = b""  # an id of 4 bytes
    checksum: bytes = b""  # 4 bytes

    def pack(self) -> bytes:
        """The frame's bytes."""
        descriptor = 0xC0 * (self.size is not None) | 8 * self.reserved
        descriptor |= 4 * bool(self.checksum) | 3 * bool(self.dictionary)
        head = MAGIC + bytes((descriptor, self.window)) + self.dictionary
        if self.size is not None:
            head += self.size.to_bytes(8, "little")
        *most, last = self.blocks
        last = bytes([last[0] | self.is_whole]) + last[1:]
        return head + b"".join(most) + last + self.checksum


def rle_blocks(count: int, *, num_bytes: int = BLOCK_BYTES) -> tuple[bytes, ...]:
    """Blocks of zeros."""
    return ((num_bytes << 3 | _RLE << 1).to_bytes(3, "little") + b"\0",) * count


def skippable(content: bytes, *, size: int | None = None) -> bytes:
    """A frame that decoders pass over."""
    size = len(content) if size is None else size
    return b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + content
