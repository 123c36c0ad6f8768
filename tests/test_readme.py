"""README says only what is so: its message is real, its code runs, its table and links fit."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import torch

import autograde_tests

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_message_is_what_the_check_says():
    def ties_are_lost(scores, labels):
        positive, negative = scores[labels == 1], scores[labels == 0]
        return (positive[:, None] > negative[None]).float().mean()

    said = str(autograde_tests.verdict("1.6", ties_are_lost))
    assert said in [block.rstrip("\n") for block in _blocks("")]


def test_the_ten_lines_train_a_model(capsys):
    (code,) = _blocks("python")
    torch.set_num_threads(1)
    names: dict = {}
    exec(code, names)
    assert list(names["scores"].columns) == ["task_1", "task_2"] and len(names["scores"]) == 2000
    assert names["history"]["validation/loss"].iloc[-1] < names["history"]["validation/loss"].iloc[0]
    assert "r2" in capsys.readouterr().out


def test_the_table_of_notebooks_counts_right():
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| (\d+) \|", README, re.M))
    for path in ROOT.glob("notebooks/*/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        checks = [c for c in cells if c.metadata.get("nbgrader", {}).get("grade")]
        assert rows[path.stem] == str(len(checks))
        points = sum(c.metadata.nbgrader.points for c in checks)
        where = "in notebook 00" if path.stem == "00_start" else "in each of the others"
        assert f"{points} {where}" in README


def test_links_and_commands_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
