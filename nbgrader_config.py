"""nbgrader's settings for this course; every `nbgrader` command run from this folder reads them."""

from pathlib import Path

c = get_config()  # noqa: F821  (nbgrader puts it there)

# The folders: the masters are built by `python -m tools.build`, students open notebooks/.
c.CourseDirectory.course_id = "mtlkit"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "notebooks"

# The scripts hold the answers. The list also holds for what students hand in, so a submitted
# torch.py cannot take the place of the real one.
c.CourseDirectory.ignore = ["*.py", "*.pyc", "__pycache__", ".*", "feedback"]

# Beside this file, whatever the current folder; gradings that run at once wait for each other up
# to 120 s, where the default of 5 s ends in "database is locked".
c.CourseDirectory.db_url = f"sqlite:///{Path(__file__).resolve().parent / 'gradebook.db'}?timeout=120"

# What stands in place of a solution; the checks read it as "not attempted yet".
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError()"}

# Seconds per cell. Set here and not on Execute, whose own value would win over the command line.
c.ExecutePreprocessor.timeout = 60

# Training runs and figures, which no check needs, are not run when grading or validating. (A
# student can put this tag on a check, as nbgrader's own skip-execution: trust the judge's verdict.)
c.ExecutePreprocessor.skip_cells_with_tag = "experiment"

# Nothing is left to save in the kernel once its cells have run: one second less per submission.
c.ExecutePreprocessor.shutdown_kernel = "immediate"

# nbgrader gives a check 0 points for any text on stderr; a warning, a progress bar or a line of
# a C++ library is no wrong answer. An exception still is: it does not go to stderr.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"[\s\S]"

# A check that the student deleted comes back, instead of "needs manual grade".
c.OverwriteCells.add_missing_cells = True
