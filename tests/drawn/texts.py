"""Texts as people have them, and the ways in which they come."""

import os
import threading
from pathlib import Path

FOX = "the quick brown fox jumps over the lazy dog\n" * 40

TEXTS: dict[str, bytes] = {
    "fox": FOX.encode(),
    "without a newline": FOX.replace("\n", " ").encode(),
    "Chinese": ("天地玄黄宇宙洪荒日月盈昃辰宿列张\n" * 40).encode(),
    "emoji": ("🙂🙃 :smile: [bold]x[/bold] \\[red]\n" * 60).encode(),
    "escape sequences": (f"\x1b[31m{FOX}\x1b[?25l\r\b\a").encode(),
    "Windows line ends": FOX.replace("\n", "\r\n").encode(),
    "a byte order mark": FOX.encode("utf-8-sig"),
    "UTF-16": FOX.encode("utf-16"),
    "UTF-16 without a mark": FOX.encode("utf-16-le"),
    "Latin-1": ("déjà vu, garçon\n" * 80).encode("latin-1"),
    "cut inside a character": ("äöü\n" * 200).encode()[:-2],
    "one symbol": b"a" * 900,
    "too short": b"fox",
    "empty": b"",
    "zeros": bytes(2000),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
}

WAYS = ["file", "pipe", "named pipe", "folder", "nothing", "odd name"]


class Given:
    """A text in one of the ways: `path` for --data; `stdin` for the process, or None."""

    def __init__(self, content: bytes, way: str, place: Path) -> None:
        self.stdin: bytes | None = None
        self.path = place / ("a [red]text:smile:.txt" if way == "odd name" else "text.txt")
        if way == "pipe":
            self.path, self.stdin = Path("/dev/stdin"), content
        elif way == "named pipe":
            os.mkfifo(self.path)
            threading.Thread(target=_write, args=(self.path, content), daemon=True).start()
        elif way == "folder":
            self.path.mkdir()
        elif way != "nothing":
            self.path.write_bytes(content)


def _write(path: Path, content: bytes) -> None:
    """Waits for who reads; nobody may."""
    try:
        with path.open("wb") as pipe:
            pipe.write(content)
    except OSError:
        pass
