"""Where a command is stopped and goes on: a directory, a text, a model, an undisturbed run.

Owns the variants of a run, what must be true of the directory after a stop, and what the next run
must do with it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from llmzip.api.compress import seal
from llmzip.codecs.base import stored_draft
from llmzip.errors import LlmzipError
from tests.soak import faults, forks
from tests.soak.forks import Child, Ended, Tuning
from tests.soak.outcome import Tally, Verdict, peak_mb
from tests.soak.parts import num_chunks, work_names
from tests.tiny_models import TEXT, make_tiny_model

INPUT, FINAL, PART = "book.txt", "book.crm", "book.crm.part"
OLD = b"what was here before"
_QUICK = ("--bits", "16", "--max-steps", "30", "--budget-bits", "30", "--context", "8")


class Lost(Exception):
    """Work is gone, something is left behind, or the answer is not the one it should be."""


class Wrong(Exception):
    """Under the final name is something else than nothing, the old file or the whole new one."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A command and its input."""

    name: str
    options: tuple[str, ...] = ()
    data: bytes
    tuning: Tuning = Tuning()
    action: str = "compress"
    old: bytes | None = None  # what the final name holds before; replaced with -f
    prepare: Callable[[], None] = lambda: None  # in every child of the variant, undisturbed or not

    @property
    def source(self) -> str:
        return FINAL if self.action == "decompress" else INPUT

    @property
    def final(self) -> str:
        return INPUT if self.action == "decompress" else FINAL


def _refuse_links() -> None:
    """A file system without hard links."""

    def link(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    os.link = link  # type: ignore[assignment]


def _text(num_bytes: int) -> bytes:
    return TEXT.encode()[:num_bytes]


RAW = Variant(name="raw", options=_QUICK, data=_text(110))
GRID = Variant(
    name="grid", options=("--bits", "2", "--mem", "2", "--max-steps", "20"), data=_text(120)
)
ARITH = Variant(name="arith", options=("--codec", "arith", "--shared-mem", "1"), data=_text(400))
QUICK_ARITH = Variant(
    name="quick arith", options=("--codec", "arith", "--shared-mem", "0"), data=_text(400)
)
FORCE = Variant(name="forced", options=(*_QUICK, "-f"), data=RAW.data, old=OLD)
SAVES = Variant(
    name="saved often",
    options=_QUICK,
    data=RAW.data,
    tuning=Tuning(save_seconds=-1.0, compact_bytes=150_000),  # after every step
)
STORED = Variant(name="stored", data=bytes(range(256)) * 8)
NO_LINKS = replace(STORED, name="no links", prepare=_refuse_links)
STORED_FORCE = Variant(name="stored, forced", options=("-f",), data=STORED.data, old=OLD)
RESTORE = Variant(
    name="restored",
    data=seal(stored_draft(STORED.data), STORED.data, suffix=".txt"),
    action="decompress",
)
RESTORE_FORCE = Variant(
    name="restored, forced", options=("-f",), data=RESTORE.data, action="decompress", old=OLD
)
SHORT = (STORED, NO_LINKS, STORED_FORCE, RESTORE, RESTORE_FORCE)  # without a model
FEW = (STORED, NO_LINKS, RESTORE_FORCE)
VARIANTS = (RAW, GRID, ARITH, FORCE, SAVES)
QUICK = (RAW, GRID, QUICK_ARITH, FORCE, SAVES)


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that nothing happened to."""

    data: bytes
    ended: Ended

    @property
    def calls(self) -> list[str]:
        return self.ended.logged("call")

    @property
    def num_chunks(self) -> int:
        return kept_chunks(self.ended)


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a stopped run left."""

    part: bytes
    is_complete: bool  # the final file
    has_part: bool

    @property
    def num_chunks(self) -> int:
        return num_chunks(self.part)


@dataclass(kw_only=True)
class Workplace:
    """A directory for all cases of a campaign."""

    root: Path
    model: Path
    other: Path  # another model of the same kind
    notes: Path
    _undisturbed: dict[str, Undisturbed] = field(default_factory=dict)

    def command(self, variant: Variant) -> tuple[str, ...]:
        model = ("--model", str(self.model))
        # -y: what a full disk does to a run that began all the same is the question here.
        return (variant.action, variant.source, *model, "-v", "-y", *variant.options)

    @contextmanager
    def directory(self, variant: Variant) -> Iterator[Path]:
        """A new one with the input, and the old output if there is one."""
        path = Path(tempfile.mkdtemp(dir=self.root))
        path.chmod(0o777)
        (path / variant.source).write_bytes(variant.data)
        if variant.old is not None:
            (path / variant.final).write_bytes(variant.old)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            for note in self.notes.iterdir():
                note.unlink()

    def start(
        self,
        variant: Variant,
        directory: Path,
        *,
        around: faults.Around | None = faults.undisturbed,
        names: tuple[str, ...] = faults.CHANGING,
        prepare: Callable[[], None] = lambda: None,
        afterwards: Callable[[], None] = lambda: None,
        tuning: Tuning | None = None,
        more: tuple[str, ...] = (),
        stdin: int | None = None,
    ) -> Child:
        """Start the variant's command, with a fault."""

        def prepare_all() -> None:
            variant.prepare()
            prepare()
            if around is not None:
                faults.install(directory, around, names=names)

        return forks.start(
            (*self.command(variant), *more), directory, self.notes,
            tuning=tuning or variant.tuning, prepare=prepare_all, afterwards=afterwards,
            stdin=stdin,
        )  # fmt: skip

    def undisturbed(self, variant: Variant) -> Undisturbed:
        """What the variant gives if nothing happens; run once."""
        if variant.name not in self._undisturbed:
            with self.directory(variant) as directory:
                ended = self.start(variant, directory).end()
                assert ended.code == 0, str(ended)
                final = directory / variant.final
                assert sorted(os.listdir(directory)) == sorted((variant.source, variant.final))
                made = Undisturbed(data=final.read_bytes(), ended=ended)
                self._undisturbed[variant.name] = made
        return self._undisturbed[variant.name]


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A place for cases with a tiny model, whose calibration is known."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "notes").mkdir()
        before = os.environ.get("LLMZIP_CACHE")
        os.environ["LLMZIP_CACHE"] = str(root / "cache")
        model, other = root / "tiny", root / "other"

        def make_models() -> None:
            make_tiny_model(model, "llama")
            make_tiny_model(other, "llama", seed=1)

        forks.warm_up()
        forks.in_fork(make_models)
        root.chmod(0o755)  # some cases are run by nobody
        place = Workplace(root=root, model=model, other=other, notes=root / "notes")
        place.undisturbed(RAW)  # measures the model
        place._undisturbed.clear()
        try:
            yield place
        finally:
            if before is None:
                del os.environ["LLMZIP_CACHE"]
            else:
                os.environ["LLMZIP_CACHE"] = before


def kept_chunks(ended: Ended) -> int:
    """Chunks that a run added to the journal."""
    return sum(int(line.split()[1]) for line in ended.logged("kept"))


def look(directory: Path, variant: Variant, plain: Undisturbed, *, told: int = 0) -> Left:
    """What is left after a stop. told: chunks that the run had said were done.

    Raises Wrong, Lost.
    """
    final = _read(directory / variant.final)
    if final not in (variant.old, plain.data):
        raise Wrong(f"{len(final or b'')} bytes under the final name")
    part = _read(directory / PART)
    left = Left(part=part or b"", is_complete=final == plain.data, has_part=part is not None)
    if not left.is_complete and left.num_chunks < told:
        raise Lost(f"{told} chunks were done, {left.num_chunks} are left")
    return left


def go_on(
    place: Workplace, directory: Path, variant: Variant, plain: Undisturbed, left: Left
) -> Ended:
    """Run the command again and check what it does with what is left. Raises Wrong, Lost."""
    # With constants as they are: nothing may depend on what the run before was told.
    measured = torch.bfloat16 if left.num_chunks else torch.float32
    tuning = Tuning(fast_dtype=measured)
    ended = place.start(variant, directory, around=None, tuning=tuning).end()
    if left.is_complete and variant.old is None:
        require(ended.code == 0 and "already there" in ended.err, f"it is done, but {ended}")
    else:
        require(ended.code == 0, f"it does not go on: {ended}")
        _check_reuse(ended, plain, left)
    final = _read(directory / variant.final)
    if final != plain.data:
        raise Wrong(f"in the end {len(final or b'')} bytes, not {len(plain.data)}; {ended}")
    check_clean(directory, variant)
    return ended


def check_clean(directory: Path, variant: Variant) -> None:
    """Raise Lost if anything but input and output is there."""
    names = set(os.listdir(directory)) - {variant.source, variant.final}
    require(not names, f"left behind: {sorted(names)}")


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Lost(what)


def try_case(tally: Tally, case: Callable[[], None], label: str) -> None:
    """Count a case by what it raises."""
    found = ""

    def run() -> Verdict:
        nonlocal found
        try:
            case()
        except (Lost, Wrong, LlmzipError) as error:
            found = str(error)
            return "wrong" if isinstance(error, Wrong) else "lost"
        return "sound"

    tally.run(run, lambda: f"{label}: {found}")


def new_tally(name: str) -> Tally:
    """One that does not count what torch takes, nor how long children take."""
    return Tally(name=name, base_mb=peak_mb(), max_seconds=10.0)


def _check_reuse(ended: Ended, plain: Undisturbed, left: Left) -> None:
    """Whether a run used all that was left, and made only what was missing."""
    held, added = left.num_chunks, kept_chunks(ended)
    words = f"resumed: {held} of "
    require((words in ended.err) == (held > 0), f"{held} chunks were left; {ended}")
    require(held + added == plain.num_chunks, f"{held} left, {added} made, {plain.num_chunks} all")
    done = {name for name in work_names(left.part) if name != "chunks"}
    again = done & {line.split()[0] for line in ended.logged("kept")} - {"result"}
    require(not again, f"made twice: {sorted(again)}")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
