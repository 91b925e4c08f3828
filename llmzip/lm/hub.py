"""Models of the Hugging Face hub: find a snapshot on this machine, or fetch one when told to.

Owns the translation of hub failures into `ModelUnavailable` and the choice of files that are
fetched: safetensors weights and tables, never pickles, never code. Knows nothing of named models or
digests. Only `zoo` calls it, and only `fetch_snapshot` touches the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from llmzip.errors import ModelUnavailable
from llmzip.lm.digest import model_files

_WANTED = ("*.safetensors", "*.json", "tokenizer.model")
_UNWANTED = ("*/*", "consolidated*")  # other frameworks' exports, second copies of the weights
_TRUE = {"1", "ON", "YES", "TRUE"}


def hub_is_offline() -> bool:
    """True where the environment forbids the hub. Read live, not as huggingface_hub found it."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in _TRUE for name in names)


def find_snapshot(repo: str, revision: str | None) -> Path | None:
    """The complete local snapshot of `repo`, or None. Its directory name is the commit. No network.

    Raises `ModelUnavailable` for an impossible name.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # Asking for one file: what else the model needs is checked here, by our own rules.
        found = snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=["config.json"]
        )
    except LocalEntryNotFoundError:
        return None
    except Exception as cause:
        raise _unavailable(repo, revision, cause) from cause
    try:
        model_files(Path(found))
    except ModelUnavailable:
        return None  # an interrupted fetch, or one made by a tool that needed fewer files
    return Path(found)


def fetch_snapshot(
    repo: str, revision: str | None, *, report: Callable[[str], None] | None = None
) -> Path:
    """Fetch `repo` into the hub's own cache and return the snapshot directory.

    `report` gets one line with size and target first; without it the hub's progress bars stay off.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quieted = report is None and not are_progress_bars_disabled()
    if quieted:
        disable_progress_bars()
    try:
        listing = HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in listing.siblings or ()}
        _check_listing(repo, set(sizes))
        if report is not None:
            num_bytes = sum(size for name, size in sizes.items() if _is_wanted(name))
            report(
                f"Fetching {repo} at {listing.sha} ({num_bytes / 1e6:,.0f} MB) "
                f"into {constants.HF_HUB_CACHE}"
            )
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(_WANTED),
                ignore_patterns=list(_UNWANTED),
            )
        )
    except ModelUnavailable:
        raise
    except Exception as cause:
        raise _unavailable(repo, revision, cause) from cause
    finally:
        if quieted:
            enable_progress_bars()


def _is_wanted(name: str) -> bool:
    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return matches(_WANTED) and not matches(_UNWANTED)


def _check_listing(repo: str, names: set[str]) -> None:
    """Refuse before the first byte is fetched what could not be used after the last."""
    if not any(name.endswith(".safetensors") and _is_wanted(name) for name in names):
        kind = "only .bin weights" if any(name.endswith(".bin") for name in names) else "no weights"
        raise ModelUnavailable(
            f"{repo} has {kind}; llmzip reads safetensors only",
            hint="choose a repository with safetensors files, or convert it and name the directory",
        )
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            reason = " (a fast tokenizer is needed)" if needed == "tokenizer.json" else ""
            raise ModelUnavailable(f"{repo} has no {needed}{reason}")


def _unavailable(repo: str, revision: str | None, cause: Exception) -> ModelUnavailable:
    lines = str(cause).strip().splitlines()
    reason = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    at = f" at {revision}" if revision else ""
    return ModelUnavailable(
        f"cannot get {repo}{at} from the hub: {reason}",
        hint="check the name, the network and, for gated models, `hf auth login`",
    )
