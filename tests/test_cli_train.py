"""``python -m mtlkit``: runs that can be repeated, continued and compared; nothing is overwritten."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import census_fixture
import kuairand_fixture
import numpy as np
import pandas as pd
import pytest
import torch
from launch import torchrun
from log_fixture import SCHEMA, log, write

from mtlkit import training
from mtlkit.__main__ import main
from mtlkit.cli import options
from mtlkit.cli import train as command
from mtlkit.cli.run import Run
from mtlkit.data.encoder import read_table
from mtlkit.data.fetch import DataError
from mtlkit.data.schema import Schema
from mtlkit.models import MMoE, Recommender
from mtlkit.parallel import FirstStopped

MADE = ["--data", "short_video", "--data-set", "rows=3000", "--tasks", "long_view", "like"]
SHORT = ["--epochs", "2", "--batch-size", "256", "--lr", "0.01", "--quiet"]


def train(out, *words, model="MMoE"):
    return main(["train", "--model", model, "--out", str(out), *map(str, words)])


def refused(capsys, code):
    """The one sentence of a command that did nothing."""
    said = capsys.readouterr().err
    assert code == 1 and said.count("\n") == 1, said
    return said


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A CSV file, its schema, and a finished run on it."""
    folder = tmp_path_factory.mktemp("own")
    path = write(folder, name="log.csv")
    words = ["--data", path, "--schema", folder / "schema.toml", "--set", "experts=3", "expert=16,8", *SHORT]
    assert train(folder / "run", *words) == 0
    return folder, words


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of two models with two seeds each."""
    folder = tmp_path_factory.mktemp("made")
    for seed in (0, 1):
        for model, sizes in (("SharedBottom", ["bottom=8"]), ("PLE", ["task_experts=1", "levels=8/8"])):
            assert (
                train(folder / f"{model}{seed}", *MADE, *SHORT, "--seed", seed, "--set", *sizes, model=model)
                == 0
            )
    return folder


# --- train ----------------------------------------------------------------------------------------


def test_a_run_is_what_the_package_does(own):
    folder, _ = own
    run = Run.finished(folder / "run")
    table = read_table(folder / "log.csv", folder / "schema.toml")
    model = Recommender(table, MMoE, experts=3, expert=[16, 8])
    history = training.fit(model, table, epochs=2, batch_size=256, lr=0.01, progress=False)
    there = pd.read_csv(run.history_file)
    pd.testing.assert_frame_equal(there.drop(columns="seconds"), history.drop(columns="seconds"))
    for name, tensor in run.model().state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    expected = training.evaluate(model, table.part("test"))
    pd.testing.assert_frame_equal(run.test(), expected.astype(run.test().dtypes))


def test_the_folder_holds_all_that_it_promises(own):
    folder, _ = own
    names = {path.name for path in (folder / "run").iterdir()}
    assert names == {
        *("config.json", "encoder.parquet", "history.csv", "model.safetensors", "test.csv"),
        *("learning_curves.png", "result.json"),
    }
    config = json.loads((folder / "run/config.json").read_text())
    assert config["sizes"] == {"experts": 3, "expert": [16, 8]} and config["training"]["lr"] == 0.01
    assert config["features"]["fields"]["user"] == 41 and set(config["versions"]) == {
        "mtlkit",
        "torch",
        "numpy",
    }
    assert Schema.of(config["data"]["schema"]) == Schema.of(tomllib.loads(SCHEMA))


@pytest.mark.parametrize("model", options.MODELS)
def test_every_model_trains(tmp_path, model, capsys):
    needed = {"bottom": "bottom=8"} if "bottom" in options._parameters(options.MODELS[model]) else {}
    sizes = [*needed.values(), *(["rank=4"] if model == "HoME" else [])]
    assert train(tmp_path / "run", *MADE, "--epochs", 1, "--quiet", "--set", *sizes, model=model) == 0
    out = capsys.readouterr().out
    assert "epoch 1, validation: loss" in out and "auc_ceiling" in out


@pytest.mark.parametrize("kind", ["parquet", "stream", "csv stream", "relatedness", "census", "kuairand"])
def test_other_data(tmp_path, kind, capsys):
    if kind == "census":
        words = [
            "--data",
            "census",
            "--data-set",
            f"path={census_fixture.write(tmp_path, census_fixture.texts())}",
        ]
        words += ["group=education,never_married", f"cache={tmp_path}"]
    elif kind == "kuairand":
        for name, text in kuairand_fixture.texts().items():
            (tmp_path / name).write_bytes(text)
        words = ["--data", "kuairand", "--data-set", f"path={tmp_path}", f"cache={tmp_path}"]
        words += ["dates=None,2022-04-26,2022-05-01"]
    elif kind == "relatedness":
        words = ["--data", "relatedness", "--data-set", "cosine=0.9", "rows=2000", "dim=10"]
    else:
        path = write(tmp_path, name="log.csv" if kind == "csv stream" else "log.parquet")
        words = ["--data", path, "--schema", tmp_path / "schema.toml", "--tasks", "share", "minutes"]
        words += ["--stream", "--buffer", 500] if "stream" in kind else []
    assert train(tmp_path / "run", *words, *SHORT) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert {"relatedness": "task_2", "census": "education", "kuairand": "is_like"}.get(
        kind, "minutes"
    ) in capsys.readouterr().out
    assert main(["diagnose", str(tmp_path / "run"), "--rows", "100"]) == 0


def test_options_reach_the_training(tmp_path):
    words = [
        "--embedding",
        4,
        "--dropout",
        0.1,
        "--schedule",
        "one_cycle",
        "--weight-decay",
        0.1,
        "--seed",
        5,
    ]
    words += [
        "--task-weights",
        "like=2",
        "--patience",
        "never",
        "--monitor",
        "auc/like",
        "--checkpoint-steps",
        3,
    ]
    assert train(tmp_path / "run", *MADE, *SHORT, *words) == 0
    run = Run.finished(tmp_path / "run")
    asked = run.config["training"]
    assert (
        asked["task_weights"] == {"like": 2} and asked["patience"] is None and asked["monitor"] == "auc/like"
    )
    assert run.config["inputs"] == {"embedding": 4, "dropout": 0.1}
    assert run.model().encoder.table.embedding_dim == 4


# --- what is in the folder stays ------------------------------------------------------------------


def test_nothing_is_overwritten(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(folder, *MADE, *SHORT) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert "holds this run, finished; give another --out" in refused(capsys, train(folder, *MADE, *SHORT))
    said = refused(capsys, train(folder, *MADE, *SHORT, "--lr", 0.5))
    assert "holds another run (training, lr: 0.01, not 0.5)" in said
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert train(folder, *MADE, *SHORT, "--lr", 0.5, "--overwrite") == 0
    assert (folder / "history.csv").read_bytes() != before["history.csv"]
    capsys.readouterr()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    for words in ((), ("--overwrite",)):
        said = refused(capsys, train(tmp_path / "notes", *MADE, *SHORT, *words))
        assert "is not empty and holds no run" in said
    assert (tmp_path / "notes/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("stream", [(), ("--stream", "--buffer", "300")])
def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, monkeypatch, capsys, stream):
    write(tmp_path)
    words = ["--data", tmp_path / "log.parquet", "--schema", tmp_path / "schema.toml", *stream, *SHORT]
    words += ["--dropout", 0.2, "--epochs", 4]
    assert train(tmp_path / "whole", *words) == 0
    report = command._report

    def stop(run, history, monitor):
        report(run, history, monitor)
        if len(history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "_report", stop)
    assert train(tmp_path / "run", *words) == 130
    assert "goes on with a run from its last checkpoint" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "run/history.csv")) == 2
    assert "is not finished" in refused(capsys, main(["evaluate", str(tmp_path / "run")]))
    (tmp_path / "run/checkpoint.safetensors.123.tmp").write_text("cut off")
    monkeypatch.setattr(command, "_report", report)
    assert train(tmp_path / "run", *words) == 0
    out = capsys.readouterr().out
    assert "epoch 3" in out and "epoch 2," not in out
    same_end(tmp_path / "run", tmp_path / "whole")


def test_changed_data_do_not_go_on(tmp_path, monkeypatch, capsys):
    path = write(tmp_path)
    words = ["--data", path, "--schema", tmp_path / "schema.toml", *SHORT]
    monkeypatch.setattr(command, "_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert train(tmp_path / "run", *words) == 130
    write(tmp_path, log(3100))
    capsys.readouterr()
    assert f"another run ({path} has changed since)" in refused(capsys, train(tmp_path / "run", *words))


def test_a_run_that_could_not_start_bars_no_way(tmp_path, capsys):
    path = write(tmp_path, log().astype({"age": object}).replace({"age": {30: "old"}}).astype({"age": str}))
    words = ["--data", path, "--schema", tmp_path / "schema.toml", *SHORT]
    assert "must hold numbers" in refused(capsys, train(tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()
    write(tmp_path)
    assert "cannot have the width 0" in refused(capsys, train(tmp_path / "run", *words, "--set", "tower=0"))
    assert "is not among" in refused(capsys, train(tmp_path / "run", *words, "--monitor", "auc"))
    assert train(tmp_path / "run", *words) == 0


def same_end(one, two):
    one, two = Run.finished(one), Run.finished(two)
    for name in ("model.safetensors", "test.csv"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    histories = [pd.read_csv(run.history_file).drop(columns="seconds") for run in (one, two)]
    assert histories[0].equals(histories[1])
    assert not one.checkpoint.exists() and not list(one.folder.glob("*.tmp"))


def started(words):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return subprocess.Popen(
        [sys.executable, "-m", "mtlkit", "train", "--model", "MMoE", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.heavy
def test_a_killed_run_goes_on_to_the_same_end(tmp_path):
    """kill -9 at two moments, wherever they fall; then the same command once more."""
    write(tmp_path, log(12_000))
    words = ["--data", tmp_path / "log.parquet", "--schema", tmp_path / "schema.toml", "--dropout", 0.1]
    words += ["--epochs", 10, "--batch-size", 64, "--patience", "never", "--checkpoint-steps", 50, "--quiet"]
    assert train(tmp_path / "whole", *words) == 0
    killed = 0
    for epochs in (1, 3):
        process = started([*words, "--out", tmp_path / "run"])
        file = tmp_path / "run/history.csv"
        while process.poll() is None and not (file.exists() and len(pd.read_csv(file)) >= epochs):
            time.sleep(0.02)
        time.sleep(0.03 * epochs)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed and not (tmp_path / "run/result.json").exists()
    last = started([*words, "--out", tmp_path / "run"])
    said = last.communicate()[0]
    assert last.returncode == 0 and "epoch 1," not in said
    same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.heavy
def test_torchrun_gives_the_run_of_one_process(tmp_path):
    write(tmp_path, log(6000))
    words = ["--data", tmp_path / "log.csv", "--schema", tmp_path / "schema.toml", *SHORT]
    write(tmp_path, log(6000), "log.csv")
    assert train(tmp_path / "one", *words) == 0
    said = torchrun(["-m", "mtlkit", "train", "--model", "MMoE", *words, "--out", tmp_path / "two"])
    assert said.count("best epoch") == 1 and "Traceback" not in said, said
    one, two = Run.finished(tmp_path / "one"), Run.finished(tmp_path / "two")
    a, b = (pd.read_csv(run.history_file).drop(columns="seconds") for run in (one, two))
    loss = [name for name in a if "loss" in name]
    np.testing.assert_allclose(b[loss], a[loss], rtol=1e-5)
    np.testing.assert_allclose(b, a, rtol=1e-4)
    np.testing.assert_allclose(two.test(), one.test(), rtol=1e-4)


# --- the other commands ---------------------------------------------------------------------------


def test_evaluate_reads_new_files(own, tmp_path, capsys):
    folder, _ = own
    run = Run.finished(folder / "run")
    assert main(["evaluate", str(run.folder)]) == 0
    assert "minutes" in capsys.readouterr().out
    # the test days as another file, and as one without labels, user or day
    frame = log()
    test = frame[frame["day"] >= "2024-05-10"]
    new, bare = tmp_path / "new.parquet", tmp_path / "bare.csv"
    test.to_parquet(new)
    test.drop(columns=["like", "share", "minutes", "day"]).to_csv(bare, index=False)
    files = [tmp_path / "a.csv", tmp_path / "b.parquet"]
    assert main(["evaluate", str(run.folder), "--data", str(new), "--predictions", str(files[0])]) == 0
    out = capsys.readouterr().out
    for value in run.test()["auc"].dropna():
        assert f"{value:.4f}" in out
    assert main(["evaluate", str(run.folder), "--data", str(bare), "--predictions", str(files[1])]) == 0
    one, two = pd.read_csv(files[0]), pd.read_parquet(files[1])
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert list(one) == ["like", "share", "minutes"] and len(one) == len(test)
    capsys.readouterr()
    assert "has no labels" in refused(capsys, main(["evaluate", str(run.folder), "--data", str(bare)]))


BROKEN = {
    "no weights": ("model.safetensors", None, "model.safetensors is damaged or was not written by mtlkit"),
    "weights": ("model.safetensors", "x", "model.safetensors is damaged or was not written by mtlkit"),
    "no encoder": ("encoder.parquet", None, "encoder.parquet is missing; without it the model's ids"),
    "encoder": ("encoder.parquet", "x", "encoder.parquet cannot be read as an encoder"),
    "config": ("config.json", "{", "config.json is damaged"),
    "other config": ("config.json", "{}", "config.json is damaged (it has no 'model')"),
    "no result": ("result.json", None, "is not finished"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_run_gets_one_sentence(own, tmp_path, capsys, fault):
    file, text, sentence = BROKEN[fault]
    shutil.copytree(own[0] / "run", tmp_path / "run")
    (tmp_path / "run" / file).unlink()
    if text is not None:
        (tmp_path / "run" / file).write_text(text)
    assert sentence in refused(capsys, main(["evaluate", str(tmp_path / "run")]))
    assert (tmp_path / "run" / file).exists() == (text is not None)


@pytest.mark.parametrize("file", ["history.csv", "test.csv"])
def test_broken_figures_are_named(own, tmp_path, capsys, file):
    shutil.copytree(own[0] / "run", tmp_path / "run")
    (tmp_path / "run" / file).write_text("")
    words = ["compare", str(tmp_path / "run"), "--figure", str(tmp_path / "f.png")]
    assert f"{file} is damaged" in refused(capsys, main(words))


def test_evaluate_says_that_the_data_are_others_now(tmp_path, capsys):
    path = write(tmp_path)
    assert train(tmp_path / "run", "--data", path, "--schema", tmp_path / "schema.toml", *SHORT) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run")]) == 0 and "changed" not in capsys.readouterr().err
    write(tmp_path, log(3100))
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert f"Note: {path} has changed since the run was trained" in capsys.readouterr().err


def test_places_that_cannot_be_written_get_one_sentence(own, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    run, words = str(own[0] / "run"), [*MADE, *SHORT]
    assert "is a file; give another --out" in refused(capsys, train(tmp_path / "file", *words))
    assert "Not a directory" in refused(capsys, train(tmp_path / "file/run", *words))
    there = str(tmp_path / "no/scores.csv")
    assert "non-existent directory" in refused(capsys, main(["evaluate", run, "--predictions", there]))
    assert "must end in .csv or" in refused(capsys, main(["evaluate", run, "--predictions", "scores.txt"]))


def test_compare_prints_means_and_paired_gains(made, tmp_path, capsys):
    runs = [str(path) for path in sorted(made.iterdir())]
    figure = tmp_path / "all.png"
    words = ["--metric", "auc", "log_loss", "--baseline", "SharedBottom", "--figure", str(figure)]
    assert main(["compare", *runs, *words]) == 0
    out = capsys.readouterr().out
    tests = {path: Run.finished(path).test() for path in runs}
    auc = np.array(
        [[tests[str(made / f"{m}{s}")].loc["like", "auc"] for s in (0, 1)] for m in ("PLE", "SharedBottom")]
    )
    mean, sd, gain = auc.mean(axis=1), auc.std(axis=1, ddof=1), (auc[0] - auc[1])
    assert f"{mean[0]:.4f} +- {sd[0]:.4f}" in out and f"{mean[1]:.4f} +- {sd[1]:.4f}" in out
    assert f"{gain.mean():+.4f} +- " in out and f"({(gain > 0).sum()} of 2)" in out
    assert figure.stat().st_size > 10_000


def test_compare_names_what_differs(made, tmp_path, capsys):
    assert train(tmp_path / "wide", *MADE, *SHORT, "--set", "bottom=16", model="SharedBottom") == 0
    figure = ["--figure", str(tmp_path / "c.png")]
    assert main(["compare", str(made / "SharedBottom0"), str(tmp_path / "wide"), *figure]) == 0
    out = capsys.readouterr().out
    assert "SharedBottom bottom=[8]" in out and "SharedBottom bottom=[16]" in out and "lr=" not in out
    twice = ["compare", str(made / "PLE0"), str(made / "PLE0"), *figure]
    assert "Two runs are PLE with seed 0" in refused(capsys, main(twice))
    assert train(tmp_path / "other", *MADE[:3], "rows=2000", *SHORT) == 0
    capsys.readouterr()
    other = ["compare", str(made / "PLE0"), str(tmp_path / "other"), *figure]
    assert "was trained on other data" in refused(capsys, main(other))
    none = ["compare", str(made / "PLE0"), str(made / "SharedBottom1"), *figure]
    assert "no seed in common" in refused(capsys, main(none))


def test_diagnose_shows_gates_and_conflicts(made, capsys):
    assert main(["diagnose", str(made / "PLE0")]) == 0
    out = capsys.readouterr().out
    for words in ("Cosine of the tasks' gradients", "Mean weight of each expert", "level 2", "Illnesses"):
        assert words in out
    folder = made / "PLE0/diagnosis"
    weights = pd.read_csv(folder / "gates_1.csv", index_col=0)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert {p.stem for p in folder.glob("*.png")} >= {"gradient_cosine", "gates_1", "gates_2", "experts_1"}
    assert main(["diagnose", str(made / "SharedBottom0")]) == 0
    assert "SharedBottom has no gates" in capsys.readouterr().out


def test_an_exported_model_says_what_the_model_says(own, tmp_path, capsys):
    folder, _ = own
    file = tmp_path / "model.pt2"
    assert main(["export", str(folder / "run"), "--file", str(file)]) == 0
    assert "largest difference to the model on batches of 256, 1000 and 2 rows" in capsys.readouterr().out
    model, program = Run.finished(folder / "run").model(), torch.export.load(file).module()
    ids, dense = torch.randint(0, 4, (37, 3)), torch.randn(37, 2)
    torch.testing.assert_close(program(ids, dense), model(ids, dense))


def test_data_says_what_is_there(own, capsys):
    folder, _ = own
    assert main(["data", str(folder / "log.csv"), "--schema", str(folder / "schema.toml")]) == 0
    out = capsys.readouterr().out
    assert "user (41)" in out and "2 dense features: age, seconds" in out and "40 users" in out
    assert main(["data", "relatedness", "--data-set", "cosine=0.5"]) == 0
    assert "label_correlation" in capsys.readouterr().out


def test_the_commands_of_readme_run(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    commands, schema = (re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S) for kind in ("bash", "toml"))
    monkeypatch.chdir(tmp_path)
    Path("schema.toml").write_text(schema[0])
    log().to_csv("log.csv", index=False)
    log(100, seed=1).drop(columns=["like", "minutes"]).to_csv("new.csv", index=False)
    lines = "".join(commands).splitlines()
    assert len(lines) == 8
    for line in lines:
        python, dash_m, package, *words = shlex.split(line)
        assert (python, dash_m, package) == ("python", "-m", "mtlkit")
        assert main([*words, "--quiet"] if words[0] == "train" else words) == 0, capsys.readouterr().err
    assert list(pd.read_csv("scores.csv")) == ["like", "minutes"] and Path("runs/comparison.png").exists()


# --- bad input ------------------------------------------------------------------------------------

BAD = {
    "model": (["--model", "Transformer", *MADE], "there is no 'Transformer'; there are AdaTT, CGC"),
    "size": ([*MADE, "--set", "widths=3"], "--set: MMoE has no 'widths'; it has experts, expert, tower"),
    "form": ([*MADE, "--set", "experts"], "'experts' is not of the form name=value"),
    "twice": ([*MADE, "--set", "experts=1", "experts=2"], "experts is given twice"),
    "needed": (["--model", "SharedBottom", *MADE], "SharedBottom needs bottom"),
    "type": (
        [*MADE, "--set", "experts=many"],
        "--set: experts takes whole numbers, such as 8 or 64,32; got 'many'",
    ),
    "fraction": ([*MADE, "--set", "expert=8.5"], "--set: expert takes whole numbers"),
    "truth": ([*MADE, "--set", "expert_norm=no"], "--set: expert_norm takes True or False; got 'no'"),
    "share": (
        ["--model", "CrossStitch", *MADE, "--set", "bottom=8", "own=much"],
        "CrossStitch cannot be built with these sizes",
    ),
    "data": (["--data", "movies"], "movies is no file; name a .csv or .parquet file"),
    "data option": (
        ["--data", "short_video", "--data-set", "row=3"],
        "short_video has no 'row'; it has rows, users",
    ),
    "data option needed": (["--data", "relatedness"], "relatedness needs cosine"),
    "schema of a set": ([*MADE, "--schema", "x.toml"], "for files of your own"),
    "task": (["--data", "short_video", "--data-set", "rows=2000", "--tasks", "love"], "Unknown task 'love'"),
    "monitor": ([*MADE, "--monitor", "auc"], "monitor='auc' is not among the validation figures"),
    "a weight": ([*MADE, "--task-weights", "like=much"], "task 'like' cannot have the weight 'much'"),
    "weights": ([*MADE, "--task-weights", "love=2"], "no task 'love'"),
    "device": ([*MADE, "--device", "gpu"], "device='gpu' is no torch device"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_words_get_one_sentence(tmp_path, capsys, fault):
    words, sentence = BAD[fault]
    model = [] if "--model" in words else ["--model", "MMoE"]
    code = main(["train", *model, *words, "--out", str(tmp_path / "run"), "--quiet"])
    assert sentence in refused(capsys, code)


def test_under_torchrun_one_process_says_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert train(tmp_path / "run", "--data", "movies") == 1
    assert capsys.readouterr().err == ""


def test_what_stops_one_of_the_others_is_said(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(command, "place", lambda: (1, 2))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(command.dist, name, lambda *_: None)
    for error, said in (
        (OSError("disk full"), "Process 1: disk full\n"),
        (DataError("log.csv, row 3: no number"), "Process 1: log.csv, row 3: no number\n"),
        (ValueError("fit: epochs"), ""),
        (FirstStopped("Process 0 stopped"), ""),
    ):
        with pytest.raises(type(error)), command.processes("cpu"):
            raise error
        assert capsys.readouterr().err == said


def test_a_file_needs_its_schema(tmp_path, capsys):
    path = write(tmp_path)
    assert "needs --schema FILE.toml" in refused(capsys, train(tmp_path / "run", "--data", path))
    words = ["--data", path, "--schema", tmp_path / "schema.toml", "--tasks", "love"]
    assert "no label 'love'" in refused(capsys, train(tmp_path / "run", *words))
    assert "cannot be read" in refused(
        capsys, train(tmp_path / "run", "--data", path, "--schema", "none.toml")
    )
    assert "is no run of mtlkit" in refused(capsys, main(["export", str(tmp_path)]))


@pytest.mark.parametrize("part", ["pyarrow", "safetensors"])
def test_without_the_cli_extra_it_says_what_to_install(tmp_path, monkeypatch, capsys, part):
    for name in [
        n
        for n in sys.modules
        if n.split(".")[0] == part or n.startswith(("mtlkit.data.files", "mtlkit.data.enc"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, part, None)
    path = write(tmp_path, name="log.csv")
    said = refused(
        capsys, train(tmp_path / "run", "--data", path, "--schema", tmp_path / "schema.toml", *SHORT)
    )
    assert said == f"This needs {part}: run `pip install 'mtlkit[cli]'`.\n"


def test_the_package_loads_without_them():
    """pandas loads pyarrow by itself where it is there."""
    code = "import sys, mtlkit.training, mtlkit.data, mtlkit.ensemble; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"safetensors", "mtlkit.data.files", "mtlkit.cli"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("8", 8), ("0.5", 0.5), ("True", True), ("None", None), ("watch", "watch"), ("64,32", [64, 32])],
        *[
            ("64/32,16", [[64], [32, 16]]),
            ("/a/b,c", ["/a/b", "c"]),
            ("a,b", ["a", "b"]),
            ("2024-05-04", "2024-05-04"),
        ],
    ],
)
def test_values_of_the_command_line(text, value):
    assert options.parse([f"x={text}"], "--set") == {"x": value}


def test_a_lone_number_becomes_the_list_that_is_meant():
    assert options.sizes("MMoE", ["expert=16", "experts=2"]) == {"expert": [16], "experts": 2}
    assert options.sizes("PLE", ["levels=16,8", "task_experts=2"]) == {"levels": [[16, 8]], "task_experts": 2}
    assert options.sizes("HoME", ["levels=16/8", "task_experts=1,2"]) == {
        "levels": [[16], [8]],
        "task_experts": [1, 2],
    }
