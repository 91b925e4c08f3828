"""The rate table's rows, its words and its picture; nothing is compressed here."""

from __future__ import annotations

from pathlib import Path

import pytest
import rate_table

from llmzip.config import DEFAULT_MAX_PATCHES

ROW = rate_table.Row(
    bits=2, load=1.0, max_patches=DEFAULT_MAX_PATCHES, tokens_per_vector=80.0,
    stored_bits_per_dimension=2.25, patched_share=0.125, payload_bits_per_byte=4.8,
    file_bits_per_byte=5.0, stored_bits_per_information_bit=4.5, compress_seconds=40.0,
    bytes_per_second=20.0,
)  # fmt: skip


def test_every_precision_is_measured_at_the_default_load() -> None:
    rows = list(rate_table.settings_of_rows())
    plain = [s for load, s in rows if load == 1.0 and s.max_patches == DEFAULT_MAX_PATCHES]
    assert [s.bits for s in plain] == [16, 8, 4, 3, 2, 1]
    assert all(s.budget_bits is None for s in plain)
    assert len({s.budget_bits for load, s in rows if load != 1.0}) == len(rate_table.LOADS[1])


def test_a_row_as_a_line_of_the_table() -> None:
    head, rule, line = rate_table.to_markdown([ROW]).splitlines()
    assert head.count("|") == rule.count("|") == line.count("|") == 12
    assert line == "| 2 | 1 | 0.125 | 80.0 | 2.25 | 12.5% | 4.80 | 5.00 | 4.5 | 40 | 20.0 |"


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rate_table.draw([ROW], tmp_path / "rate.png", {"xz -9e": 3.7})
    assert (tmp_path / "rate.png").read_bytes()[:4] == b"\x89PNG"
