"""Tiny random models in Hugging Face directories, for tests that must not download anything.

Owns their shapes, their initialisation and their byte vocabulary. The weights are drawn so that
one input vector has a strong hold on what follows it: mem vectors can be optimised on these models
in seconds. Deterministic for a seed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

ARCHITECTURES = ("llama", "gpt_neox", "opt", "olmo", "mamba")
END_OF_TEXT, BOS = "<|endoftext|>", "<s>"
MERGES = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"))
HIDDEN, NUM_LAYERS, NUM_HEADS, NUM_POSITIONS = 64, 2, 4, 512
OPT_EMBEDDING = 48  # narrower than HIDDEN, so that project_in and project_out exist


def make_tiny_model(directory: Path, arch: str, *, bos: bool = False, seed: int = 0) -> Path:
    """Write config.json, model.safetensors and tokenizer.json of a random `arch` model; return `directory`.

    260 tokens: 256 bytes, three merges, the end of text; `bos` adds a 261st that every text begins with.
    """
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(bos)
    tokenizer.save(str(directory / "tokenizer.json"))
    end_id = tokenizer.token_to_id(END_OF_TEXT)
    config_class, settings = _shape(arch)
    config = config_class(
        vocab_size=tokenizer.get_vocab_size(),
        bos_token_id=tokenizer.token_to_id(BOS) if bos else end_id,
        eos_token_id=end_id,
        pad_token_id=end_id,
        dtype="float32",
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        _initialise(model, arch, tokenizer.encode(TEXT, add_special_tokens=False).ids)
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    weights = {name: t for name, t in model.state_dict().items() if name not in tied}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    return directory


def _tokenizer(bos: bool) -> Tokenizer:
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    if bos:
        tokenizer.add_special_tokens([AddedToken(BOS, special=True)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A",
            pair=f"{BOS} $A $B",
            special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
        )
    return tokenizer


def _shape(arch: str) -> tuple[Any, dict[str, Any]]:
    import transformers

    common = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "max_position_embeddings": NUM_POSITIONS,
        "tie_word_embeddings": False,
    }
    if arch == "llama":
        grouped = {"num_key_value_heads": 2, "intermediate_size": 2 * HIDDEN}
        return transformers.LlamaConfig, {**common, **grouped}
    if arch == "gpt_neox":
        return transformers.GPTNeoXConfig, {**common, "intermediate_size": 2 * HIDDEN}
    if arch == "olmo":
        return transformers.OlmoConfig, {**common, "intermediate_size": 2 * HIDDEN}
    if arch == "opt":
        narrow = {"word_embed_proj_dim": OPT_EMBEDDING, "ffn_dim": 2 * HIDDEN}
        return transformers.OPTConfig, {**common, **narrow, "tie_word_embeddings": False}
    if arch == "mamba":
        sizes = {"hidden_size": HIDDEN, "num_hidden_layers": NUM_LAYERS, "state_size": 8}
        return transformers.MambaConfig, {**sizes, "tie_word_embeddings": False}
    raise ValueError(f"no tiny {arch!r} model; there are {', '.join(ARCHITECTURES)}")


COMMON_BYTES = b" etaoinshrdlucmfwypvbgk.,\n"
GAINS = {"attention": dict(mean=0.5, token=0.5, qk=1.5, vo=1.5, up=1.0, down=2.0, head=0.25, rare=0.75),
         "mamba": dict(mean=0.5, token=0.5, up=1.5, x=1.0, dt=0.5, decay=0.1, down=1.5, head=0.25, rare=0.75)}


@torch.no_grad()
def _initialise(model: Any, arch: str, ids: list[int]) -> None:
    g = GAINS["mamba" if arch == "mamba" else "attention"]
    head = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    for name, weight in sorted(model.named_parameters()):
        fan_in = math.sqrt(weight.shape[-1])
        if weight is embedding or weight is head:
            continue
        if "embed_positions" in name:
            weight.normal_(std=g["token"])
        elif "project_" in name:
            weight.normal_(std=1 / fan_in)
        elif name.endswith("conv1d.weight"):
            weight.normal_(std=0.5)
        elif name.endswith("A_log"):
            weight.uniform_(math.log(g["decay"] / 10), math.log(g["decay"]))
        elif name.endswith("dt_proj.bias"):
            weight.fill_(g["dt"])
        elif name.endswith("bias"):
            weight.normal_(std=0.1)
        elif weight.ndim == 2:
            if any(n in name for n in ("q_proj", "k_proj")):
                gain = g["qk"]
            elif "query_key_value" in name:
                gain = math.sqrt(g["qk"] * g["vo"])
            elif any(n in name for n in ("v_proj", "o_proj", "out_proj", "attention.dense")) and arch != "mamba":
                gain = g["vo"]
            elif any(n in name for n in ("down_proj", "fc2", "4h_to_h", "out_proj")):
                gain = g["down"]
            elif "x_proj" in name or "dt_proj" in name:
                gain = g["x"]
            else:
                gain = g["up"]
            weight.normal_(std=gain / fan_in)
    embedding.normal_(std=g["token"])
    embedding += torch.randn(embedding.shape[1]) * g["mean"]
    head.normal_(std=g["head"])
    _fit_head(model, head, ids, steps=g.get("fit", 60))


def _fit_head(model, head, ids, steps):
    rows = torch.tensor(ids[: len(ids) // 64 * 64]).view(-1, 64)
    with torch.no_grad():
        hidden = model.base_model(input_ids=rows, use_cache=False).last_hidden_state[:, :-1]
    hidden = hidden.flatten(0, 1)
    wanted = rows[:, 1:].flatten()
    weight = head.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.05)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(hidden @ weight.t(), wanted)
            loss.backward()
            optimizer.step()
    head.copy_(weight.detach())


TEXT = """the old mill stands by the river, and the water turns its wheel day and night. in the morning the
miller opens the gate, listens to the stones, and counts the sacks that came from the farms on the hill. he
knows every sound of the house: the rope that pulls the grain up, the belt that runs under the floor, the
wind that moves the door. when the work is done he sits outside with bread and cheese and looks at the sky.
some people say that nothing ever changes here, but he has seen the forest grow, the road become wide, and
children of his friends leave for the city and return with children of their own. what you keep, he likes to
tell them, is what you use, and a thing that is small can carry more than you think, if you pack it with care.
"""
