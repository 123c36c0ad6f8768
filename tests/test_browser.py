"""What people see: JupyterLab and formgrader in headless Chromium.

Skipped, with a reason, where playwright or a Chromium is missing. MTLKIT_SCREENSHOTS=docs/img keeps the
pictures that README and docs/instructor.md show.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from judge_cases import no_sandbox

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tools/ is not installed

from tools import grade  # noqa: E402
from tools.sample_class import CLASS, submission  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 120_000  # ms; the machine may be busy
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("this machine has no Chromium")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield running
        running.close()


@contextlib.contextmanager
def jupyter(folder: Path) -> Iterator[str]:
    """JupyterLab in this folder; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={folder}"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    command += ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    with (folder / "lab.log").open("w") as log:
        env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            assert server.poll() is None, (folder / "lab.log").read_text()[-2000:]
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def page_of(browser, address: str):
    page = browser.new_page(viewport={"width": 1250, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    return page


def open_notebook(browser, address: str, name: str):
    """The notebook with its kernel started: before that, Run All asks which kernel to take."""
    page = page_of(browser, f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector(".jp-NotebookPanel-toolbar >> text=Python 3")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached")
    return page


def keep(page, name: str, **clip: int) -> None:
    if folder := os.environ.get("MTLKIT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", clip=clip)


def wrong_once(name: str, exercise_id: str, wrong: str) -> nbformat.NotebookNode:
    """The release with the master's answers but one, and without training runs and figures."""
    folders = {kind: ROOT / kind / name / f"{name}.ipynb" for kind in ("solutions", "notebooks")}
    master, release = (nbformat.read(path, as_version=4) for path in folders.values())
    right = next(student for student in CLASS if student.id == "all_right")
    student = type(right)("one_wrong", "", {exercise_id: wrong})
    nb = submission(student, master, release)
    nb.cells = [cell for cell in nb.cells if "experiment" not in cell.metadata.get("tags", ())]
    return nb


def solution(name: str, exercise_id: str) -> str:
    master = nbformat.read(ROOT / "solutions" / name / f"{name}.ipynb", as_version=4)
    source = next(c.source for c in master.cells if c.id == f"answer_{exercise_id.replace('.', '_')}")
    return re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", source, flags=re.M).rstrip("\n") + "\n"


@pytest.mark.parametrize(
    "name, exercise_id, wrong, sentence",
    [
        (
            "01_shared_bottom",
            "1.6",
            "positive, negative = scores[labels == 1], scores[labels == 0]\n"
            "return (positive[:, None] > negative[None, :]).float().mean()",
            "a tie counts as lost",
        ),
        ("02_mmoe", "2.1", "return x @ W.T", "the softmax is missing"),
    ],
)
def test_a_wrong_answer_is_named_on_screen_and_a_right_one_turns_it_green(
    browser, tmp_path, name, exercise_id, wrong, sentence
):
    nbformat.write(wrong_once(name, exercise_id, wrong), tmp_path / f"{name}.ipynb")
    shutil.copy(ROOT / "nbgrader_config.py", tmp_path)
    cell = exercise_id.replace(".", "_")
    with jupyter(tmp_path) as address:
        page = open_notebook(browser, address, f"{name}.ipynb")
        page.click('.lm-MenuBar-itemLabel:text-is("Run")')
        page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')

        red = page.locator(f".jp-OutputArea-output:has-text('[{exercise_id}] ✗')")
        red.wait_for(state="attached")
        red.scroll_into_view_if_needed()
        page.wait_for_timeout(1000)  # JupyterLab draws what comes into view
        assert red.is_visible() and sentence in red.inner_text()
        assert "Traceback" not in red.inner_text()
        if name == "02_mmoe":
            keep(page, "check", x=290, y=220, width=920, height=420)

        # type the right answer, run it and its check
        editor = page.locator(f".jp-CodeCell:has-text('{first_line(name, exercise_id)}') .cm-content").first
        editor.click()
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(solution(name, exercise_id))
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Shift+Enter")
        green = page.locator(f".jp-OutputArea-output:has-text('[{exercise_id}] ✓')")
        green.wait_for()
        assert red.count() == 0, f"check_{cell} is still red"

        page.click(".validate-button")
        dialog = page.locator(".jp-Dialog:has-text('Validat')")
        dialog.wait_for()
        assert "passes all the tests" in dialog.inner_text()
        page.close()


def first_line(name: str, exercise_id: str) -> str:
    return solution(name, exercise_id).splitlines()[0]


def test_formgrader_shows_the_graded_class(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "ASSIGNMENTS", ("00_start",))
    course = tmp_path / "course"
    options = ["--unsandboxed"] if no_sandbox() else []
    assert grade.main(["--folder", str(course), *options]) == 0
    with jupyter(course) as address:
        page = page_of(browser, f"{address}/formgrader/gradebook/00_start")
        page.wait_for_selector("text=00_start")
        page.goto(f"{address}/formgrader/manage_submissions/00_start")
        row = page.locator("tr:has-text('all_right')")
        row.wait_for()
        assert "10" in row.inner_text()
        assert page.locator("tr:has-text('blank')").first.is_visible()
        keep(page, "formgrader", x=0, y=0, width=1250, height=560)
        page.close()
