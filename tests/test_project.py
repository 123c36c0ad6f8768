"""The project's own promises: equal requirements, one direction of imports, small files, clean lint."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}

# who may import whom; data and metrics import none of the rest of mtlkit
LAYERS = {
    "mtlkit.data": {"mtlkit.data"},
    "mtlkit.metrics": set(),
    "mtlkit.device": set(),
    "mtlkit.layers": set(),
    "mtlkit.replay": set(),
    "mtlkit.losses": {"mtlkit.data"},
    "mtlkit.ranking": set(),
    "mtlkit.models": {"mtlkit.models", "mtlkit.layers", "mtlkit.data"},
    "mtlkit.parallel": {"mtlkit.layers"},
    "mtlkit.checkpoint": {"mtlkit.parallel"},
    "mtlkit.rows": {"mtlkit.models", "mtlkit.data", "mtlkit.parallel"},
    "mtlkit.stream": {"mtlkit.models", "mtlkit.data", "mtlkit.parallel", "mtlkit.rows"},
    "mtlkit.training": {
        "mtlkit.models",
        "mtlkit.losses",
        "mtlkit.data",
        "mtlkit.metrics",
        "mtlkit.device",
        "mtlkit.rows",
        "mtlkit.checkpoint",
        "mtlkit.parallel",
    },
    "mtlkit.ensemble": {
        "mtlkit.replay",
        "mtlkit.rows",
        "mtlkit.models",
        "mtlkit.losses",
        "mtlkit.data",
        "mtlkit.device",
    },
    "mtlkit.diagnosis": {"mtlkit.training", "mtlkit.models", "mtlkit.layers", "mtlkit.losses", "mtlkit.data"},
    "mtlkit.illnesses": {"mtlkit.diagnosis", "mtlkit.models", "mtlkit.layers"},
    "mtlkit.plots": {"mtlkit.diagnosis"},
    "mtlkit.__main__": {"mtlkit.cli"},
}
LAYERS["mtlkit.cli"] = LAYERS.keys() - {"mtlkit.__main__"}


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def test_environment_yml_has_the_requirements_of_pyproject():
    project = _project()
    wanted = [f"python{project['requires-python']}", *project["dependencies"]]
    wanted += [line for name in ("course", "cli", "dev") for line in project["optional-dependencies"][name]]
    names = [re.match(r"[\w.-]+", line)[0] for line in wanted]
    wanted = {CONDA_NAMES.get(n, n) + line.removeprefix(n) for n, line in zip(names, wanted, strict=True)}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert {line for line in conda if isinstance(line, str)} == wanted | {"pip"}


def test_packages_of_pyproject_are_all_there_are():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for path in _tracked("mtlkit/**", "autograde_tests/**")
        if path.name == "__init__.py"
    }
    assert found == set(listed)


@pytest.mark.parametrize("path", _tracked("mtlkit/*.py", "mtlkit/**/*.py"), ids=lambda p: p.stem)
def test_imports_inside_mtlkit_go_one_way(path: Path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    home = ".".join(module.split(".")[:2])
    if home == "mtlkit.__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "mtlkit":
            names = [f"mtlkit.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith(("mtlkit.", "autograde_tests")):
                part = ".".join(name.split(".")[:2])
                assert part in LAYERS[home] | {home}, f"{module} imports {name}"


def test_mtlkit_and_checks_stay_clear_of_tests_and_tools():
    for path in _tracked("mtlkit/**", "autograde_tests/**"):
        if path.suffix == ".py":
            assert not re.search(r"^\s*(from|import) (tests|tools|solutions)\b", path.read_text(), re.M), path


def test_files_are_a_few_hundred_lines_at_most():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in _tracked("*.py", "**/*.py")
        if "solutions" not in path.parts
        and (lines := len(path.read_text().splitlines())) > (650 if "tests" in path.parts else 500)
    }
    assert not long


def test_every_name_that_mtlkit_shows_has_a_docstring():
    bare = []
    for path in _tracked("mtlkit/*.py", "autograde_tests/*.py"):
        if "sheets" in path.parts:  # answers, right and wrong, as a student would write them
            continue
        tree = ast.parse(path.read_text())
        for node in tree.body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                bare.append(f"{path.name}:{node.name}")
    assert not bare


def test_ruff_finds_nothing():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_importing_mtlkit_costs_little_beside_torch():
    code = (
        "import time; start = time.perf_counter(); import torch; alone = time.perf_counter() - start; "
        "import mtlkit.models; print(alone, time.perf_counter() - start)"
    )
    runs = []
    for _ in range(3):  # the machine is shared: the best of three
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        torch_alone, both = map(float, done.stdout.split())
        runs.append(both / torch_alone)
    assert min(runs) < 1.5, runs


def test_licences_and_citation_are_there():
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert "CC BY 4.0" in (ROOT / "LICENSE-prose").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == _project()["version"]


def test_the_site_has_all_pages_and_notebooks():
    text = (ROOT / "docs/_toc.yml").read_text()
    listed = re.findall(r"(?:root|file): (\S+)", text)
    found = [
        str(path.relative_to(ROOT).with_suffix("")) for path in _tracked("docs/*.md", "notebooks/*.ipynb")
    ]
    assert sorted(listed) == sorted([*found, "README", "CHANGELOG"])
