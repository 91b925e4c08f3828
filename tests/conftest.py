"""Shared fixtures: tiny models of every architecture, made once, and one thread for them, on which
they are quickest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Processes of pytest-xdist share the cores, and so do the commands that tests start: threads that
# wait for each other on a core that is taken make everything many times slower. Torch reads this
# when it is imported.
_NUM_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _NUM_WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _NUM_WORKERS)))

import torch  # noqa: E402

from llmzip.lm.model import FrozenLM, load_model  # noqa: E402
from llmzip.lm.tokens import Tokens  # noqa: E402
from llmzip.lm.zoo import resolve  # noqa: E402
from tests.tiny_models import SHORT_TEXT, make_tiny_model  # noqa: E402

NUM_THREADS = torch.get_num_threads()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    is_real = item.get_closest_marker("real_model") is not None
    torch.set_num_threads(NUM_THREADS if is_real else 1)


@pytest.hookimpl(tryfirst=True)  # before `-m` picks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs the default model is slow, but for the few tests that `quick` picks."""
    for item in items:
        if item.get_closest_marker("real_model") and not item.get_closest_marker("quick"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def own_calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured of tiny models stays out of the user's cache."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmzip.codecs.cram.calibration.cache_dir", lambda: cache)
        yield


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


@pytest.fixture(scope="module")
def lm(tiny_model: Callable[..., Path]) -> FrozenLM:
    """A tiny llama, in fp32."""
    files = resolve(str(tiny_model("llama")))
    return load_model(files, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa")


@pytest.fixture(scope="module")
def ids(tiny_model: Callable[..., Path]) -> tuple[int, ...]:
    """Tokens of `SHORT_TEXT` for `lm`."""
    (piece,) = Tokens.load(tiny_model("llama")).encode(SHORT_TEXT)
    assert piece.ids is not None
    return piece.ids
