"""Digests of the containers that this code makes on this machine, to show that a change of the
code's shape changes no byte.

The vectors of a tiny model differ between processors in their last bits, so that every set of
digests is kept under a key of the machine's arithmetic. `python -m tests.digests` prints them as
JSON; run it in another checkout of this repository to compare the two on one machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import llmzip
from llmzip.codecs.cram import calibration
from llmzip.lm import loaded
from tests.tiny_models import ARCHITECTURES, SHORT_TEXT, TEXT, make_tiny_model

PINNED = Path(__file__).parent / "data" / "digests.json"
_NOISE = bytes(range(256)) * 2
_LLAMA: dict[str, dict[str, Any]] = {
    "preset fast": {"preset": "fast", "bits": 16},  # named, else so short a text is stored
    "preset small": {"preset": "small", "bits": 3},
    **{f"bits {bits}": {"bits": bits} for bits in (16, 8, 6, 5, 4, 3, 2, 1)},
    "two vectors": {"num_mem": 2, "bits": 3},
    "two bf16 vectors": {"num_mem": 2, "bits": 16},
    "context": {"context_tokens": 16, "bits": 16, "budget_bits": 40.0},
    "no context": {"context_tokens": 0, "bits": 4, "budget_bits": 40.0},
    "no patches": {"max_patches": 0.0, "bits": 16},
    "bf16 safe": {"bf16_safe": True, "bits": 16},
    "seed": {"seed": 7, "bits": 3},
}

_IN_BOTH = tuple(
    f"cram llama {name}" for name in ("preset fast", "bits 16", "bits 3", "bits 1", "two vectors")
)


def arithmetic_key() -> str:
    """What the last bits of this machine's floats depend on, as a short name."""
    generator = torch.Generator().manual_seed(0)
    found = hashlib.blake2b(digest_size=8)
    for dtype in (torch.float32, torch.bfloat16):
        for size in (7, 64, 260, 1100):
            left = torch.randn(size, size, generator=generator).to(dtype)
            right = torch.randn(size, size, generator=generator).to(dtype)
            product = left @ right
            found.update(product.float().numpy().tobytes())
            product = torch.softmax(product, dim=1).log_softmax(0).tanh().exp()
            found.update(product.float().numpy().tobytes())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__} {platform.machine()} {capability} {found.hexdigest()}"


def cases(models: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """The name of each container, its original and its settings. models: a directory for them."""
    paths = {arch: str(make_tiny_model(models / arch, arch)) for arch in ARCHITECTURES}
    text = TEXT.encode()[:96]
    yield "stored: nothing", b"", {}
    yield "stored: noise", _NOISE, {}
    yield "stored: a small text", SHORT_TEXT, {"model": paths["llama"]}
    for arch in ARCHITECTURES:
        common = {"model": paths[arch]}
        yield f"cram {arch}", text[:48], {**common, "bits": 3}
        yield f"cram {arch} bf16", text[:48], {**common, "bits": 16, "preset": "fast"}
        yield f"arith {arch}", text, {**common, "codec": "arith"}
    for name, settings in _LLAMA.items():
        yield f"cram llama {name}", text, {"model": paths["llama"], **settings}
    mixed = text + bytes(range(256)) * 6 + text
    yield "cram llama mixed", mixed, {"model": paths["llama"], "bits": 16, "preset": "fast"}
    yield "arith llama mixed", mixed, {"model": paths["llama"], "codec": "arith"}
    yield "arith llama shared", text * 3, {
        "model": paths["llama"], "codec": "arith", "shared_mem": 2,
    }  # fmt: skip
    yield "auto llama", mixed, {"model": paths["llama"], "codec": "auto", "try_cram": True}


def digests() -> Iterator[tuple[str, str]]:
    """The name and the digest of every container, made with a model that optimises in fp32, some
    with one in bf16."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for dtype in (torch.float32, torch.bfloat16):
            name_of_dtype = str(dtype).removeprefix("torch.")
            cache = root / f"cache-{name_of_dtype}"
            with (
                mock.patch.object(loaded, "fast_dtype", lambda device, dtype=dtype: dtype),
                mock.patch.object(calibration, "cache_dir", lambda cache=cache: cache),
            ):
                for name, data, settings in cases(root / "models"):
                    if dtype == torch.bfloat16 and name not in _IN_BOTH:
                        continue  # the other steps are the same in either dtype
                    packed = llmzip.compress(data, threads=1, device="cpu", **settings)
                    digest = hashlib.blake2b(packed, digest_size=12).hexdigest()
                    yield f"{name}, {name_of_dtype}", f"{len(packed)} {digest}"


if __name__ == "__main__":
    json.dump({arithmetic_key(): dict(digests())}, sys.stdout, indent=1)
    print()
