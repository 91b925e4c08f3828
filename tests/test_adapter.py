"""Models with an adapter: what it changes, what they are, and the one that ships."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmzip.errors import ModelUnavailable
from llmzip.lm import named, zoo
from llmzip.lm.adapter import Adapter
from llmzip.lm.digest import adapted_identity, model_identity
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.zoo import MODELS, PUBLISHED_MODEL, ModelFiles

RANK = 3
PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def shape_of(weights: dict[str, torch.Tensor], layer: int, part: str) -> tuple[int, int]:
    own = [weights[f"model.layers.{layer}.{matrix}.weight"] for matrix in PARTS[part]]
    return sum(len(matrix) for matrix in own), own[0].shape[1]


@pytest.fixture(scope="module")
def base(tiny_model) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights, random = load_file(base / "model.safetensors"), torch.Generator().manual_seed(5)
    factors = {}
    for layer in range(2):
        for part in PARTS:
            num_out, num_in = shape_of(weights, layer, part)
            for which, shape in (("a", (RANK, num_in)), ("b", (num_out, RANK))):
                drawn = 0.1 * torch.randn(shape, generator=random)
                factors[f"{layer}.{part}.{which}"] = drawn.bfloat16()
    path = tmp_path_factory.mktemp("adapter") / "toy.safetensors"
    save_file(factors, path)
    return path


def files_of(path: Path, adapter: Path | None = None) -> ModelFiles:
    return ModelFiles(model_id="toy", revision="", path=path, digest=bytes(16), adapter=adapter)


def load(files: ModelFiles, dtype: torch.dtype = torch.float32, **how: bool) -> FrozenLM:
    return load_model(files, device=torch.device("cpu"), dtype=dtype, attention="eager", **how)


def logits_of(lm: FrozenLM) -> torch.Tensor:
    embeds = lm.embed(torch.arange(12)[None])
    hidden, _ = lm.extend(lm.empty(1), embeds, torch.ones(1, 12, dtype=torch.bool))
    return lm.logits(hidden[0])


def merged(base: Path, adapter: Path, target: Path) -> Path:
    """The same model with its weights changed on disk, by one product for each matrix."""
    shutil.copytree(base, target)
    weights, factors = load_file(base / "model.safetensors"), load_file(adapter)
    for layer in range(2):
        for part, matrices in PARTS.items():
            names = [f"model.layers.{layer}.{matrix}.weight" for matrix in matrices]
            change = factors[f"{layer}.{part}.b"].double() @ factors[f"{layer}.{part}.a"].double()
            sizes = [len(weights[name]) for name in names]
            for name, rows in zip(names, change.split(sizes), strict=True):
                weights[name] = (weights[name].double() + rows).float()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("decode_only", [False, True])
def test_it_is_the_model_with_its_weights_changed(base, adapter, tmp_path, decode_only):
    own = load(files_of(base, adapter), decode_only=decode_only)
    same = load(files_of(merged(base, adapter, tmp_path / "merged")))
    with torch.no_grad():
        found, expected, plain = (logits_of(lm) for lm in (own, same, load(files_of(base))))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_of_a_decoder_share_no_memory(base, adapter, dtype):
    with torch.no_grad():
        found, expected = (
            logits_of(load(files_of(base, adapter), dtype, decode_only=only))
            for only in (True, False)
        )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_gradients_in_bf16_see_the_change(base, adapter):
    grads = []
    weights = torch.randn(12, 64, generator=torch.Generator().manual_seed(4))
    for dtype in (torch.float32, torch.bfloat16):
        lm = load(files_of(base, adapter), dtype)
        embeds = lm.embed(torch.arange(12)[None]).requires_grad_()
        hidden, _ = lm.extend(lm.empty(1), embeds, torch.ones(1, 12, dtype=torch.bool))
        (hidden[0].float() * weights).sum().backward()
        grads.append(embeds.grad.float().flatten())
    assert torch.cosine_similarity(*grads, dim=0) > 0.98


def test_a_changed_matrix_has_the_same_bits_whatever_the_threads(adapter):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            weight = torch.linspace(-1, 1, 128 * 64).view(128, 64)
            Adapter(adapter).change(0, "qkv", (128, 64)).add_to(weight)
            found.append(weight)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_a_file_that_is_no_adapter_of_the_model(base, adapter, tmp_path):
    factors = load_file(adapter)
    other = tmp_path / "other.safetensors"
    for name in ("1.down.a", "0.qkv.b"):
        save_file({key: each for key, each in factors.items() if key != name}, other)
        with pytest.raises(ModelUnavailable, match="no change of (down in layer 1|qkv in layer 0)"):
            load(files_of(base, other))
    for wrong in (factors["0.qkv.b"][:-1], factors["0.qkv.b"][:, :1]):
        save_file(factors | {"0.qkv.b": wrong.contiguous()}, other)
        with pytest.raises(ModelUnavailable, match="no change of qkv in layer 0"):
            load(files_of(base, other))
    for content in (b"", adapter.read_bytes()[:-100]):
        other.write_bytes(content)
        with pytest.raises(ModelUnavailable, match="other.safetensors"):
            load(files_of(base, other))
    with pytest.raises(ModelUnavailable, match="other.safetensors") as caught:
        load(files_of(base, tmp_path / "no" / "other.safetensors"))
    assert caught.value.hint == "install llmzip again: adapters are part of it"


def test_only_llamas_have_adapters(tiny_model, adapter):
    with pytest.raises(ModelUnavailable, match="only a model of the Llama family"):
        load(files_of(tiny_model("opt"), adapter))


def test_it_is_another_model(base, adapter, tmp_path):
    plain = model_identity(base)
    own = adapted_identity(plain, adapter)
    assert len(own) == 16 and own != plain
    assert own != adapted_identity(bytes(16), adapter)
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(adapter.read_bytes()[:-1] + b"\0")
    assert adapted_identity(plain, changed) != own
    with pytest.raises(ModelUnavailable, match="gone.safetensors"):
        adapted_identity(plain, tmp_path / "gone.safetensors")


def test_two_named_models_share_one_directory(base, adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMZIP_CACHE", str(tmp_path))
    plain = model_identity(base)
    published = replace(
        MODELS[PUBLISHED_MODEL], name="toy", weights_name="toy", weights_digest=plain, digest=plain
    )
    own = adapted_identity(plain, adapter)
    for_text = replace(published, name="toy-text", digest=own, adapter=adapter)
    table = {entry.name: entry for entry in (for_text, published)}
    for module in (zoo, named):
        monkeypatch.setattr(module, "MODELS", table)
    shutil.copytree(base, named.model_directory(published, cache=tmp_path))
    found = {name: zoo.resolve(name) for name in table}
    assert found["toy"].path == found["toy-text"].path
    assert (found["toy"].digest, found["toy"].adapter) == (plain, None)
    assert (found["toy-text"].digest, found["toy-text"].adapter) == (own, adapter)
    assert zoo.verify("toy-text") == found["toy-text"] == zoo.pull("toy-text")
    assert [status.state for status in zoo.list_models()] == ["cached", "cached"]
    # A directory that happens to be called like a named model is what its files say.
    local = tmp_path / "local" / "toy-text"
    shutil.copytree(base, local)
    assert zoo.resolve(str(local)).digest == plain
    # To decode a file of the named model, it will do.
    assert zoo.as_named(zoo.resolve(str(local)), "toy-text").digest == own
    for name in ("toy", "elsewhere"):
        assert zoo.as_named(zoo.resolve(str(local)), name).digest == plain
    other = replace(zoo.resolve(str(local)), digest=bytes(16))
    assert zoo.as_named(other, "toy-text") is other
    monkeypatch.setitem(table, "toy-text", replace(for_text, digest=bytes(16)))
    with pytest.raises(ModelUnavailable, match="not the adapter that this version ships"):
        zoo.resolve("toy-text")


def test_the_adapter_that_ships_is_the_pinned_one():
    for entry in MODELS.values():
        own = entry.weights_digest
        if entry.adapter is not None:
            own = adapted_identity(own, entry.adapter)
            factors = load_file(entry.adapter)
            assert {tensor.dtype for tensor in factors.values()} == {torch.bfloat16}
            assert entry.adapter.stat().st_size < 3_000_000
        assert own == entry.digest
