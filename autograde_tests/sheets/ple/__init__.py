"""Notebook 03: CGC and PLE: experts of one's own, shared ones, and levels of them."""

from autograde_tests.sheets.ple import gains, gate, labels, level, loss, model, stack

EXERCISES = [
    gate.VISIBLE,
    gate.MASKED_GATE,
    model.CGC_MODEL,
    level.FUSE,
    stack.PLE_MODEL,
    stack.WHO_IS_TRAINED,
    loss.JOINT_LOSS,
    gains.GAIN,
    labels.LABEL_MATRIX,
]
