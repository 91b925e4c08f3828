"""`llmzip doctor`: what it finds, what it hides, and the code it ends with."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib import metadata

import pytest

from llmzip import config
from llmzip.cli.main import main
from llmzip.inspect import doctor as checkup
from llmzip.inspect import environment as surroundings
from llmzip.inspect.environment import Check, about_torch, exit_code_of, problem


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("LLMZIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLMZIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_network(monkeypatch):
    def fetch(*arguments, **more):
        raise AssertionError("doctor fetches nothing")

    monkeypatch.setattr("llmzip.lm.named._fetch", fetch)
    monkeypatch.setattr("llmzip.lm.hub.fetch_snapshot", fetch)


def as_json(capfd, *arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    code = main(["doctor", "--json", *arguments])
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    fields = json.loads(out)
    assert fields["schema"] == 1 and fields["exit_code"] == code
    return code, {each["topic"]: each for each in fields["findings"]}


def test_a_model_makes_both_round_trips(tiny_model, no_network, capfd):
    code, found = as_json(capfd, "--model", str(tiny_model("llama")), "--threads", "1")
    assert code == 0
    assert list(found) == [
        "llmzip", "python", "libraries", *(["extras"] if "extras" in found else []),
        "environment", "cache", "torch", "cpu", "device", "model", "memory", "arith", "cram",
    ]  # fmt: skip
    assert found["llmzip"]["facts"]["version"] == config.VERSION
    assert found["libraries"]["facts"]["torch"] == metadata.version("torch")
    assert found["cpu"]["facts"]["threads"] == 1
    assert found["cpu"]["facts"]["fp32_gflops"] > 0 and found["cpu"]["facts"]["bf16_gflops"] > 0
    assert len(found["model"]["facts"]["digest"]) == 32
    for codec in ("arith", "cram"):
        assert ", identical" in found[codec]["text"], found[codec]
        assert found[codec]["facts"]["original_bytes"] == len(checkup.SAMPLE)
        assert found[codec]["facts"]["compress_seconds"] > 0
    assert found["cram"]["status"] == "ok"
    assert found["arith"]["status"] == "warning"  # a model of random weights predicts nothing


def test_lines_for_people(tiny_model, capfd, monkeypatch):
    monkeypatch.setattr(checkup, "usable_cores", lambda: 1)
    assert main(["doctor", "--model", str(tiny_model("llama")), "--threads", "1"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith(f"ok       llmzip      {config.VERSION}, ")
    assert all(len(line) <= 100 or "/" in line for line in lines)
    assert any(line.startswith("ok       cram        65 → ") for line in lines)
    assert re.fullmatch(r"\d+ warnings?", lines[-1])


def test_a_missing_model_is_code_5_and_is_not_fetched(no_network, capfd, tmp_path):
    code, found = as_json(capfd)
    assert code == 5
    assert found["model"]["status"] == "problem"
    assert found["model"]["hint"].startswith("llmzip model pull smollm2-135m-text")
    assert found["round trip"]["status"] == "warning"
    assert "arith" not in found and "cram" not in found
    assert not (tmp_path / "cache").exists()


def test_a_damaged_model_is_code_5(tiny_model, tmp_path, no_network, capfd):
    code, found = as_json(capfd, "--model", str(tmp_path))
    assert code == 5 and "config.json is missing" in found["model"]["text"]


def test_a_revision_where_there_are_none_is_wrong_usage(tiny_model, capfd):
    arguments = ["--model", str(tiny_model("llama")), "--revision", "main"]
    assert main(["doctor", *arguments]) == 2
    assert "has no revisions" in capfd.readouterr().err


def test_a_torch_that_cannot_be_imported(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, found = as_json(capfd)
    assert code == 1
    assert found["torch"]["status"] == "problem" and "pip install" in found["torch"]["hint"]
    assert "model" not in found


def test_a_device_that_is_not_there(tiny_model, capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, found = as_json(capfd, "--model", str(tiny_model("llama")), "--device", "cuda")
    assert code == 2 and found["device"]["hint"] == "use --device cpu"


def test_another_text_is_code_6(tiny_model, capfd, monkeypatch):
    monkeypatch.setattr("llmzip.api.decompress.decompress_bytes", lambda *_, **__: b"another")
    code, found = as_json(capfd, "--model", str(tiny_model("llama")))
    assert code == 6 and "NOT the same text" in found["arith"]["text"]


def test_what_is_stored_without_the_model_is_a_warning(tiny_model, capfd, monkeypatch):
    monkeypatch.setattr(checkup, "SAMPLE", b"a")
    code, found = as_json(capfd, "--model", str(tiny_model("llama")))
    assert code == 0
    assert found["cram"]["status"] == "warning" and "without the model" in found["cram"]["text"]
    assert found["cram"]["hint"] != found["arith"]["hint"]


def test_an_error_of_a_round_trip_is_a_finding(tiny_model, capfd, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr("llmzip.api.compress.compress_bytes", fail)
    code, found = as_json(capfd, "--model", str(tiny_model("llama")))
    assert code == 1
    assert found["arith"]["text"] == "RuntimeError: no luck" and "report" in found["arith"]["hint"]


def test_libraries_are_held_against_what_llmzip_asks_for(monkeypatch):
    asked = ["numpy>=1.26", "torch>=2.6", "jinja2>=3.1; extra == 'lab'", "pytest; extra == 'dev'"]
    versions = {"numpy": "1.20", "jinja2": "3.1.6"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    monkeypatch.setattr(metadata, "version", version)
    found = {each.topic: each for each in surroundings.about_libraries()}
    assert found["libraries"].text == "numpy 1.20"
    assert found["numpy"].status == found["torch"].status == "problem"
    assert found["numpy"].text == "1.20; llmzip needs numpy>=1.26"
    assert found["torch"].text == "is missing; llmzip needs torch>=2.6"
    assert found["extras"].text == "jinja2 3.1.6"


def test_an_llmzip_that_is_not_installed(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    (found,) = surroundings.about_libraries()
    assert found.status == "warning" and "pip install" in found.hint


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HF_TOKEN", "hf_abc", "(set)"),
        ("LLMZIP_API_KEY", "abc", "(set)"),
        ("PIP_INDEX_URL", "https://me:secret@index/simple", "https://(set)@index/simple"),
        ("HTTPS_PROXY", "http://proxy:3128", "http://proxy:3128"),
        ("LLMZIP_MODEL", "a/b", "a/b"),
    ],
)
def test_secrets_are_hidden(name, value, shown):
    found = surroundings.about_environment({name: value, "HOME": "/home/me"})
    assert found.text == f"{name}={shown}"


@pytest.mark.parametrize(
    "build, has_device, has_gpu, status, words, hint",
    [
        (None, False, False, "ok", "built for CPUs", ""),
        (None, False, True, "warning", "not used", "--force-reinstall torch"),
        ("CUDA 12.8", True, True, "ok", "the GPU does the work", ""),
        ("CUDA 12.8", False, True, "warning", "finds no GPU", "nvidia-smi"),
        ("CUDA 12.8", False, False, "ok", "no slower", ""),
        ("ROCm 6.4", True, False, "ok", "built for ROCm 6.4: the GPU", ""),
        ("MPS", True, False, "ok", "built for MPS: the GPU does the work", ""),
        ("MPS", False, False, "ok", "finds no GPU of Apple", ""),
    ],
)
def test_which_torch_it_is(build, has_device, has_gpu, status, words, hint):
    check = about_torch("2.13.0", build=build, has_device=has_device, has_gpu=has_gpu)
    assert check.status == status and words in check.text and hint in check.hint
    assert check.text.startswith("2.13.0") and check.facts["build"] == build


def test_no_variables():
    assert surroundings.about_environment({"HOME": "/home/me"}).text == "nothing is set"


def test_the_cache(tmp_path):
    found = surroundings.about_cache(tmp_path / "not" / "there", wanted_bytes=0)
    assert found.status == "ok" and "not there yet" in found.text
    found = surroundings.about_cache(tmp_path, wanted_bytes=1 << 60)
    assert found.status == "warning" and "make room" in found.hint
    file = tmp_path / "file"
    file.write_bytes(b"")
    found = surroundings.about_cache(file, wanted_bytes=0)
    assert found.status == "warning" and "cannot be written to" in found.text


@pytest.mark.parametrize(
    ("threads", "cores", "is_set", "hint"),
    [
        (2, 2, False, ""),
        (4, 2, False, "--threads 2"),
        (1, 2, True, "OMP_NUM_THREADS"),
        (1, 2, False, ""),
    ],
)
def test_threads_that_do_not_fit_the_cores(threads, cores, is_set, hint, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if is_set:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = checkup._threads_hint(threads, cores)
    assert hint in found and bool(found) == bool(hint)


def test_the_first_problem_gives_the_code():
    fine = Check(topic="a", text="", status="warning", hint="x")
    assert exit_code_of([fine]) == 0
    problems = [problem("b", "", hint="x", exit_code=5), problem("c", "", hint="x", exit_code=6)]
    assert exit_code_of([fine, *problems]) == 5
