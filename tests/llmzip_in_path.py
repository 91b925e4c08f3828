"""A program called llmzip, found by shells that tests start."""

from __future__ import annotations

import os
from pathlib import Path


def llmzip_in_path(folder: Path, script: str) -> dict[str, str]:
    """Put a shell script of that name into `folder`/bin. Returns the environment to find it."""
    binaries = folder / "bin"
    binaries.mkdir()
    program = binaries / "llmzip"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
