"""The payloads that files may have: one class of header fields for each codec.

Owns the table, and which of its entries a file's required features name.
"""

from __future__ import annotations

from llmzip.store.arith_fields import ArithFields
from llmzip.store.cram_fields import CramFields
from llmzip.store.payload import PayloadFields

# By codec. A codec from elsewhere adds its own class; its feature bits must be nobody else's.
PAYLOADS: dict[str, type[PayloadFields]] = {"cram": CramFields, "arith": ArithFields}


def payload_of(required: int) -> type[PayloadFields]:
    """The fields of a file with a model, by its required features."""
    marked = (kind for kind in PAYLOADS.values() if kind.marker and required & kind.marker)
    return next(marked, CramFields)


def foreign_features(required: int, optional: int, own: type[PayloadFields] | None) -> bool:
    """Whether there are features that only files of another kind have. own: None: of a file without
    a model."""
    others = [kind for kind in PAYLOADS.values() if kind is not own]
    return any(required & kind.own_required or optional & kind.own_optional for kind in others)


def all_required() -> int:
    """Every required feature that a payload may have."""
    return sum(kind.own_required for kind in PAYLOADS.values())


def all_optional() -> int:
    """Every optional feature that a payload may have."""
    return sum(kind.own_optional for kind in PAYLOADS.values())
