"""Pages as a browser sees them: their elements, and Chromium where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")


class Page(HTMLParser):
    """Elements and words of a page; scripts and styles are no words."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = [tag]

    def handle_endtag(self, tag):
        self._inside = []

    def handle_data(self, data):
        if self._inside not in (["script"], ["style"]):
            self.words.append(data)

    def all(self, tag, **wanted):
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]

    @property
    def text(self):
        return "".join(self.words)


def browse(tmp_path, file, *more, fragment=""):
    """Open a page in a new browser that finds no other machine. Returns what it prints, what it
    complains of, and the addresses that the page (not the browser for itself) asked for."""
    log = tmp_path / "net.json"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", *more,
            file.as_uri() + fragment,
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    shutil.rmtree(tmp_path / "profile")
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = re.findall(r'"initiator":"(?!not an origin).*"url":"([^"]*)"', log.read_text("utf-8"))
    return done.stdout, complaints, asked
