"""What llmzip runs in: versions, the machine's CPU, the environment, the cache.

Owns how each is found out, as far as a system tells, without importing torch, and which variables
are shown: never the value of one that may be a secret.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from llmzip.config import VERSION
from llmzip.errors import LlmzipError

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `facts`: the same for programs."""

    topic: str
    text: str
    _: KW_ONLY
    status: Status = "ok"
    hint: str = ""  # the next step, for warnings and problems
    exit_code: int = 0  # of a problem
    facts: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "topic": self.topic,
            "status": self.status,
            "text": self.text,
            **({"hint": self.hint} if self.hint else {}),
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def failure(topic: str, error: LlmzipError) -> Check:
    """A problem that an error of llmzip's own tells."""
    return problem(topic, str(error), hint=error.hint, exit_code=error.exit_code)


def problem(topic: str, text: str, *, hint: str, exit_code: int = 1) -> Check:
    """Something that llmzip cannot work with, or not as asked."""
    return Check(topic, text, status="problem", hint=hint, exit_code=exit_code)


def exit_code_of(checks: Iterable[Check]) -> int:
    """0 where nothing is worse than a warning, else the code of the first problem."""
    return next((each.exit_code for each in checks if each.status == "problem"), 0)


DISTRIBUTION = "llmzip"
_PREFIXES = ("LLMZIP_", "HF_", "TRANSFORMERS_", "PIP_")
_NAMES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
)  # fmt: skip
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|PASSWD|AUTH|COOKIE|CRED", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")


def about_llmzip(format_version: int) -> Check:
    """Its version and where it lies."""
    where = str(Path(__file__).resolve().parent)
    facts = {"version": VERSION, "format": format_version, "path": where}
    return Check("llmzip", f"{VERSION}, .crm format {format_version}, in {where}", facts=facts)


def about_python() -> Check:
    """The interpreter and the system."""
    facts = {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
    text = f"{facts['version']} ({facts['implementation']}), {facts['platform']}"
    return Check("python", text, facts=facts)


def about_libraries() -> Iterator[Check]:
    """Those that llmzip requires, against the versions it asks for, and those of its extras."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(each) for each in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        yield Check(
            "libraries",
            "llmzip runs from a folder and is not installed: no versions to compare with",
            status="warning",
            hint="pip install llmzip, or pip install -e . in its folder",
        )
        return
    needed = [each for each in declared if not _extra_of(str(each.marker))]
    found = {each.name: _version_of(each.name) for each in needed}
    present = {name: version for name, version in found.items() if version}
    yield Check("libraries", _listed(present), facts=present)
    for each in needed:
        version = found[each.name]
        if version is None or not each.specifier.contains(version, prereleases=True):
            yield problem(
                each.name,
                f"{version or 'is missing'}; llmzip needs {each.name}{each.specifier}",
                hint=f"pip install '{each.name}{each.specifier}'",
            )
    extras = [each for each in declared if _extra_of(str(each.marker)) in EXTRAS]
    versions = {each.name: _version_of(each.name) for each in extras if each.name != DISTRIBUTION}
    if versions:
        yield Check("extras", _listed(versions), facts=versions)


EXTRAS = ("lab", "plot", "page", "compare", "ray", "fsspec", "numcodecs", "zarr")


def _listed(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or '-'}" for name, version in versions.items())


def _extra_of(marker: str) -> str:
    found = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
    return found[1] if found else ""


def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def about_environment(environ: Mapping[str, str]) -> Check:
    """The variables that count, secrets hidden."""
    chosen = {
        name: shown_value(name, value)
        for name, value in sorted(environ.items())
        if name.startswith(_PREFIXES) or name.upper() in _NAMES
    }
    text = ", ".join(f"{name}={value}" for name, value in chosen.items()) or "nothing is set"
    return Check("environment", text, facts=chosen)


def shown_value(name: str, value: str) -> str:
    """What may be shown of a variable: no tokens, no passwords within addresses."""
    if _SECRET.search(name):
        return "(set)"
    return _USER_INFO.sub("(set)@", value)


def about_cache(cache: Path, *, wanted_bytes: int) -> Check:
    """Whether the cache can be written to, and has room. wanted_bytes: for what is to come."""
    there = next(place for place in (cache, *cache.parents) if place.exists())
    facts: dict[str, object] = {"path": str(cache), "exists": there == cache}
    hint = "set LLMZIP_CACHE to a folder that can be written to"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        text = f"{cache} cannot be written to"
        return Check("cache", text, status="warning", hint=hint, facts=facts)
    free = facts["free_bytes"] = shutil.disk_usage(there).free
    text = f"{cache}{'' if there == cache else ' (not there yet)'}, {free / 1e9:.1f} GB free"
    if free < wanted_bytes:
        text += f"; the model takes {wanted_bytes / 1e9:.1f} GB on the way"
        hint = "make room, or set LLMZIP_CACHE to a folder on another disk"
        return Check("cache", text, status="warning", hint=hint, facts=facts)
    return Check("cache", text, facts=facts)


def about_torch(version: str, *, build: str | None, has_device: bool, has_gpu: bool) -> Check:
    """Which torch it is, and what that means for speed. build: the GPU library that it was built
    for; has_device: it finds a GPU; has_gpu: the system has one of NVIDIA."""
    facts = {"version": version, "build": build, "finds_gpu": has_device, "has_nvidia_gpu": has_gpu}
    if has_device:
        return Check("torch", f"{version}, built for {build}: the GPU does the work", facts=facts)
    if build == "MPS":
        return Check("torch", f"{version}, built for MPS, finds no GPU of Apple", facts=facts)
    if build is None and has_gpu:
        text = f"{version}, built for CPUs alone: the GPU that is here is not used"
        hint = "pip install --force-reinstall torch, without the index of CPU builds, is for GPUs"
        return Check("torch", text, status="warning", hint=hint, facts=facts)
    if has_gpu:
        text = f"{version}, built for {build}, finds no GPU, though one is here"
        hint = "see whether nvidia-smi works, and whether its driver is new enough for this build"
        return Check("torch", text, status="warning", hint=hint, facts=facts)
    if build is None:
        text = f"{version}, built for CPUs, and there is no NVIDIA GPU: nothing to gain"
    else:
        text = f"{version}, built for {build}, without a GPU: no slower than the small CPU build"
    return Check("torch", text, facts=facts)


def has_nvidia_gpu() -> bool:
    """Whether the system has a GPU of NVIDIA, with its driver, whatever torch says."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/gpus").is_dir()


def cpu_name() -> str:
    """The CPU as its maker calls it; what the platform has where that is unknown."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
        else:
            lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
            name = next((line for line in lines if line.startswith("model name")), "")
            name = name.partition(":")[2]
    except (OSError, subprocess.SubprocessError):
        name = ""
    return name.strip() or platform.processor() or platform.machine() or "unknown CPU"


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory_bytes() -> int | None:
    """What is built in. None: the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
