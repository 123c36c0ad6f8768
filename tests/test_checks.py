"""The tests of the tests: every named mistake is caught and named, every right variant passes."""

from __future__ import annotations

import os
import re
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import autograde_tests
from autograde_tests import CheckFailed, check, probe
from autograde_tests import verdict as judge_module
from autograde_tests.probe import ask
from autograde_tests.sheets import exercise, exercises
from autograde_tests.verdict import judge
from mtlkit import diagnosis, layers, losses, metrics, models

CPU = torch.device("cpu")
IDS = list(exercises())
# 200 seeds in all, in parts, so that two workers share them; 43 in every test run, all with `make seeds`
PARTS = [range(3), *(range(start, min(start + 40, 200)) for start in range(3, 200, 40))]
SEEDS = [
    pytest.param(part, marks=pytest.mark.heavy) if part.start else part
    for part in (PARTS if "MTLKIT_ALL_SEEDS" in os.environ else PARTS[:2])
]


def _judge_all(item, seed: int):
    """The verdicts on the reference, the right variants and the mistakes; each is asked only once."""
    trials, known, verdicts = item.trials(seed), {}, []
    for answer in (item.reference, *item.also_right, *item.mistakes.values()):
        replies = ask(answer, item.how, trials, CPU, may_use=("mtlkit.",))
        known |= {(id(answer), id(trial)): reply for trial, reply in zip(trials, replies, strict=False)}
        verdicts.append(replies)
    verdicts = [judge(item, trials, replies, CPU, known) for replies in verdicts]
    right = 1 + len(item.also_right)
    return verdicts[:right], dict(zip(item.mistakes, verdicts[right:], strict=True))


@pytest.mark.parametrize("exercise_id", IDS)
@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_right_answers_pass_and_every_mistake_is_caught_and_named(exercise_id, seeds):
    for seed in seeds:
        right, wrong = _judge_all(exercise(exercise_id), seed)
        for verdict in right:
            assert verdict.passed, f"seed {seed}: {verdict}"
        for sentence, verdict in wrong.items():
            assert not verdict.passed, f"seed {seed}: not caught: {sentence}"
            assert verdict.mistake == sentence, f"seed {seed}: {sentence!r} was taken for {verdict}"
            assert sentence in str(verdict)


@pytest.mark.parametrize("exercise_id", IDS)
def test_an_exercise_has_enough_mistakes_right_variants_and_a_worked_example(exercise_id):
    item = exercise(exercise_id)
    coding = item.draw is not None
    assert len(item.mistakes) >= (6 if coding else 3)
    assert len(item.also_right) >= (2 if coding else 1)
    assert item.example is not None or exercise_id == "1.10"  # there the bug itself is the example
    for sentence in item.mistakes:
        assert sentence.endswith("?"), f"a mistake ends in a question: {sentence}"


@pytest.mark.parametrize("exercise_id", [i for i in IDS if exercise(i).example and exercise(i).example.want])
def test_the_hand_worked_values_are_the_references(exercise_id):
    item = exercise(exercise_id)
    reply = ask(item.reference, item.how, [item.example], CPU, item.may_use)[0]
    for name, value in item.example.want.items():
        np.testing.assert_allclose(reply.arrays[name], value, rtol=1e-6)


def _blank(*_args, **_kwargs):
    raise NotImplementedError()


class _BlankModule(nn.Module):
    def __init__(self, *_args, **_kwargs):
        super().__init__()
        raise NotImplementedError()


@pytest.mark.parametrize("exercise_id", IDS)
def test_a_blank_answer_is_not_attempted(exercise_id):
    answer = _BlankModule if exercise(exercise_id).how == "module" else _blank
    verdict = autograde_tests.verdict(exercise_id, answer)
    assert not verdict.passed and "not attempted yet" in str(verdict) and "○" in str(verdict)


@pytest.mark.parametrize("exercise_id", IDS)
def test_foreign_things_get_one_clear_message(exercise_id):
    """None, a number, a string, a function without return, a class for a function: never our traceback."""
    for odd in (None, 3, "x", lambda *_: None, lambda *_: object(), nn.Linear, lambda: 1, print, len):
        verdict = autograde_tests.verdict(exercise_id, odd)
        assert not verdict.passed
        assert "autograde_tests" not in str(verdict) and "Traceback" not in str(verdict), (odd, str(verdict))
        assert len(str(verdict).splitlines()) <= 6


class _BorrowedModel(models.SharedBottom):
    def __init__(self, D, H, T):
        super().__init__(D, T, bottom=[H])


class _BorrowedEncoder(nn.Module):
    def __init__(self, sizes, width):
        super().__init__()
        self.tables = layers.FeatureEncoder(sizes, 1, width)

    def forward(self, ids, dense):
        return self.tables(ids, dense)


DELEGATES = {
    "1.1": lambda logits, labels: losses.task_losses(logits, labels, ["binary"] * logits.shape[1]),
    "1.2": _BorrowedEncoder,
    "1.3": _BorrowedModel,
    "1.5": lambda model, loss: diagnosis.gradient_cosine(loss, model.bottom.parameters()),
    "1.6": lambda scores, labels: metrics.auc(scores, labels),
    "1.7": lambda scores, labels, users: float(metrics.gauc(scores, labels, users)),
}


@pytest.mark.parametrize("exercise_id", DELEGATES)
def test_delegating_to_the_finished_part_is_caught_and_named(exercise_id):
    verdict = autograde_tests.verdict(exercise_id, DELEGATES[exercise_id])
    assert not verdict.passed
    assert "the finished part" in str(verdict) and "mtlkit." in str(verdict)


def test_delegation_is_seen_behind_another_name_and_in_a_container():
    hidden = {"f": losses.task_losses}
    verdict = autograde_tests.verdict(
        "1.1", lambda z, y: next(iter(hidden.values()))(z, y, ["binary"] * z.shape[1])
    )
    assert "mtlkit.losses.task_losses" in str(verdict)


def test_what_an_exercise_allows_is_no_delegation():
    def gauc(scores, labels, users):
        kept = [(users == u) for u in users.unique() if labels[users == u].unique().numel() == 2]
        return sum(int(m.sum()) * metrics.auc(scores[m], labels[m]) for m in kept) / sum(
            int(m.sum()) for m in kept
        )

    assert autograde_tests.verdict("1.7", gauc).passed


def test_a_warning_a_progress_bar_and_a_c_line_on_stderr_cost_nothing(capfd):
    from tqdm import tqdm

    def noisy(labels, observed):
        warnings.warn("careful", stacklevel=1)
        for _ in tqdm(range(3)):
            os.write(2, b"[W NNPACK.cpp] Could not initialize\n")
        return (labels * observed).sum(0) / observed.sum(0)

    check("0.1", noisy)
    out, err = capfd.readouterr()
    assert err == "" and "✓" in out


def test_a_crash_shows_the_error_and_the_students_own_line():
    def crash(logits, labels):
        masked = logits @ labels  # shapes do not fit
        return masked

    message = str(autograde_tests.verdict("1.1", crash))
    assert (
        "RuntimeError" in message and "masked = logits @ labels" in message and "site-packages" not in message
    )


def test_calling_a_container_is_a_crash_and_not_a_blank_answer():
    class Encoder(exercise("1.2").reference):
        def forward(self, ids, dense):
            return torch.cat([self.tables(ids), dense], dim=1)

    message = str(autograde_tests.verdict("1.2", Encoder))
    assert "not attempted" not in message and "ModuleList" in message and "self.tables(ids)" in message


def test_layers_without_a_bias_are_not_taken_for_a_plain_list():
    """The towers of 2.4 are trained and seen, only their biases are missing."""

    class Biasless(exercise("2.4").reference):
        def __init__(self, D, H, E, T):
            super().__init__(D, H, E, T)
            self.towers = nn.ModuleList(nn.Linear(H, 1, bias=False) for _ in range(T))

    class Listed(exercise("2.4").reference):
        def __init__(self, D, H, E, T):
            super().__init__(D, H, E, T)
            del self.towers
            self.towers = [nn.Linear(H, 1) for _ in range(T)]

    assert "self.towers has no bias" in _said("2.4", Biasless)
    assert "plain Python list" in _said("2.4", Listed)


def test_a_forgotten_shared_gate_is_named_whatever_the_forward_does():
    class Forgotten(exercise("3.5").reference):
        def __init__(self, D, H, experts):
            super().__init__(D, H, experts)
            self.first = models.cgc.Level(
                D, experts, [H], models.cgc.own_and_shared(experts, len(experts) - 1)
            )

    assert "the first level has no shared gate" in autograde_tests.verdict("3.5", Forgotten).mistake


def test_a_renamed_part_is_not_taken_for_a_hidden_one():
    class Renamed(nn.Module):
        def __init__(self, D, H, T):
            super().__init__()
            self.bottom, self.tower = nn.Linear(D, H), nn.Linear(H, T)

    assert "there is no self.towers; keep the names" in str(autograde_tests.verdict("1.3", Renamed))


def test_sys_exit_and_an_endless_loop_end_as_messages(monkeypatch):
    assert "SystemExit" in str(autograde_tests.verdict("0.1", lambda *_: sys.exit(0)))
    monkeypatch.setattr(probe, "SECONDS", 0.2)

    def endless(labels, observed):
        while True:
            labels.sum()

    assert "endless loop" in str(autograde_tests.verdict("0.1", endless))


def test_changed_inputs_lost_gradients_and_wrong_shapes_have_their_own_words():
    def in_place(labels, observed):
        labels *= observed
        return labels.sum(0) / observed.sum(0)

    def no_graph(logits, labels):
        return exercise("1.1").reference(logits.detach(), labels)

    def column(logits, labels):
        return exercise("1.1").reference(logits, labels)[:, None]

    def half_right(logits, labels):
        return exercise("1.1").reference(logits, labels) * torch.tensor(1.01)

    words = {
        "0.1": [(in_place, "is changed by your code")],
        "1.1": [(no_graph, "no gradient of logits arrives"), (column, "= (T,)"), (half_right, "expected")],
    }
    for exercise_id, cases in words.items():
        for answer, phrase in cases:
            assert phrase in str(autograde_tests.verdict(exercise_id, answer)), phrase


def test_a_list_that_an_answer_changes_is_named_and_the_next_answer_finds_it_whole():
    def emptied(own, shared):
        return exercise("3.1").reference([own.pop(0) for _ in range(len(own))], shared)

    class Longer(exercise("3.5").reference):
        def __init__(self, D, H, experts):
            super().__init__(D, H, experts)
            experts.append(1)

    for exercise_id, answer, name in (("3.1", emptied, "own"), ("3.5", Longer, "experts")):
        assert f"the input `{name}` is changed" in str(autograde_tests.verdict(exercise_id, answer))
        assert autograde_tests.verdict(exercise_id, exercise(exercise_id).reference).passed


def _said(exercise_id, answer):
    return str(autograde_tests.verdict(exercise_id, answer))


def test_a_float32_tensor_among_float64_numbers_is_explained():
    def single(logits, labels):
        seen = (~labels.isnan()).float()
        each = nn.functional.softplus(logits) - logits * labels.nan_to_num()
        return torch.einsum("bt,bt->t", each, seen) / seen.sum(0).clamp(min=1)

    assert "The inputs are float64 here" in _said("1.1", single)


def test_lists_texts_and_empty_entries_have_their_own_words():
    right = exercise("2.5").reference
    listed = _said("2.5", lambda weights: right(weights) | {"mean": right(weights)["mean"].tolist()})
    assert "['mean'] has several parts; one tensor is expected" in listed
    assert "['mean'] is still empty" in _said("2.5", lambda weights: right(weights) | {"mean": None})
    quiz = exercise("2.0").reference()
    assert autograde_tests.verdict("2.0", lambda: {key: f" {v.upper()}" for key, v in quiz.items()}).passed
    assert "'b)' is none of the answers" in _said("2.0", lambda: quiz | {"missing label": "b)"})
    guess = exercise("3.6").reference()
    assert "is a text; give True or False" in _said("3.6", lambda: guess | {"two levels: B's tower": "False"})
    assert "builds a layer" in _said("2.1", lambda x, W: nn.Softmax(dim=1))
    assert "numpy cuts the gradients off" in _said("1.1", lambda logits, labels: logits.numpy())
    assert "changed in place" in _said("1.8", lambda u1, u2, p, c: u1.mul_(p))


def test_two_numbers_that_differ_late_are_shown_with_more_digits():
    def nearly(logits, labels):
        return exercise("1.1").reference(logits, labels) * 1.00015

    expected, got = re.search(r"expected (\S+), got (\S+)", _said("1.1", nearly)).groups()
    assert expected != got


def test_a_worked_examples_chance_is_no_name():
    """One trial that agrees with a mistake is not enough: here the average over users is another one."""

    def over_tasks(weights):
        right = exercise("2.5").reference(weights)
        return right | {"entropy": -torch.xlogy(weights, weights).sum(1).mean(0)}

    assert autograde_tests.verdict("2.5", over_tasks).mistake == ""


@pytest.mark.parametrize(
    "exercise_id, unlisted, near",
    [
        ("3.3", "that a task sees are added up", "softmax runs over the batch"),
        ("4.1", "zeros are divided by the number of users", "a share of users"),
        ("4.6", "the own part is added twice", "2 sigmoid"),
        ("2.4", "mixture of the next task", "reverse order"),
    ],
)
def test_trials_in_which_many_mistakes_are_the_same_are_no_evidence(exercise_id, unlisted, near):
    """With one user or one expert the unlisted mistake has the numbers of another one."""
    item = exercise(exercise_id)
    answer = next(wrong for sentence, wrong in item.mistakes.items() if unlisted in sentence)
    others = {sentence: wrong for sentence, wrong in item.mistakes.items() if wrong is not answer}
    assert any(near in sentence for sentence in others)
    trials = item.trials(0)
    replies = ask(answer, item.how, trials, CPU, may_use=("mtlkit.",))
    assert near not in judge(replace(item, mistakes=others), trials, replies, CPU).mistake


def test_calling_a_list_of_layers_gets_a_hint():
    class Called(exercise("2.4").reference):
        def forward(self, x):
            return self.towers(x)

    assert "A ModuleList is a list of layers: loop over it." in _said("2.4", Called)


def test_a_wrong_array_in_a_dictionary_is_named_with_its_key():
    def part_wrong(change):
        def answer(*inputs):
            use = exercise("2.5").reference(*inputs)
            return use | {"entropy": change(use["entropy"])}

        return str(autograde_tests.verdict("2.5", answer))

    assert "['entropy']: expected the shape" in part_wrong(lambda entropy: entropy[:, None])
    assert "['entropy'] at [0]: expected 0.6931" in part_wrong(lambda entropy: entropy * 1.01)


def test_a_red_check_is_one_message_without_our_traceback():
    with pytest.raises(CheckFailed) as failure:
        check("0.1", lambda labels, observed: labels.mean(0))
    lines = failure.value._render_traceback_()
    assert lines[0].startswith("\x1b[31m[0.1] ✗") and not any("Traceback" in line for line in lines)


def test_a_check_leaves_the_random_generator_threads_and_profiler_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    autograde_tests.verdict("1.3", exercise("1.3").reference)
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads and sys.getprofile() is None


def test_seeds_decide_the_trials():
    first, again, other = (exercise("1.1").trials(seed)[1].inputs["logits"] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and first.shape != other.shape or not np.array_equal(first, other)


def test_an_unknown_exercise_and_a_missing_gpu_say_so(monkeypatch):
    with pytest.raises(ValueError, match=r"no exercise '9.9'; there are 0.1"):
        check("9.9", len)
    if not torch.cuda.is_available():
        monkeypatch.setenv("MTLKIT_DEVICE", "cuda")
        with pytest.raises(RuntimeError, match="no CUDA device on this machine"):
            check("0.1", len)
    monkeypatch.setenv("MTLKIT_DEVICE", "abacus")
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"):
        check("0.1", len)


@pytest.mark.gpu
@pytest.mark.parametrize("exercise_id", IDS)
def test_checks_run_on_a_gpu(exercise_id, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    monkeypatch.setenv("MTLKIT_DEVICE", "cuda")
    item = exercise(exercise_id)
    for answer in (item.reference, *item.also_right):
        assert autograde_tests.verdict(exercise_id, answer).passed
    for sentence, wrong in item.mistakes.items():
        assert autograde_tests.verdict(exercise_id, wrong).mistake == sentence


def test_the_two_halves_share_plain_data_only():
    """A reply is arrays and words, a trial is arrays and numbers: both can cross a process border."""

    def plain(value) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or isinstance(value, (np.ndarray, str, int, float, bool))

    for item in exercises().values():
        trials = item.trials(0)
        assert all(plain(vars(trial)) for trial in trials)
        assert all(plain(vars(reply)) for reply in ask(item.reference, item.how, trials, CPU))
    source = open(probe.__file__).read()
    assert "sheets" not in source.split('"""', 2)[2].replace('"sheets" not in frame.filename', "")
    assert not hasattr(probe, "judge") and judge_module is not None
