"""An examination of this installation: what a report of a bug should say, and what to do about it.

Owns the order in which things are looked at, and the round trips. Downloads nothing, writes no file
but what the cache remembers of a model.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from llmzip.codecs.context import Context
from llmzip.config import CompressSettings, ComputeSettings
from llmzip.errors import Interrupted, LlmzipError, SettingsError
from llmzip.inspect.environment import (
    Check,
    about_cache,
    about_environment,
    about_libraries,
    about_llmzip,
    about_python,
    about_torch,
    cpu_name,
    failure,
    has_nvidia_gpu,
    problem,
    total_memory_bytes,
    usable_cores,
)
from llmzip.lm import zoo
from llmzip.store.header import VERSION as FORMAT_VERSION

if TYPE_CHECKING:
    from llmzip.lm.loaded import ModelCache

SAMPLE = b"The lamp on the pier was lit, and one by one the boats came home."
_REPORT_HINT = "please report it, with all lines above"


def examine(settings: CompressSettings, cancel: threading.Event | None = None) -> Iterator[Check]:
    """One check after another, as soon as it is done; the round trips last. Raises SettingsError
    where a revision is given and there are none, Interrupted."""
    compute, name = settings.compute, settings.model or zoo.DEFAULT_MODEL
    yield about_llmzip(FORMAT_VERSION)
    yield about_python()
    yield from about_libraries()
    yield about_environment(os.environ)
    yield about_cache(zoo.cache_dir(), wanted_bytes=_wanted_bytes(name))
    try:
        import torch
    except Exception as error:  # whatever a broken installation raises
        text = f"cannot be imported: {type(error).__name__}: {error}"
        yield problem("torch", text, hint="pip install --force-reinstall torch")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else None
    if torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    elif build is None and torch.backends.mps.is_built():
        build = "MPS"
    has_device = torch.cuda.is_available() or torch.backends.mps.is_available()
    yield about_torch(
        torch.__version__, build=build, has_device=has_device, has_gpu=has_nvidia_gpu()
    )
    yield from _about_devices(compute)
    files, about_model = _about_model(name, settings.revision)
    yield about_model
    yield _about_memory(files)
    if files is None:
        hint = "run llmzip doctor again once the model is there"
        text = "not tried: there is no model to try it with"
        yield Check("round trip", text, status="warning", hint=hint)
        return
    from llmzip.codecs.table import CODECS
    from llmzip.lm.loaded import ModelCache

    models = ModelCache()
    for codec in sorted(CODECS):
        yield _round_trip(codec, replace(settings, offline=True), models, cancel)


def _wanted_bytes(model: str) -> int:
    """What the cache must have room for until the model is there; 0 if it is."""
    for status in zoo.list_models():
        if status.entry.name == model and status.state != "cached":
            entry = status.entry
            fetched = entry.wheel_bytes + entry.gguf_bytes if status.state == "absent" else 0
            return fetched + entry.disk_bytes
    return 0


def _about_devices(compute: ComputeSettings) -> Iterator[Check]:
    import torch

    from llmzip.lm.devices import borrowed_torch, fast_dtype, matmul_rate, pick_device

    cpu, cores = torch.device("cpu"), usable_cores()
    with borrowed_torch(compute.threads):
        threads = torch.get_num_threads()
        rates = {
            name: matmul_rate(dtype) / 1e9
            for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        }
        best = str(fast_dtype(cpu)).removeprefix("torch.")
    facts = {
        "name": cpu_name(),
        "cores": cores,
        "threads": threads,
        "optimises_in": best,
        **{f"{name}_gflops": round(rate, 1) for name, rate in rates.items()},
    }
    figures = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    short = {"bfloat16": "bf16", "float32": "fp32"}[best]
    hint = _threads_hint(threads, cores)
    yield Check(
        "cpu",
        f"{facts['name']}, {cores} cores, torch uses {threads}; GFLOP/s of matrix products: "
        f"{figures}; optimises in {short}",
        facts=facts,
        status="warning" if hint else "ok",
        hint=hint,
    )
    names = _accelerators()
    try:
        chosen = pick_device(compute.device).type
    except LlmzipError as error:
        yield failure("device", error)
        return
    facts = {"chosen": chosen, "accelerators": names, "torch_cuda": torch.version.cuda}
    text = f"{chosen}; {', '.join(names) or 'no CUDA or MPS device is there'}"
    yield Check("device", text, facts=facts)


def _threads_hint(threads: int, cores: int) -> str:
    """What to do about a number of threads that is far from that of the cores."""
    if threads > cores:
        return f"more threads than cores: --threads {cores} is faster"
    if 2 * threads <= cores and "OMP_NUM_THREADS" in os.environ:
        return "OMP_NUM_THREADS holds torch back: unset it, or give --threads"
    return ""


def _accelerators() -> list[str]:
    import torch

    names = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        names.append(f"cuda:{index} {about.name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def _about_model(name: str, revision: str | None) -> tuple[zoo.ModelFiles | None, Check]:
    """The model, if it is here and is what it should be."""
    started = time.monotonic()
    try:
        # Where only an installed distribution has it, this converts it.
        zoo.resolve(name, revision=revision, allow_fetch=False)
        files = zoo.verify(name, revision=revision)
    except SettingsError:
        raise
    except LlmzipError as error:
        return None, failure("model", error)
    at = f" at {files.revision}" if files.revision else ""
    known = "is the pinned one" if name in zoo.MODELS else "as remembered"
    facts = {
        "model": files.model_id,
        "revision": files.revision,
        "path": str(files.path),
        "digest": files.digest.hex(),
        "seconds": round(time.monotonic() - started, 2),
    }
    text = f"{files.model_id}{at} in {files.path}; its digest {files.digest.hex()} {known}"
    return files, Check("model", text, facts=facts)


def _about_memory(files: zoo.ModelFiles | None) -> Check:
    import torch

    from llmzip.lm.memory import free_bytes, needed_bytes

    total, free = total_memory_bytes(), free_bytes(torch.device("cpu"))
    needed = needed_bytes(files, optimises=True) if files else None
    facts = {"total_bytes": total, "free_bytes": free, "needed_bytes": needed}
    text = f"{_gigabytes(free)} of {_gigabytes(total)} free"
    if needed:
        text += f"; compressing takes about {_gigabytes(needed)}"
    if needed and free is not None and free < needed:
        hint = "close something, or take a smaller model"
        return Check("memory", text, status="warning", hint=hint, facts=facts)
    return Check("memory", text, facts=facts)


def _gigabytes(num_bytes: int | None) -> str:
    return "an unknown part" if num_bytes is None else f"{num_bytes / 1e9:.1f} GB"


def _round_trip(
    codec: str, settings: CompressSettings, models: ModelCache, cancel: threading.Event | None
) -> Check:
    """A sentence compressed, decompressed and compared. Raises Interrupted."""
    from llmzip.codecs.table import CODECS
    from llmzip.inspect.demo import round_trip
    from llmzip.store.container import read_container

    own = replace(settings, codec=codec, **CODECS[codec].trial)  # type: ignore[arg-type]
    try:
        trip = round_trip(SAMPLE, own, Context(cancel=cancel), models=models)
        needs_model = read_container(trip.packed).needs_model
    except Interrupted:
        raise
    except LlmzipError as error:
        return failure(codec, error)
    except Exception as error:
        return problem(codec, f"{type(error).__name__}: {error}", hint=_REPORT_HINT)
    text = (
        f"{len(SAMPLE)} → {len(trip.packed):,} bytes in {trip.compress_seconds:.1f} s, "
        f"back in {trip.decompress_seconds:.1f} s"
    )
    if trip.text != SAMPLE:
        return problem(codec, f"{text}: NOT the same text", hint=_REPORT_HINT, exit_code=6)
    facts = {
        "original_bytes": len(SAMPLE),
        "container_bytes": len(trip.packed),
        "compress_seconds": round(trip.compress_seconds, 2),
        "decompress_seconds": round(trip.decompress_seconds, 2),
    }
    text += ", identical"
    if needs_model:
        return Check(codec, text, facts=facts)
    hint = CODECS[codec].trial_hint
    text += ", but stored without the model"
    return Check(codec, text, status="warning", hint=hint, facts=facts)
