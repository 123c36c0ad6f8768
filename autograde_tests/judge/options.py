"""What the commands share: values that one may type, checked before the work begins."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

NO_SANDBOX = (
    "No sandbox here: {}. What you grade would run with your rights, see your files and reach the network.\n"
    "Grade in a container that has namespaces (docs/instructor.md), or add --unsandboxed to grade anyway."
)


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def new_file(text: str) -> str:
    """A file that can be written, or - for the terminal."""
    path = Path(text)
    if text != "-" and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
    return text
