"""Notebook 02: MMoE, its gate, its experts, and what they do."""

from autograde_tests.sheets.mmoe import experts, gate, model, predictions, use

EXERCISES = [
    predictions.QUIZ,
    gate.GATE,
    experts.EXPERT_BANK,
    experts.MIX,
    model.MMOE,
    use.EXPERT_USE,
    predictions.SPECIAL_CASES,
    gate.MENDED_GATE,
    predictions.KNOB,
]
