"""Where models come from: a named model, a local directory, a repository of the hub.

Owns the cache directory and the order in which places are searched. Never loads a model: returns a
directory and an identity, from which `lm.model` loads it. Only what the user names is searched for,
never what a `.crm` file names.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from llmzip.errors import ModelMismatch, ModelUnavailable, SettingsError
from llmzip.lm.digest import (
    ADAPTER_HINT,
    adapted_identity,
    cached_identity,
    model_files,
    model_identity,
    recall_identity,
    remember_identity,
    unusable,
)
from llmzip.lm.named import (
    DEFAULT_MODEL,
    MODELS,
    PUBLISHED_MODEL,
    NamedModel,
    OnBytes,
    Report,
    absent_error,
    install,
    installed_gguf,
    model_directory,
)

__all__ = [
    "DEFAULT_MODEL", "MODELS", "PUBLISHED_MODEL", "ModelFiles", "ModelStatus", "NamedModel",
    "as_named", "cache_dir", "list_models", "pull", "resolve", "verify",
]  # fmt: skip

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model on this machine: `path` holds config.json, *.safetensors and tokenizer.json."""

    model_id: str  # a name, "ORG/NAME", or the name of a local directory
    revision: str  # commit of a hub model, else ""
    path: Path
    digest: bytes  # [16]
    adapter: Path | None = None  # a file that changes some of the weights


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """Whether a named model is converted ("cached"), installed as a GGUF file, or absent."""

    entry: NamedModel
    state: Literal["cached", "installed", "absent"]
    path: Path | None  # of the converted model or of the GGUF file


class _Place(NamedTuple):
    """Where a model's files are, without their digest, which takes time to compute."""

    model_id: str
    revision: str
    path: Path
    entry: NamedModel | None = None

    def with_digest(self, digest: bytes) -> ModelFiles:
        """digest: of the files. Raises ModelUnavailable for a named model's that is not as it
        should be."""
        entry, adapter = self.entry, None
        if entry is not None:
            if digest != entry.weights_digest:
                raise _damaged(self.model_id, self.path, f"its digest is {digest.hex()}")
            if (adapter := entry.adapter) is not None:
                digest = adapted_identity(digest, adapter)
                if digest != entry.digest:
                    reason = "it is not the adapter that this version ships"
                    raise unusable(adapter, reason, hint=ADAPTER_HINT)
        return ModelFiles(
            model_id=self.model_id, revision=self.revision, path=self.path, digest=digest,
            adapter=adapter,
        )  # fmt: skip


def cache_dir() -> Path:
    """$LLMZIP_CACHE, else $XDG_CACHE_HOME/llmzip, else the platform's directory for caches."""
    own = os.environ.get("LLMZIP_CACHE")
    if own:
        return Path(os.path.abspath(os.path.expanduser(own)))
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        return Path(xdg) / "llmzip"
    home = Path(os.path.expanduser("~"))
    places = {
        "darwin": home / "Library" / "Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
    }
    return places.get(sys.platform, home / ".cache") / "llmzip"


def resolve(
    model: str = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    allow_fetch: bool = True,
    offline: bool = False,
    follow_paths: bool = True,
    report: Report | None = None,
    on_bytes: OnBytes | None = None,
) -> ModelFiles:
    """Find `model` on this machine; fetch it where that is needed and allowed.

    `model`: a known name, an existing directory, or "ORG/NAME" of the hub, tried in that order.
    `revision`: branch, tag or commit, for the hub only. `offline` and `allow_fetch=False` both
    forbid the network. `follow_paths=False` is for a name that no user gave: no directory of that
    name is opened. `report` gets a line with size and target before anything is fetched, `on_bytes`
    the progress of fetching a named model. Raises `ModelUnavailable`, or `SettingsError` for a
    revision of a model that has none.
    """
    place = _find(
        model,
        revision,
        may_fetch=allow_fetch and not offline,
        follow_paths=follow_paths,
        report=report,
        on_bytes=on_bytes,
    )
    return place.with_digest(cached_identity(place.path, cache=cache_dir()))


def as_named(files: ModelFiles, name: str) -> ModelFiles:
    """The named model whose converted file lies in a directory that the user named, with its
    adapter; the same files where it is another model's."""
    entry = MODELS.get(name)
    if entry is None or entry.adapter is None or files.digest != entry.weights_digest:
        return files
    return _Place(name, "", files.path, entry).with_digest(files.digest)


def pull(
    model: str = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    report: Report | None = None,
    on_bytes: OnBytes | None = None,
) -> ModelFiles:
    """Fetch `model` or update it. A damaged copy of a named model is replaced."""
    if model in MODELS:
        try:
            return verify(model, revision=revision)
        except (ModelMismatch, ModelUnavailable):
            install(
                MODELS[model], cache=cache_dir(), may_fetch=True, report=report, on_bytes=on_bytes
            )
    place = _find(model, revision, may_fetch=True, refresh=True, report=report)
    return place.with_digest(cached_identity(place.path, cache=cache_dir()))


def verify(model: str = DEFAULT_MODEL, *, revision: str | None = None) -> ModelFiles:
    """Hash the model on this machine again, without trusting a remembered digest. Never fetches.

    Raises `ModelMismatch` where the digest is not the pinned one (named models), or not the one
    remembered for files that look unchanged (all others); `ModelUnavailable` where it is not here.
    """
    if model in MODELS and not model_directory(MODELS[model], cache=cache_dir()).is_dir():
        raise absent_error(MODELS[model])
    place = _find(model, revision, may_fetch=False)
    got = model_identity(place.path)
    pinned = place.entry.weights_digest if place.entry else None
    expected = pinned or recall_identity(place.path, cache=cache_dir()) or got
    if got != expected:
        raise ModelMismatch(
            f"{model} in {place.path} is damaged: digest {got.hex()}, expected {expected.hex()}",
            expected=expected.hex(),
            got=got.hex(),
            hint=f"llmzip model pull {model}",
        )
    remember_identity(place.path, got, cache=cache_dir())
    return place.with_digest(got)


def list_models() -> tuple[ModelStatus, ...]:
    """Every named model and where it is. Only looks at the names of files; reads no weights."""
    return tuple(_status(entry) for entry in MODELS.values())


def _status(entry: NamedModel) -> ModelStatus:
    home = model_directory(entry, cache=cache_dir())
    try:
        model_files(home)
    except ModelUnavailable:
        path = installed_gguf(entry)
        return ModelStatus(entry=entry, state="installed" if path else "absent", path=path)
    return ModelStatus(entry=entry, state="cached", path=home)


def _find(
    model: str,
    revision: str | None,
    *,
    may_fetch: bool,
    refresh: bool = False,
    follow_paths: bool = True,
    report: Report | None = None,
    on_bytes: OnBytes | None = None,
) -> _Place:
    directory = Path(os.path.expanduser(model))
    is_local = model not in MODELS and follow_paths and bool(model) and directory.is_dir()
    if revision and (is_local or model in MODELS):
        raise SettingsError(
            f"{model} has no revisions, so {revision!r} cannot be chosen",
            hint="leave --revision out; it is for models of the hub (ORG/NAME)",
        )
    if model in MODELS:
        home = model_directory(MODELS[model], cache=cache_dir())
        if not home.is_dir():
            install(
                MODELS[model], cache=cache_dir(), may_fetch=may_fetch, report=report,
                on_bytes=on_bytes,
            )  # fmt: skip
        try:
            model_files(home)
        except ModelUnavailable as cause:
            raise _damaged(model, home, str(cause)) from cause
        return _Place(model, "", home, MODELS[model])
    if is_local:
        model_files(directory)
        return _Place(directory.resolve().name, "", directory.resolve())
    if _HUB_ID.fullmatch(model):
        return _find_on_hub(model, revision, may_fetch=may_fetch, refresh=refresh, report=report)
    raise ModelUnavailable(
        f"no model {model!r}: not a known name, not a directory, not ORG/NAME",
        hint=f"known names: {', '.join(MODELS)}",
    )


def _find_on_hub(
    model: str, revision: str | None, *, may_fetch: bool, refresh: bool, report: Report | None
) -> _Place:
    from llmzip.lm import hub

    may_fetch = may_fetch and not hub.hub_is_offline()
    path = None if refresh and may_fetch else hub.find_snapshot(model, revision)
    if path is None and not may_fetch:
        at = f" --revision {revision}" if revision else ""
        raise ModelUnavailable(
            f"{model} is not on this machine (or not all of it), and may not be fetched now",
            hint=f"llmzip model pull {model}{at}",
        )
    if path is None:
        path = hub.fetch_snapshot(model, revision, report=report)
    model_files(path)
    return _Place(model, path.name, path)


def _damaged(model: str, path: Path, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{model} in {path} is damaged: {reason}", hint=f"llmzip model pull {model}"
    )
