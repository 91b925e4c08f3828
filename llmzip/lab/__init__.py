"""How much a language model's input vectors hold: the studies behind `llmzip lab`.

    from pathlib import Path
    from llmzip.lab import LabSettings, Texts, capacity

    texts = Texts(files=(Path("book.txt"),), count=4)
    summary = capacity(LabSettings(out=Path("run"), texts=texts))

Needs the packages of the extra `lab`. Nothing else of llmzip imports it. docs/LAB.md says what each
study measures.
"""

from llmzip.lab.recipes import Recipe, paper_recipe
from llmzip.lab.report import write_report
from llmzip.lab.studies import (
    capacity,
    entropy,
    geometry,
    greedy,
    lengths,
    plan,
    rate,
    scaling,
    utilisation,
)
from llmzip.lab.study import LabSettings
from llmzip.lab.tables import table_text
from llmzip.lab.texts import Texts

__all__ = [
    "LabSettings",
    "Recipe",
    "Texts",
    "capacity",
    "entropy",
    "geometry",
    "greedy",
    "lengths",
    "paper_recipe",
    "plan",
    "rate",
    "scaling",
    "table_text",
    "utilisation",
    "write_report",
]
