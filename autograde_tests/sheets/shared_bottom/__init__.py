"""Notebook 01: Shared-Bottom, its losses, its gradients, its figures."""

from autograde_tests.sheets.shared_bottom import gradients, losses, metrics, model, relatedness

EXERCISES = [
    losses.MASKED_BCE,
    model.ENCODE,
    model.SHARED_BOTTOM,
    gradients.PREDICT_GRADIENT,
    gradients.COSINE,
    metrics.AUC,
    metrics.GAUC,
    relatedness.KNOB,
    relatedness.WHERE_SHARING_HURTS,
    model.PLANTED_BUG,
]
