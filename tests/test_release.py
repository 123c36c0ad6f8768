"""The wheel and the source archive: what they hold, and that they work where the checkout is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMOKE = """
import sys
import mtlkit, autograde_tests
from mtlkit import data, models, training
assert mtlkit.__file__.startswith(sys.prefix) and autograde_tests.__file__.startswith(sys.prefix)
table = data.short_video(2000, seed=0).select(("long_view", "like"))
sizes = {models.SharedBottom: {"bottom": [8]}, models.MMoE: {}, models.PLE: {}, models.HoME: {"rank": 4}}
for kind, own in sizes.items():
    net = models.Recommender(table, kind, seed=0, **own)
    training.fit(net, table, epochs=1, progress=False)
    assert training.predict(net, table.part("test")).shape == (len(table.part("test")), 2)
verdict = autograde_tests.verdict("0.1", lambda y, seen: (y * seen).sum(0) / seen.sum(0))
assert verdict.passed, verdict
print("smoke passed")
"""


def listed() -> list[str]:
    """The files that git has."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    return [name for name in found.stdout.decode().split("\0") if name and (ROOT / name).exists()]


def build(source: Path, folder: Path, *kinds: str) -> None:
    call = "from setuptools import build_meta; build_meta.build_{}({!r})"
    command = [sys.executable, "-c", "; ".join(call.format(kind, str(folder)) for kind in kinds)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source archive, made from a copy of what git has."""
    folder = tmp_path_factory.mktemp("release")
    source = folder / "source"
    for name in listed():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build(source, folder, "wheel", "sdist")
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.heavy
def test_the_wheel_holds_the_packages_and_the_licences_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    tops = {name.split("/")[0] for name in names}
    info = next(top for top in tops if top.endswith(".dist-info"))
    assert tops == {"mtlkit", "autograde_tests", info}
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/LICENSE-prose"} <= set(names)
    inside = {name for name in names if name.endswith(".py")}
    tops = ("mtlkit/", "autograde_tests/")
    assert inside == {name for name in listed() if name.startswith(tops) and name.endswith(".py")}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["wheel", "source archive"])
def test_it_works_in_a_clean_environment(built, kind, tmp_path):
    """The libraries are borrowed from this environment; mtlkit is not: its finder is no part of the path."""
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    libraries = sysconfig.get_path("purelib")
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(own) / "borrowed.pth").write_text(libraries + "\n")
    wheel = built[0]
    if kind == "source archive":
        with tarfile.open(built[1]) as archive:
            archive.extractall(tmp_path, filter="data")
        build(next(tmp_path.glob("mtlkit-*")), tmp_path, "wheel")
        wheel = next(tmp_path.glob("*.whl"))
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", SMOKE], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert "smoke passed" in done.stdout, done.stderr[-2000:]


@pytest.mark.heavy
def test_the_source_archive_has_the_series(built):
    names = {name.partition("/")[2] for name in tarfile.open(built[1]).getnames()}
    for wanted in (
        "README.md",
        "notebooks/00_start/00_start.ipynb",
        "solutions/00_start/00_start.py",
        "Makefile",
    ):
        assert wanted in names, wanted
