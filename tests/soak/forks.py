"""The command in children of this process, which start at once: a fork of what is imported already.

Owns how a child is made, what it is told, what is heard of it and how it ends. Importing this
imports torch, but no torch operator may run in this process: a fork would be left without what the
library knows of its threads. Needs Linux.
"""

from __future__ import annotations

import gc
import io
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - else every child imports it

import llmzip.api.compress  # noqa: F401
import llmzip.api.decompress  # noqa: F401
import llmzip.store.container  # noqa: F401
from llmzip.cli import progress
from llmzip.cli.main import main
from llmzip.codecs.cram import engine
from llmzip.lm import loaded
from llmzip.store import journal
from tests.soak import faults
from tests.soak.parts import chunks_in

FOREIGN = 99  # exit code of a child in which something escaped `main`
_WAIT_SECONDS = 60.0
_NOBODY = 65534
_LOOK_SECONDS = 0.002


class Foreign(Exception):
    """A child ended with an exception that is not llmzip's own, or said so."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Constants of llmzip that a short text needs otherwise to show everything."""

    certify_rows: int = 4  # several rounds of certification
    save_seconds: float = 20.0
    compact_bytes: int = 64 << 20
    fast_dtype: torch.dtype = torch.float32  # what is measured; a busy machine measures either

    def apply(self) -> None:
        loaded.fast_dtype = lambda device: self.fast_dtype
        progress.VERBOSE_LINE_SECONDS = 0.0  # every event is told with -v
        engine._CERTIFY_ROWS = self.certify_rows
        engine._SAVE_SECONDS = self.save_seconds
        journal._COMPACT_BYTES = self.compact_bytes


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended and what it said."""

    code: int  # negative: the signal that killed it
    err: str
    log: tuple[str, ...]
    seconds: float
    cpu_seconds: float
    command: tuple[str, ...]

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def logged(self, kind: str) -> list[str]:
        """What was logged under a word."""
        return [line.partition(" ")[2] for line in self.log if line.startswith(kind + " ")]

    def __str__(self) -> str:
        lines = self.err.strip().splitlines()
        return f"exit {self.code}: " + " | ".join(line for line in lines[-4:])


@dataclass(kw_only=True)
class Child:
    """A command that runs."""

    pid: int
    command: tuple[str, ...]
    err_path: Path
    log_path: Path
    started: float = field(default_factory=time.monotonic)
    sent: list[int] = field(default_factory=list)  # signals

    @property
    def err(self) -> str:
        return self.err_path.read_text(errors="replace")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def send(self, number: int) -> None:
        self.sent.append(number)
        os.kill(self.pid, number)

    def kill_after(self, cpu_seconds: float) -> None:
        """SIGKILL once it has used so much processor time, unless it has ended before."""
        self.wait_for(cpu_seconds)
        self.send(signal.SIGKILL)

    def wait_for(self, cpu_seconds: float) -> None:
        """Until it has used so much processor time, or has ended."""
        while not self.has_ended() and self._cpu_seconds() < cpu_seconds:
            time.sleep(_LOOK_SECONDS)

    def halt(self) -> None:
        """Let it stand still until it gets SIGCONT, unless it has ended."""
        self.send(signal.SIGSTOP)
        state = Path(f"/proc/{self.pid}/stat")
        self.wait_until(lambda: state.read_text().rpartition(") ")[2][0] in "TZ")

    def wait_until(self, holds: Callable[[], bool]) -> bool:
        """Until something is true; False: the child ended before."""
        while not holds():
            if self.has_ended():
                return holds()
            if time.monotonic() > self.started + _WAIT_SECONDS:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self, *, timeout_s: float = _WAIT_SECONDS) -> Ended:
        """Wait for the end; one that does not come is brought about, and foreign."""
        deadline = time.monotonic() + timeout_s
        while not self.has_ended():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Foreign(f"{' '.join(self.command)}: no end after {timeout_s:.0f} s")
            time.sleep(_LOOK_SECONDS)
        seconds = time.monotonic() - self.started
        _, status, usage = os.wait4(self.pid, 0)
        ended = Ended(
            code=os.waitstatus_to_exitcode(status),
            err=self.err,
            log=tuple(self.log.splitlines()),
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            command=self.command,
        )
        if -ended.code not in self.sent:  # it was over and handled no signals any more
            check_ours(ended)
        return ended

    def _cpu_seconds(self) -> float:
        try:
            return time.clock_gettime((~self.pid << 3) | 2)  # Linux: the clock of that process
        except OSError:
            return 0.0


def start(
    command: Sequence[str],
    directory: Path,
    notes: Path,
    *,
    tuning: Tuning | None = None,
    prepare: Callable[[], None] = lambda: None,
    afterwards: Callable[[], None] = lambda: None,
    stdin: int | None = None,
) -> Child:
    """Run `llmzip` with these arguments in `directory`. notes: where what it says is written.

    prepare, afterwards: done in the child before and after the command.
    """
    err_handle, err = tempfile.mkstemp(dir=notes, suffix=".err")
    log_handle, log = tempfile.mkstemp(dir=notes, suffix=".log")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        code = FOREIGN
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(
                    number,
                    signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL,
                )
            os.chdir(directory)
            null = os.open(os.devnull, os.O_RDWR)
            for handle, wanted in ((stdin or null, 0), (null, 1), (err_handle, 2)):
                os.dup2(handle, wanted)
            sys.argv = ["llmzip", *command]
            faults.log_to(log_handle)
            (tuning or Tuning()).apply()
            _log_what_is_kept()
            prepare()
            code = main(list(command))
            afterwards()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(err_handle)
    os.close(log_handle)
    return Child(pid=pid, command=tuple(command), err_path=Path(err), log_path=Path(log))


def check_ours(ended: Ended) -> None:
    """Raise Foreign for an end that is none of the documented ones, or that quotes the system
    without a word of our own."""
    is_known = 0 <= ended.code <= 7 or ended.code in (130, 143) or ended.was_killed
    if not is_known or "should not have happened" in ended.err or "[Errno" in ended.err:
        raise Foreign(str(ended))


def warm_up() -> None:
    """Import what the command line imports late, so that no child has to."""
    with redirect_stderr(io.StringIO()):
        main(["compress", f"{os.devnull}/nothing"])
    gc.collect()
    gc.freeze()  # or a collection in a child touches every page, and each is copied


def in_fork(work: Callable[[], None]) -> None:
    """Do something in a child, where torch may be used. Raises Foreign if it fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        raise Foreign(f"a child failed: {os.waitstatus_to_exitcode(status)}")


def drop_root() -> None:
    """In a child of root, to be refused what others are refused."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def give_away(path: Path) -> None:
    """To whom `drop_root` becomes."""
    if os.getuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)


def told_chunks(err: str) -> int:
    """Chunks that a run with -v last said were done."""
    lines = [line for line in err.splitlines() if line.startswith("cram ") and " chunks" in line]
    found = re.search(r"([\d,]+)/[\d,]+ chunks", lines[-1]) if lines else None
    return int(found[1].replace(",", "")) if found else 0


def _log_what_is_kept() -> None:
    real = journal.Journal.keep

    def keep(self: journal.Journal, name: str, kept: bytes, state: bytes = b"") -> None:
        real(self, name, kept, state)
        faults.log(f"kept {name} {chunks_in(kept) if name == 'chunks' and kept else 0}")

    journal.Journal.keep = keep  # type: ignore[method-assign]
