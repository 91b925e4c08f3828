"""Shared fixtures: tiny models of every architecture, made once, and one thread for the tests
that count bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directory of a tiny random model: tiny_model("llama"), tiny_model("opt", bos=True)."""
    made: dict[tuple[str, bool, int], Path] = {}

    def get(arch: str, *, bos: bool = False, seed: int = 0) -> Path:
        key = (arch, bos, seed)
        if key not in made:
            directory = tmp_path_factory.mktemp("models") / f"tiny-{arch}-{bos}-{seed}"
            made[key] = make_tiny_model(directory, arch, bos=bos, seed=seed)
        return made[key]

    return get
