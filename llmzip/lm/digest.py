"""The identity of a model: one digest of its weights, its settings and its vocabulary.

Owns what counts as "the same model" and the small cache that spares hashing gigabytes twice. Two
directories have one identity when they decode alike: how tensors are spread over files, the order
of keys, white space and the traces of library versions do not matter; one bit of one weight does.
Needs no torch. Knows no model names and no environment; `zoo` calls it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmzip.errors import ModelUnavailable

DIGEST_BYTES = 16
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DOMAIN = b"llmzip model identity 1\n"
_BLOCK_BYTES = 4 << 20
_MAX_HEADER_BYTES = 100_000_000
# Settings that say how a model was saved or is run, never what it computes.
_VOLATILE = frozenset(
    {
        "_attn_implementation",
        "_commit_hash",
        "_model_name_or_path",
        "_name_or_path",
        "architectures",
        "attn_implementation",
        "dtype",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int  # from the start of the file
    num_bytes: int


def model_files(directory: Path) -> tuple[Path, ...]:
    """The files that make up the model in `directory`: config, tokenizer, weights.

    Raises `ModelUnavailable` naming the first one that is missing.
    """
    config = directory / "config.json"
    if not config.is_file():
        raise ModelUnavailable(
            f"{directory} holds no model: config.json is missing",
            hint="name a directory with config.json, tokenizer.json and *.safetensors files",
        )
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.is_file():
        weights = [single]
    elif index.is_file():
        weights = [directory / name for name in _shard_names(index)]
    else:
        weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise ModelUnavailable(
            f"{directory} holds no weights: {SINGLE_FILE} is missing",
            hint="only safetensors weights are read; .bin and .pt files can run code when loaded",
        )
    tokenizer = directory / "tokenizer.json"
    if not tokenizer.is_file():
        raise ModelUnavailable(
            f"{directory} holds no fast tokenizer: tokenizer.json is missing",
            hint="save the tokenizer with transformers' save_pretrained, or choose another model",
        )
    for path in weights:
        if not path.is_file():
            raise ModelUnavailable(f"the model in {directory} is not complete: no {path.name}")
    return (config, tokenizer, *weights)


def model_identity(directory: Path) -> bytes:
    """Hash the model in `directory`: [16] bytes. Reads every weight, a few megabytes at a time."""
    config, tokenizer, *weights = model_files(directory)
    whole = hashlib.sha256(_DOMAIN)
    try:
        _hash_weights(whole, weights)
        _hash_part(whole, b"config", _canonical(_without_volatile(_read_json(config))))
        _hash_part(whole, b"vocabulary", _canonical(_vocabulary(tokenizer)))
    except OSError as cause:
        raise ModelUnavailable(f"cannot read the model in {directory}: {cause}") from cause
    return whole.digest()[:DIGEST_BYTES]


def cached_identity(directory: Path, *, cache: Path) -> bytes:
    """As `model_identity`, remembered under `cache` until a file's name, size or time changes."""
    known = recall_identity(directory, cache=cache)
    if known is not None:
        return known
    before = _stamps(directory)
    digest = model_identity(directory)
    if _stamps(directory) == before:
        remember_identity(directory, digest, cache=cache)
    return digest


def recall_identity(directory: Path, *, cache: Path) -> bytes | None:
    """The remembered digest; None where there is none, it is damaged or a file has changed."""
    try:
        known = json.loads(_entry_path(directory, cache).read_bytes())
        if known["files"] == _stamps(directory):
            digest = bytes.fromhex(known["digest"])
            return digest if len(digest) == DIGEST_BYTES else None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def remember_identity(directory: Path, digest: bytes, *, cache: Path) -> None:
    """Note a digest that was just computed. A cache that cannot be written is no error."""
    import tempfile

    entry = _entry_path(directory, cache)
    note = {"path": str(directory), "files": _stamps(directory), "digest": digest.hex()}
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent, prefix=".part-")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(json.dumps(note).encode())
            os.replace(temporary, entry)
        except OSError:
            os.unlink(temporary)
    except OSError:
        pass


def _entry_path(directory: Path, cache: Path) -> Path:
    key = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
    return cache / "digests" / f"{key}.json"


def _stamps(directory: Path) -> list[list[Any]]:
    stamps = []
    for path in model_files(directory):
        try:
            status = path.stat()
        except OSError as cause:
            raise _unreadable(path, str(cause)) from cause
        stamps.append([path.name, status.st_size, status.st_mtime_ns])
    return stamps


def _hash_part(whole: _Hash, label: bytes, content: bytes) -> None:
    whole.update(b"%s %d\n" % (label, len(content)))
    whole.update(content)


def _hash_weights(whole: _Hash, paths: list[Path]) -> None:
    tensors: dict[str, _Tensor] = {}
    for path in paths:
        for tensor in _read_header(path):
            if tensor.name in tensors:
                raise _unreadable(path, f"{tensor.name!r} is also in {tensors[tensor.name].path}")
            tensors[tensor.name] = tensor
    files = {path: path.open("rb", buffering=0) for path in paths}
    try:
        block = memoryview(bytearray(_BLOCK_BYTES))
        for name in sorted(tensors):
            tensor = tensors[name]
            _hash_part(whole, b"tensor", _canonical([name, tensor.dtype, list(tensor.shape)]))
            whole.update(b"%d\n" % tensor.num_bytes)
            file, left = files[tensor.path], tensor.num_bytes
            file.seek(tensor.offset)
            while left:
                got = file.readinto(block[: min(left, _BLOCK_BYTES)])
                if not got:
                    raise _unreadable(tensor.path, "it became shorter while it was read")
                whole.update(block[:got])
                left -= got
    finally:
        for file in files.values():
            file.close()


def _read_header(path: Path) -> list[_Tensor]:
    """The tensor table of one safetensors file, checked against the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or head_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise _unreadable(path, "its header is longer than the file")
        head = file.read(head_bytes)
    start, tensors = 8 + head_bytes, []
    try:
        table = json.loads(head)
        table.pop("__metadata__", None)
        for name, entry in table.items():
            begin, end = (int(offset) for offset in entry["data_offsets"])
            if not 0 <= begin <= end <= size - start:
                raise _unreadable(path, f"tensor {name!r} lies outside the file")
            tensors.append(
                _Tensor(
                    name=name,
                    dtype=str(entry["dtype"]),
                    shape=tuple(int(axis) for axis in entry["shape"]),
                    path=path,
                    offset=start + begin,
                    num_bytes=end - begin,
                )
            )
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise _unreadable(path, "its header is not a tensor table") from cause
    return tensors


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(_read_json(index)["weight_map"].values()))
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise _unreadable(index, "it names files outside its directory")
    except (KeyError, TypeError, AttributeError) as cause:
        raise _unreadable(index, "it has no weight_map") from cause
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
    content = _read_json(tokenizer)
    try:
        vocab = content["model"]["vocab"]
        if isinstance(vocab, dict):
            pairs = {(int(token_id), str(token)) for token, token_id in vocab.items()}
        else:
            pairs = {(token_id, str(entry[0])) for token_id, entry in enumerate(vocab)}
        added = content.get("added_tokens") or []
        pairs |= {(int(token["id"]), str(token["content"])) for token in added}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as cause:
        raise _unreadable(tokenizer, "it has no vocabulary") from cause
    return [[token_id, token] for token_id, token in sorted(pairs)]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as cause:
        raise _unreadable(path, "it is not JSON") from cause


def _canonical(value: Any) -> bytes:
    # ASCII escapes keep tokens with lone surrogates hashable.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _unreadable(path: Path, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{path} cannot be used: {reason}", hint="fetch the model again or name another directory"
    )
