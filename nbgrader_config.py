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

# Submissions are graded by the judge: it takes the answers out of them, everything else from the
# release, and decides outside of the process that runs a student's code (docs/instructor.md).
judge = "autograde_tests.judge.preprocessor"
c.Autograde.pre_convert_hook = f"{judge}.start"
c.Autograde.sanitize_preprocessors = [f"{judge}.Rebuild"]
late = "nbgrader.preprocessors.AssignLatePenalties"
c.Autograde.autograde_preprocessors = [f"{judge}.Ask", f"{judge}.Save", late]

# A student's Validate button runs the notebook itself, without training runs and figures, which
# no check needs; a warning or a progress bar on stderr is no wrong answer there either.
c.ExecutePreprocessor.timeout = 60
c.ExecutePreprocessor.skip_cells_with_tag = "experiment"
c.ExecutePreprocessor.shutdown_kernel = "immediate"
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"[\s\S]"
