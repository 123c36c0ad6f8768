"""The list of commands in docs/results.md, and `make bench`, which runs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run_all():
    spec = importlib.util.spec_from_file_location("run_all", ROOT / "benchmarks/run_all.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_stands_in_the_results(run_all):
    named = {command[0] for command in run_all.commands((ROOT / "docs/results.md").read_text())}
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert named == scripts - {"run_all.py"}


@pytest.mark.heavy
def test_the_commands_of_the_results_are_commands(run_all):
    """With --help behind them: values and choices are read first, and the flags must be listed."""
    for command in run_all.commands((ROOT / "docs/results.md").read_text()):
        script, *arguments = command
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks" / script, *arguments, "--help"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (command, done.stderr[-500:])
        for flag in (argument for argument in arguments if argument.startswith("--")):
            assert flag in done.stdout, (command, flag)
        if script.removesuffix(".py") in run_all.KEEPS_RUNS:
            assert "--out" in done.stdout, command


def test_what_is_done_is_not_run_again(run_all, tmp_path, monkeypatch, capfd):
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs/results.md").write_text(
        "    python benchmarks/good.py --size 3   # a comment\n"
        "text\n    python benchmarks/bad.py\n    python benchmarks/good.py --size 3\n"
    )
    (tmp_path / "benchmarks/good.py").write_text("import sys; print('good', *sys.argv[1:])\n")
    (tmp_path / "benchmarks/bad.py").write_text("print('half'); raise SystemExit(3)\n")
    monkeypatch.setattr(run_all, "ROOT", tmp_path)
    monkeypatch.setattr(run_all, "OUT", tmp_path / "build/bench")
    monkeypatch.setattr(sys, "argv", ["run_all.py"])

    assert run_all.main() == 1
    said = capfd.readouterr()
    assert said.out.count("good --size 3\n") == 1 and "failed: bad.py" in said.err
    assert (tmp_path / "build/bench/good_size_3.txt").read_text() == "good --size 3\n"
    assert not (tmp_path / "build/bench/bad.txt").exists()

    (tmp_path / "benchmarks/bad.py").write_text("print('mended')\n")
    assert run_all.main() == 0
    said = capfd.readouterr()
    assert "== good.py --size 3 (done)" in said.out and "mended" in said.out
    assert run_all.main() == 0 and "mended" not in capfd.readouterr().out

    monkeypatch.setattr(sys, "argv", ["run_all.py", "--only", "gpod"])
    with pytest.raises(SystemExit):
        run_all.main()
    assert "no command of 'gpod'" in capfd.readouterr().err
