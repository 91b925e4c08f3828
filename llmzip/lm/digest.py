"""The files of a model directory, and the identity of the model in it.

Owns which files belong to a model, how their headers and settings are read, what counts as the same
model, and the cache of digests, which saves hashing gigabytes again. The identity is one digest of
weights, settings and vocabulary. Two directories have the same identity when they decode alike: how
tensors are spread over files, the order of keys, white space and the versions of libraries do not
matter, but every bit of every weight does. Needs no torch. Knows no names of models and no
environment variables.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from llmzip.errors import ModelUnavailable
from llmzip.store.atomic import write_cache

_DIGEST_BYTES = 16
_SINGLE_FILE, _INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_DOMAIN = b"llmzip model identity 1\n"
_ADAPTED_DOMAIN = b"llmzip adapted model 1\n"
_BLOCK_BYTES = 4 << 20
_MAX_HEADER_BYTES = 100_000_000
# Settings that say how a model was saved or is run, but not what it computes.
_VOLATILE = frozenset(
    "_attn_implementation _commit_hash _model_name_or_path _name_or_path architectures "
    "attn_implementation dtype output_attentions output_hidden_states pad_token_id return_dict "
    "torch_dtype transformers_version use_cache".split()
)


class StoredTensor(NamedTuple):
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int  # in bytes, from the start of the file
    num_bytes: int


def model_files(directory: Path) -> tuple[Path, ...]:
    """The files that make up the model in `directory`: config, tokenizer, weights. Raises
    `ModelUnavailable`, which names the first one that is missing."""
    config, tokenizer = directory / "config.json", directory / "tokenizer.json"
    if not config.is_file():
        raise ModelUnavailable(
            f"{directory} holds no model: config.json is missing",
            hint="name a directory with config.json, tokenizer.json and *.safetensors files",
        )
    weights = weight_files(directory)
    if not tokenizer.is_file():
        raise ModelUnavailable(
            f"{directory} holds no fast tokenizer: tokenizer.json is missing",
            hint="save the tokenizer with transformers' save_pretrained, or choose another model",
        )
    for path in weights:
        if not path.is_file():
            raise ModelUnavailable(f"the model in {directory} is not complete: no {path.name}")
    return (config, tokenizer, *weights)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of the model in `directory`, of which an index may name missing ones.
    Raises `ModelUnavailable` where there are none."""
    single, index = directory / _SINGLE_FILE, directory / _INDEX_FILE
    if single.is_file():
        return [single]
    if index.is_file():
        return [directory / name for name in _shard_names(index)]
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise ModelUnavailable(
            f"{directory} holds no weights: {_SINGLE_FILE} is missing",
            hint="only safetensors weights are read; .bin and .pt files can run code when loaded",
        )
    return weights


def read_json(path: Path, parse: Callable[[bytes], Any] = json.loads) -> Any:
    """The content of one of a model's JSON files. Raises `ModelUnavailable`."""
    try:
        return parse(path.read_bytes())
    except OSError as cause:
        raise unusable(path, f"it cannot be read: {cause}") from cause
    except (ValueError, RecursionError) as cause:
        raise unusable(path, "it is not JSON") from cause


def read_header(path: Path) -> list[StoredTensor]:
    """The tensors that a safetensors file lists in its header, checked against the file's size.
    Raises `ModelUnavailable` where the header is damaged, OSError where it cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or head_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise unusable(path, "its header is longer than the file")
        head = file.read(head_bytes)
    start, tensors = 8 + head_bytes, []
    try:
        table = json.loads(head)
        table.pop("__metadata__", None)
        for name, entry in table.items():
            begin, end = (int(offset) for offset in entry["data_offsets"])
            if not 0 <= begin <= end <= size - start:
                raise unusable(path, f"tensor {name!r} lies outside the file")
            dtype, shape = str(entry["dtype"]), tuple(int(axis) for axis in entry["shape"])
            offset, num_bytes = start + begin, end - begin
            tensors.append(StoredTensor(name, dtype, shape, path, offset, num_bytes))
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise unusable(path, "its header is not a table of tensors") from cause
    return tensors


ADAPTER_HINT = "install llmzip again: adapters are part of it"


def unusable(
    path: Path, reason: str, *, hint: str = "fetch the model again or choose another model"
) -> ModelUnavailable:
    """The error for a file of a model that is damaged or not supported."""
    return ModelUnavailable(f"{path} cannot be used: {reason}", hint=hint)


def model_identity(directory: Path) -> bytes:
    """Hash the model in `directory`: [16] bytes. Reads every weight, a few megabytes at a time."""
    config, tokenizer, *weights = model_files(directory)
    whole = hashlib.sha256(_DOMAIN)
    try:
        _hash_weights(whole, weights)
        _hash_part(whole, b"config", _canonical(_without_volatile(read_json(config))))
        _hash_part(whole, b"vocabulary", _canonical(_vocabulary(tokenizer)))
    except OSError as cause:  # of the weights
        raise ModelUnavailable(f"cannot read the model in {directory}: {cause}") from cause
    return whole.digest()[:_DIGEST_BYTES]


def adapted_identity(base: bytes, adapter: Path) -> bytes:
    """The identity of a model whose weights an adapter changes: [16] bytes. base: without it."""
    try:
        whole = hashlib.sha256(_ADAPTED_DOMAIN + base + adapter.read_bytes())
    except OSError as cause:
        raise ModelUnavailable(f"cannot read {adapter}: {cause}", hint=ADAPTER_HINT) from cause
    return whole.digest()[:_DIGEST_BYTES]


def cached_identity(directory: Path, *, cache: Path) -> bytes:
    """As `model_identity`, but remembered in `cache` until a file's name, size or time changes."""
    known = recall_identity(directory, cache=cache)
    if known is not None:
        return known
    before = _stamps(directory)
    digest = model_identity(directory)
    if _stamps(directory) == before:
        remember_identity(directory, digest, cache=cache)
    return digest


def recall_identity(directory: Path, *, cache: Path) -> bytes | None:
    """The remembered digest. None where there is none, it is damaged or a file has changed."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # it is computed again
        known = json.loads(_entry_path(directory, cache).read_bytes())
        if known["files"] == _stamps(directory):
            digest = bytes.fromhex(known["digest"])
            return digest if len(digest) == _DIGEST_BYTES else None
    return None


def remember_identity(directory: Path, digest: bytes, *, cache: Path) -> None:
    """Store a digest that was just computed. A cache that cannot be written is not an error."""
    entry = _entry_path(directory, cache)
    note = {"path": str(directory), "files": _stamps(directory), "digest": digest.hex()}
    write_cache(entry, json.dumps(note).encode())


def _entry_path(directory: Path, cache: Path) -> Path:
    key = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
    return cache / "digests" / f"{key}.json"


def _stamps(directory: Path) -> list[list[Any]]:
    """Name, size and time of change of each file, which tell whether a digest still holds."""
    files = model_files(directory)
    try:
        found = [(path.name, path.stat()) for path in files]
    except OSError as cause:
        raise ModelUnavailable(f"cannot read the model in {directory}: {cause}") from cause
    return [[name, status.st_size, status.st_mtime_ns] for name, status in found]


def _hash_part(whole: hashlib._Hash, label: bytes, content: bytes) -> None:
    whole.update(b"%s %d\n" % (label, len(content)))
    whole.update(content)


def _hash_weights(whole: hashlib._Hash, paths: list[Path]) -> None:
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for tensor in read_header(path):
            if tensor.name in tensors:
                raise unusable(path, f"{tensor.name!r} is also in {tensors[tensor.name].path}")
            tensors[tensor.name] = tensor
    with ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb", buffering=0)) for path in paths}
        for name, tensor in sorted(tensors.items()):
            _hash_part(whole, b"tensor", _canonical([name, tensor.dtype, list(tensor.shape)]))
            whole.update(b"%d\n" % tensor.num_bytes)
            file, left = files[tensor.path], tensor.num_bytes
            file.seek(tensor.offset)
            while left:
                block = file.read(min(left, _BLOCK_BYTES))
                if not block:
                    raise unusable(tensor.path, "it became shorter while it was read")
                whole.update(block)
                left -= len(block)


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise unusable(index, "it names files outside its directory")
    except (KeyError, TypeError, AttributeError) as cause:
        raise unusable(index, "it has no weight_map") from cause
    return names


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 10000 and 10000.0 are one setting
    return value


def _vocabulary(tokenizer: Path) -> list[list[Any]]:
    """[id, token] pairs in order. Unigram models list [token, score] instead of mapping to ids."""
    content = read_json(tokenizer)
    try:
        vocab = content["model"]["vocab"]
        if isinstance(vocab, dict):
            pairs = {(int(token_id), str(token)) for token, token_id in vocab.items()}
        else:
            pairs = {(token_id, str(entry[0])) for token_id, entry in enumerate(vocab)}
        added = content.get("added_tokens") or []
        pairs |= {(int(token["id"]), str(token["content"])) for token in added}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as cause:
        raise unusable(tokenizer, "it has no vocabulary") from cause
    return [[token_id, token] for token_id, token in sorted(pairs)]


def _canonical(value: Any) -> bytes:
    # ASCII escapes keep tokens with lone surrogates hashable.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
