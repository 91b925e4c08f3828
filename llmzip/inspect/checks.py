"""What an examination of this installation finds, one line each.

Owns the shape of a finding and how several end in one exit code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at. `facts`: the same for programs."""

    topic: str
    text: str
    status: Status = "ok"
    hint: str = ""  # the next step, for warnings and problems
    exit_code: int = 0  # of a problem
    facts: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "topic": self.topic,
            "status": self.status,
            "text": self.text,
            **({"hint": self.hint} if self.hint else {}),
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def problem(topic: str, text: str, *, hint: str, exit_code: int = 1) -> Check:
    """Something that llmzip cannot work with, or not as asked."""
    return Check(topic=topic, text=text, status="problem", hint=hint, exit_code=exit_code)


def exit_code_of(checks: Iterable[Check]) -> int:
    """0 where nothing is worse than a warning, else the code of the first problem."""
    return next((each.exit_code for each in checks if each.status == "problem"), 0)
