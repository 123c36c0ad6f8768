"""Notebook 04: HoME: three illnesses of experts, and a remedy for each."""

from autograde_tests.sheets.home import experts, features, level, look, mask, model, selves, switches

EXERCISES = [
    look.EXPERT_OUTPUTS,
    look.MAIN_SHARE,
    experts.HOME_EXPERTS,
    mask.LEVEL_2,
    features.FEATURE_GATE,
    selves.SELF_GATE,
    level.LEVEL,
    model.WHO_IS_TRAINED,
    model.HOME_MODEL,
    switches.SWITCHES,
]
