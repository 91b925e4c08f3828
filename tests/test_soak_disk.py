"""Full and failing disks, inputs that change: one clear line, nothing half written."""

from __future__ import annotations

import os
import sys

import pytest

from tests.soak.outcome import Outcome, table

if not sys.platform.startswith("linux"):
    pytest.skip("runs are forked, and /proc tells of them: Linux", allow_module_level=True)

from tests.soak import disk
from tests.soak.mounts import NoDisk, small_disk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return disk.run(seed=1, full=False)


def test_every_failure_is_one_line_and_leaves_no_half_file(outcomes: list[Outcome]) -> None:
    assert all(outcome.is_clean for outcome in outcomes), table(outcomes)
    cases: dict[str, int] = {}
    for outcome in outcomes:
        cases[outcome.name] = cases.get(outcome.name, 0) + outcome.cases
    assert cases["failing calls"] > 100
    assert cases["limits on a file's size"] > 40
    assert cases["denied"] > 10 and cases["inputs changed"] > 20


def test_disks_were_filled(outcomes: list[Outcome]) -> None:
    found = {outcome.name: outcome for outcome in outcomes}
    full = found["full disks"]
    if not full.cases:
        pytest.skip("; ".join(full.notes))
    assert full.cases > 20 and found["read-only disks"].cases > 3


def test_a_small_disk_can_be_filled_and_emptied() -> None:
    if os.getuid():
        pytest.skip("only a process of its own may enter a name space")
    try:
        with small_disk() as small:
            before = os.statvfs(small.path)
            small.fill(but_blocks=2)
            assert os.statvfs(small.path).f_bavail == 2
            small.make_room()
            small.fill(but_files=1)
            (small.path / "one").touch()
            with pytest.raises(OSError):
                (small.path / "two").touch()
            (small.path / "one").unlink()
            small.make_room()
            after = os.statvfs(small.path)
            assert (after.f_bavail, after.f_ffree) == (before.f_bavail, before.f_ffree)
            with small.read_only(), pytest.raises(OSError):
                (small.path / "one").touch()
    except NoDisk as reason:
        pytest.skip(str(reason))
