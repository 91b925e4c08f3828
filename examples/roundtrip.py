"""Compress a text with a frozen language model, decompress it, and compare.

    python examples/roundtrip.py                      three sentences of short.txt: about a minute
    python examples/roundtrip.py examples/short.txt   all of a file: some minutes

The first run may fetch the default model.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import llmzip

DEMO_FILE = Path(__file__).with_name("short.txt")
DEMO_SENTENCES = 3


def first_sentences(text: bytes, num_sentences: int) -> bytes:
    """The start of `text` up to its `num_sentences`-th full stop, line breaks as they are."""
    return b".".join(text.split(b".")[:num_sentences]) + b".\n"


def show(event: llmzip.Progress) -> None:
    """One line that is written over and over."""
    done = f"{event.chunks_done} of {event.chunks_total} chunks" if event.chunks_total else ""
    right = f"{event.tokens_right} of {event.tokens_total} tokens" if event.tokens_total else ""
    parts = [part for part in (event.stage, event.message, done, right) if part]
    print("\r\x1b[K" + ", ".join(parts), end="", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    if arguments:
        original = Path(arguments[0]).read_bytes()
    else:
        original = first_sentences(DEMO_FILE.read_bytes(), DEMO_SENTENCES)
    print(original.decode(errors="replace"))

    started = time.perf_counter()
    container = llmzip.compress(original, progress=show)
    packed = time.perf_counter()
    restored = llmzip.decompress(container)
    finished = time.perf_counter()

    print(file=sys.stderr)
    print(f"original   {len(original):7} bytes")
    print(f"container  {len(container):7} bytes, made in {packed - started:.1f} s")
    print(f"restored   {len(restored):7} bytes, read in {finished - packed:.1f} s")
    print("equal, byte for byte" if restored == original else "DIFFERENT: please report this")
    print()
    print(llmzip.info(container).to_text())
    return 0 if restored == original else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
