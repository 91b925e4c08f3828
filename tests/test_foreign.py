"""The transformers backend, on tiny random models: extend against the model's own forward pass."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from llmzip.errors import ModelUnavailable
from llmzip.lm.foreign import ForeignLM, load_foreign
from llmzip.lm.native import LlamaShape, NativeLlama
from llmzip.lm.state import State, empty_state, stack_states
from llmzip.lm.weights import Weights
from tests.tiny_models import ARCHITECTURES, BOS, END_OF_TEXT, TEXT, make_tiny_model

CPU = torch.device("cpu")
IDS = list(b"the wheel turns: 0123 \xff\x00 and turns")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def directory(request, tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / request.param, request.param)


@pytest.fixture(scope="module")
def lm(directory):
    return load(directory)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "llama", "llama")


def load(directory: Path, *, attention: str = "sdpa", dtype=torch.float32) -> ForeignLM:
    config = json.loads((directory / "config.json").read_text())
    return load_foreign(directory, config, dtype=dtype, device=CPU, attention=attention)


def change_config(directory: Path, **settings) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def reference(directory: Path, ids: list[int]) -> torch.Tensor:
    """Logits [L, V] by the model's own front door, eager attention, no cache."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def embed(lm, ids: list[int]) -> torch.Tensor:
    return lm.embedding[torch.tensor(ids)][None]  # [1, L, D]


def logits(lm, hidden: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, lm.head, getattr(lm, "head_bias", None))


def read(lm, state: State, embeds: torch.Tensor, live=None) -> tuple[torch.Tensor, State]:
    if live is None:
        live = torch.ones(embeds.shape[:2], dtype=torch.bool)
    hidden, after = lm.extend(state, embeds, live)
    return logits(lm, hidden), after


def context(lm, ids: list[int]) -> State:
    with torch.no_grad():
        return read(lm, empty_state(1, CPU), embed(lm, ids))[1]


def assert_close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def snapshot(state: State):
    return [tensor.clone() for layer in state.memory for tensor in layer], state.live.clone()


@torch.no_grad()
def test_pieces_give_the_logits_of_the_whole(lm, directory):
    expected = reference(directory, IDS)
    whole, _ = read(lm, empty_state(1, CPU), embed(lm, IDS))
    assert_close(whole[0], expected)
    first, state = read(lm, empty_state(1, CPU), embed(lm, IDS[:10]))
    second, state = read(lm, state, embed(lm, IDS[10:17]))
    parts = [first, second]
    for token_id in IDS[17:]:
        part, state = read(lm, state, embed(lm, [token_id]))
        parts.append(part)
    assert_close(torch.cat(parts, dim=1)[0], expected)
    assert state.num_slots == len(IDS)


@torch.no_grad()
def test_rows_of_a_ragged_batch_equal_each_row_alone(lm):
    lengths, tail = (3, 11, 7), IDS[20:25]
    alone, states = [], []
    for length in lengths:
        state = context(lm, IDS[:length])
        states.append(state)
        alone.append(read(lm, state, embed(lm, tail))[0][0])
    stacked = stack_states(states)
    assert stacked.num_slots == max(lengths)
    batch = embed(lm, tail).expand(len(lengths), -1, -1)
    together, _ = read(lm, stacked, batch)
    assert_close(together, torch.stack(alone))
    steps, state = [], stacked
    for index in range(len(tail)):
        step, state = read(lm, state, batch[:, index : index + 1])
        steps.append(step)
    assert_close(torch.cat(steps, dim=1), torch.stack(alone))
    picked, _ = read(lm, state.first(max(lengths)).rows([2, 0]), batch[:2])
    assert_close(picked, torch.stack([alone[2], alone[0]]))


@torch.no_grad()
def test_new_slots_that_are_not_live_change_nothing(lm):
    expected, _ = read(lm, empty_state(1, CPU), embed(lm, IDS[:8]))
    noise = torch.full_like(embed(lm, [0, 0]), 3.0)
    padded = torch.cat([embed(lm, IDS[:5]), noise], dim=1).repeat(2, 1, 1)
    live = torch.tensor([[True] * 5 + [False] * 2, [True, True] + [False] * 5])
    _, state = read(lm, empty_state(2, CPU), padded, live)
    one_dead = torch.cat([embed(lm, IDS[5:6]), noise[:, :1]])
    got, state = read(lm, state, one_dead, torch.tensor([[True], [False]]))
    assert_close(got[0, 0], expected[0, 5])
    both = torch.cat([embed(lm, IDS[6:7]), embed(lm, IDS[2:3])])
    got, _ = read(lm, state, both)
    assert_close(got[:, 0], expected[0, [6, 2]])


@torch.no_grad()
def test_a_state_stays_valid_after_it_was_extended(lm):
    state = context(lm, IDS[:9])
    before, live = snapshot(state)
    expected, _ = read(lm, state, embed(lm, IDS[9:10]))
    for _ in range(2):
        _, later = read(lm, state, embed(lm, [7]))
        read(lm, later, embed(lm, [8]))
        read(lm, state, embed(lm, [9, 10, 11]))
    again, _ = read(lm, state, embed(lm, IDS[9:10]))
    assert torch.equal(again, expected)
    after, live_after = snapshot(state)
    assert torch.equal(live, live_after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.no_grad()
def test_first_slots_extend_like_a_fresh_state(lm):
    cut = context(lm, IDS[:15]).first(6)
    assert cut.num_slots == 6
    got, _ = read(lm, cut, embed(lm, IDS[6:10]))
    fresh, _ = read(lm, context(lm, IDS[:6]), embed(lm, IDS[6:10]))
    assert_close(got, fresh)


def test_only_the_embeds_get_a_gradient(lm):
    weights = list(lm._base.parameters()) + [lm.embedding, lm.head]
    before = digest(weights)
    state = context(lm, IDS[:6])
    mem = torch.randn(1, 2, lm.embedding.shape[1], generator=torch.manual_seed(0))
    mem.requires_grad_()
    optimizer = torch.optim.Adam([mem], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        got, _ = read(lm, state, torch.cat([mem, embed(lm, IDS[6:9])], dim=1))
        F.cross_entropy(got[0, 1:], torch.tensor(IDS[6:10])).backward()
        assert mem.grad is not None and bool((mem.grad.abs() > 0).any(dim=2).all())
        optimizer.step()
    assert not any(weight.requires_grad or weight.grad is not None for weight in weights)
    assert digest(weights) == before
    assert not any(module.training for module in lm._base.modules())


def test_the_gradient_is_the_slope(lm):
    """Against central differences, through a state that itself depends on the vector."""
    mem = embed(lm, [65]).clone().requires_grad_()

    def loss(vector):
        _, state = read(lm, empty_state(1, CPU), vector)
        got, _ = read(lm, state, embed(lm, IDS[:3]))
        return F.cross_entropy(got[0], torch.tensor(IDS[1:4]))

    (grad,) = torch.autograd.grad(loss(mem), mem)
    along = grad / grad.norm()
    with torch.no_grad():
        slope = (loss(mem + 1e-3 * along) - loss(mem - 1e-3 * along)) / 2e-3
    torch.testing.assert_close(slope, grad.norm(), rtol=0.02, atol=1e-3)


@torch.no_grad()
def test_both_attentions_agree(lm, directory):
    other = load(directory, attention="eager")
    expected, _ = read(lm, context(lm, IDS[:12]), embed(lm, IDS[12:]))
    got, _ = read(other, context(other, IDS[:12]), embed(other, IDS[12:]))
    assert_close(got, expected)


def test_shapes_and_dtypes(lm, directory):
    config = json.loads((directory / "config.json").read_text())
    num_tokens, hidden_size = config["vocab_size"], config["hidden_size"]
    width = config.get("word_embed_proj_dim", hidden_size)
    assert lm.embedding.shape == lm.head.shape == (num_tokens, width)
    assert (width != hidden_size) == (config["model_type"] == "opt")
    half = load(directory, dtype=torch.bfloat16)
    hidden, state = half.extend(empty_state(1, CPU), embed(half, [1, 2]), torch.ones(1, 2) > 0)
    assert half.embedding.dtype == half.head.dtype == hidden.dtype == torch.bfloat16
    assert hidden.shape == (1, 2, width)
    assert all(t.shape[2] == 2 and t.ndim == 4 for layer in state.memory for t in layer)


@torch.no_grad()
def test_native_llama_agrees(llama):
    config = json.loads((llama / "config.json").read_text())
    shape = LlamaShape.from_config(config)
    assert shape is not None
    weights = load_file(llama / "model.safetensors")
    native = NativeLlama(shape, Weights(weights, dtype=torch.float32, device=CPU), attention="sdpa")
    foreign = load(llama)
    assert torch.equal(native.embedding, foreign.embedding)
    assert torch.equal(native.head, foreign.head)
    expected, _ = read(native, context(native, IDS[:9]), embed(native, IDS[9:]))
    got, _ = read(foreign, context(foreign, IDS[:9]), embed(foreign, IDS[9:]))
    assert_close(got, expected)
    crossed, _ = read(foreign, context(native, IDS[:9]), embed(foreign, IDS[9:]))
    assert_close(crossed, expected)  # even the states are alike


def test_tied_weights_are_no_missing_tensors(tmp_path):
    directory = make_tiny_model(tmp_path / "tied", "llama")
    weights = load_file(directory / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match="1 tensors are missing, lm_head.weight"):
        load(directory)
    change_config(directory, tie_word_embeddings=True)
    lm = load(directory)
    assert torch.equal(lm.head, lm.embedding)


def test_damaged_directories_are_unavailable(tmp_path):
    directory = make_tiny_model(tmp_path / "model", "gpt_neox")
    weights = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(weights[:-1000])
    with pytest.raises(ModelUnavailable, match="cannot be loaded") as caught:
        load(directory)
    assert caught.value.__cause__ is not None and "\n" not in str(caught.value)
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load(directory)
    (directory / "model.safetensors").write_bytes(weights)
    change_config(directory, hidden_size=32)
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load(directory)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "nosuch"}, "cannot be loaded"),
        ({"model_type": "t5"}, "cannot be loaded"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
        ({"model_type": "nosuch", "auto_map": {"AutoModelForCausalLM": "x.Y"}}, "cannot be loaded"),
    ],
)
def test_models_that_transformers_should_not_run(tmp_path, settings, message):
    directory = make_tiny_model(tmp_path / "model", "llama")
    (directory / "x.py").write_text("raise SystemExit('the code of a model directory was run')")
    change_config(directory, **settings)
    with pytest.raises(ModelUnavailable, match=message):
        load(directory)


def test_adapters_are_refused(llama, tmp_path):
    directory = make_tiny_model(tmp_path / "model", "llama")
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    with pytest.raises(ModelUnavailable, match="adapter"):
        load(directory)


def save_other(directory: Path, model_class: str, config_class: str, **settings) -> Path:
    """A tiny model of an architecture outside the tested ones, as transformers initialises it."""
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = getattr(transformers, config_class)(**sizes, **settings)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    save_file(
        {name: t.clone() for name, t in model.state_dict().items() if "lm_head" not in name},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    config.architectures = [model_class]
    config.save_pretrained(directory)
    return directory


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "tie_word_embeddings": True,
}


def test_an_untested_architecture_that_fits_is_taken(tmp_path):
    directory = save_other(tmp_path, "Qwen2ForCausalLM", "Qwen2Config", **SMALL)
    for dtype in (torch.float32, torch.bfloat16):
        load(directory, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Gemma3", {**SMALL, "head_dim": 8}),  # embeddings are scaled outside the embedding weight
        ("Granite", {**SMALL, "logits_scaling": 8.0}),  # logits are divided
        ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),  # positions counted from a mask
    ],
)
def test_architectures_that_do_not_fit_are_refused(tmp_path, name, settings, dtype):
    config_class = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    directory = save_other(tmp_path, f"{name}ForCausalLM", config_class, **settings)
    with pytest.raises(ModelUnavailable, match="architecture .* is not supported"):
        load(directory, dtype=dtype)


def test_a_head_bias_is_kept(tmp_path):
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "tie_word_embeddings": False}
    directory = save_other(tmp_path, "GPTJForCausalLM", "GPTJConfig", **sizes)
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(64, 32)
    weights["lm_head.bias"] = torch.arange(64.0) / 8
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    lm = load(directory)  # passes the self-check, which would miss a lost bias
    assert lm.head_bias is not None and torch.equal(lm.head_bias, torch.arange(64.0) / 8)


def test_loading_is_silent_and_leaves_the_settings_alone(directory, capfd):
    from transformers.utils import logging as theirs

    records: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = records.append
    logger = theirs.get_logger("transformers")
    logger.addHandler(listener)
    theirs.set_verbosity_info()
    theirs.enable_progress_bar()
    logging.Logger.warning_once.cache_clear()  # advice that an earlier test may have used up
    try:
        lm = load(directory)
        read(lm, context(lm, IDS[:4]), embed(lm, IDS[4:5]))
        assert theirs.get_verbosity() == logging.INFO and theirs.is_progress_bar_enabled()
        assert not records
        reference(directory, IDS)
        assert records  # so the listener hears what there is to hear
    finally:
        logger.removeHandler(listener)
        theirs.set_verbosity_warning()
    assert capfd.readouterr().out == ""


def test_loading_draws_no_bars(llama, capfd):
    from transformers.utils import logging as theirs

    theirs.enable_progress_bar()
    load(llama)
    assert capfd.readouterr() == ("", "")
    reference(llama, IDS)
    assert "Loading weights" in capfd.readouterr().err


@pytest.mark.parametrize("bos", [False, True])
def test_tiny_tokenizers_spell_every_byte(tmp_path, bos):
    make_tiny_model(tmp_path, "llama", bos=bos)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 260 + bos
    text = "the then\tÄ\x00 \r\n  the 🙂"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode())
    prefix = [tokenizer.token_to_id(BOS)] if bos else []
    assert tokenizer.encode(text).ids == prefix + ids
    assert tokenizer.token_to_id(END_OF_TEXT) == 259


def test_tiny_models_depend_on_the_seed_alone(tmp_path):
    first, again, other = (
        make_tiny_model(tmp_path / name, "opt", seed=seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    name = "model.safetensors"
    assert (first / name).read_bytes() != (other / name).read_bytes()


def test_tiny_models_can_be_steered(lm, directory):
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(TEXT).ids[20:28])
    mem = 4 * torch.randn(1, 2, lm.embedding.shape[1], generator=torch.manual_seed(0))
    mem.requires_grad_()
    optimizer = torch.optim.Adam([mem], lr=1.0)
    for _ in range(300):
        embeds = torch.cat([mem, lm.embedding[ids[:-1]][None]], dim=1)
        rows = read(lm, empty_state(1, CPU), embeds)[0][0, 1:]
        if torch.equal(rows.argmax(dim=1), ids):
            return
        optimizer.zero_grad()
        F.cross_entropy(rows, ids).backward()
        optimizer.step()
    pytest.fail("two vectors could not force 8 tokens")


def digest(tensors) -> str:
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
