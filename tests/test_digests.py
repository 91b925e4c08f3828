"""The containers of this code are those of before, byte for byte."""

from __future__ import annotations

import json

import pytest

from tests.digests import PINNED, arithmetic_key, digests


@pytest.mark.slow
def test_no_container_has_changed():
    pinned = json.loads(PINNED.read_text()).get(arithmetic_key())
    if pinned is None:
        pytest.skip(f"no digests are kept for {arithmetic_key()}: see tests/digests.py")
    found = dict(digests())
    assert found == pinned
    assert len(found) > 40
