"""Files decoded with a tiny model: damage behind right checksums never becomes another text.

Owns the model, the files that it holds, and the verdict on what comes out of them. Called by
`damage` and `bombs`, in processes of their own. Loads torch.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import llmzip
from llmzip.api import compress, decompress
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.lm import loaded as models
from llmzip.lm.tokens import Tokens
from llmzip.store.container import read_container, write_container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.original import content_hash
from llmzip.store.payload import StoredRun
from tests.containers import changed
from tests.soak.damage import all_edits, try_edit
from tests.soak.files import apply_signed, take_apart
from tests.soak.outcome import Outcome, Tally, Verdict, peak_mb
from tests.tiny_models import make_tiny_model

TEXT, TAIL = b"the old mill stands by the river, and the water turns", b"\0\1\2"
SAMPLE = 150  # of each file
MAX_SECONDS = 10.0  # the model works for as many tokens as the file's size allows
_CRAM = {"budget_bits": 60.0, "max_steps": 40, "context_tokens": 8}
KINDS: dict[str, dict[str, Any]] = {
    "coded": {"bits": 2, **_CRAM},
    "raw": {"bits": 16, **_CRAM},
    "arith": {"codec": "arith", "shared_mem": 1},
}


@contextmanager
def tiny_model() -> Iterator[Path]:
    """The directory of a tiny model. Inside the block, its files are read once."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch.dict(os.environ, LLMZIP_CACHE=str(directory / "cache")))
        for owner, name in (
            (compress, "resolve"),
            (decompress, "resolve"),
            (decompress, "load_model"),
            (models, "load_model"),
            (Tokens, "load"),
        ):
            remembered = staticmethod(cache(getattr(owner, name)))
            stack.enter_context(patch.object(owner, name, remembered))
        yield make_tiny_model(directory / "tiny", "llama")


def pack(model: Path, kind: str) -> bytes:
    """A file of `TEXT`, which the model holds, and `TAIL`, which is stored."""
    # A random model predicts worse than zstd: its file is kept all the same.
    with patch.object(arith_encoding, "pack_stored", lambda data: bytes(1 << 20)):
        text = read_container(llmzip.compress(TEXT, model=str(model), **KINDS[kind]))
    runs, whole = (*text.runs, StoredRun(data=TAIL)), content_hash(TEXT + TAIL)
    packed = write_container(changed(text, runs=runs, original_hash=whole))
    assert llmzip.decompress(packed, model=str(model)) == TEXT + TAIL
    payload = text.payload
    assert payload is not None and payload.codec == KINDS[kind].get("codec", "cram")
    if isinstance(payload, CramPayload):
        assert any(chunk.mem is not None for chunk in payload.chunks)
    return packed


def decode_damaged(*, seed: int, full: bool) -> list[Outcome]:
    """All damage to a file of each kind, checksums put right, and what comes out of the decoder."""
    with tiny_model() as model:
        files = [take_apart(pack(model, kind)) for kind in KINDS]

        def judge(data: bytes) -> Verdict:
            found = llmzip.decompress(data, model=str(model))
            return "sound" if found == TEXT + TAIL else "wrong"

        name = "re-signed files decoded"
        tally = Tally(name=name, max_seconds=MAX_SECONDS, base_mb=peak_mb())
        rng = random.Random(seed)
        for parts in files:
            edits = list(all_edits(parts))
            for edit in edits if full else rng.sample(edits, SAMPLE):
                try_edit(tally, parts, edit, apply_signed(parts, edit), judge)
        return [tally.outcome()]
