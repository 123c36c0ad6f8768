"""Notebook 05: your own claim. Equal budgets, a table of runs, and a score to rank by."""

from autograde_tests.sheets.capstone import budget, ranking, results

EXERCISES = [
    budget.NEAREST_WIDTH,
    results.MY_RESULTS,
    ranking.SCORE,
    ranking.TOP_K,
]
