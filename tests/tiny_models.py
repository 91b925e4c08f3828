"""Tiny random models in Hugging Face directories, for tests that must not download anything.

Owns their shapes, their initialisation and their byte vocabulary. The weights are drawn so that
one input vector has a strong hold on what follows it: mem vectors can be optimised on these models
in seconds, a chunk of 8 tokens like `TEXT` with one vector, 16 with two. Deterministic for a seed.
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
ATTENTION_GAINS = {
    "q_proj": 2.0, "k_proj": 2.0, "v_proj": 2.0, "o_proj": 2.0, "out_proj": 2.0,
    "query_key_value": 2.0, "attention.dense": 2.0,
    "gate_proj": 2.0, "up_proj": 2.0, "fc1": 2.0, "h_to_4h": 2.0,
    "down_proj": 0.5, "fc2": 1.0, "4h_to_h": 0.5, "project_in": 2.0,
}  # fmt: skip
MAMBA_GAINS = {"x_proj": 2.0, "dt_proj": 2.0}
SHORT_TEXT = b"the mill stands by the river and the water turns its wheel all day"
# Text that the models half expect, so that chunks of it are easier to force than random bytes.
TEXT = """\
the old mill stands by the river, and the water turns its wheel day and night. in the morning the
miller opens the gate, listens to the stones, and counts the sacks that came from the farms on the
hill. he knows every sound of the house: the rope that pulls the grain up, the belt that runs
under the floor, the wind that moves the door. when the work is done he sits outside with bread
and cheese and looks at the sky. some people say that nothing ever changes here, but he has seen
the forest grow, the road become wide, and children of his friends leave for the city and return
with children of their own. what you keep, he likes to tell them, is what you use, and a thing
that is small can carry more than you think, if you pack it with care.
"""


def make_tiny_model(directory: Path, arch: str, *, bos: bool = False, seed: int = 0) -> Path:
    """Write config.json, model.safetensors, tokenizer.json of a random `arch` model to `directory`.

    260 tokens: 256 bytes, three merges and the end of text; `bos` adds one that begins every text.
    Returns `directory`.
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
    verbosity, num_threads = transformers.logging.get_verbosity(), torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums, so the last bits of the head, depend on it
    transformers.logging.set_verbosity_error()  # mamba logs its lack of kernels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        _initialise(model, arch, tokenizer.encode(TEXT, add_special_tokens=False).ids)
    torch.set_num_threads(num_threads)
    transformers.logging.set_verbosity(verbosity)
    save_file(model.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})
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


@torch.no_grad()
def _initialise(model: Any, arch: str, text_ids: list[int]) -> None:
    """Random layers that outweigh the residual stream, then an output head fitted to `TEXT`.

    The gains were searched for: with them one vector steers the most tokens.
    """
    gains = MAMBA_GAINS if arch == "mamba" else ATTENTION_GAINS
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    for name, weight in sorted(model.named_parameters()):
        if weight is embedding or weight is head:
            continue
        if name.endswith("A_log"):
            weight.uniform_(math.log(0.02), math.log(0.2))  # how fast the recurrence forgets
        elif name.endswith("dt_proj.bias"):
            weight.fill_(-0.5)
        elif name.endswith("bias"):
            weight.normal_(std=0.1)
        elif "embed_positions" in name or name.endswith("conv1d.weight"):
            weight.normal_(std=0.5)
        elif weight.ndim == 2:
            gain = next((gain for part, gain in gains.items() if part in name), 1.0)
            weight.normal_(std=gain / math.sqrt(weight.shape[1]))
    # What all tokens share lets queries single out a mem vector, which does not share it.
    embedding.normal_().add_(0.5 * torch.randn(embedding.shape[1]))
    head.normal_(std=0.3)
    _fit_head(model, head, torch.tensor(text_ids))


def _fit_head(model: Any, head: torch.Tensor, ids: torch.Tensor) -> None:
    """A few steps of Adam on the head alone: cheap, and the model then expects text like `TEXT`."""
    hidden, wanted = [], []
    for width in (16, 64, 256):
        rows = ids[: len(ids) // width * width].view(-1, width)
        states = model.base_model(input_ids=rows, use_cache=False).last_hidden_state
        hidden.append(states[:, :-1].flatten(0, 1))
        wanted.append(rows[:, 1:].flatten())
    x, y = torch.cat(hidden), torch.cat(wanted)
    mean, square = torch.zeros_like(head), torch.zeros_like(head)
    for step in range(1, 31):
        error = torch.softmax(x @ head.t(), dim=1)
        error[torch.arange(len(y)), y] -= 1.0
        gradient = error.t() @ x / len(y)
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.001)
        scale = (square / (1 - 0.999**step)).sqrt_().add_(1e-8)
        head -= 0.05 * (mean / (1 - 0.9**step)) / scale
