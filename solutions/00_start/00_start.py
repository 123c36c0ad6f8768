# %% [markdown]
# # 00 · Start here
#
# This series teaches you **multi-task recommender models**: models that look at one user and one video and
# guess several things at once. Will she click? Will she like it? Will she watch to the end?
#
# You will build four of them with your own hands, each from the one before:
# Shared-Bottom, MMoE, PLE and HoME.
#
# This first notebook takes about 15 minutes. It shows you three things:
#
# 1. that your computer is ready,
# 2. how a check talks to you,
# 3. the letters that all notebooks use.

# %% [markdown]
# ## 1 · Is everything installed?
#
# Run the next cell (Shift + Enter). Each line should start with `[OK]`.

# %%
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

for line in requires("mtlkit"):
    need = Requirement(line)
    extra = str(need.marker or "")
    if "dev" in extra:
        continue
    try:
        found = version(need.name)
        word = "OK" if need.specifier.contains(found, prereleases=True) else "FAIL"
    except PackageNotFoundError:
        found, word = "missing", "FAIL"
    print(f"[{word}] {need.name} (needs {need.specifier})")
    if word == "FAIL":
        print(f"       you have: {found}. In the project folder, run: make lab")

# %% tags=["setup"]
import torch

from autograde_tests import check, verdict
from mtlkit.device import pick_device

print("The checks run on:", pick_device().type)

# %% [markdown]
# Every line says OK? Good. If one says FAIL, close JupyterLab, go to the project folder in a terminal and run
# `make lab` again. It repairs the environment.
#
# Do you have a graphics card? The checks use it if you start JupyterLab with `MTLKIT_DEVICE=cuda make lab`.
# You do not need one: every notebook of the series runs on a laptop.

# %% [markdown]
# ## 2 · How a check talks to you
#
# Below each exercise stands a check. You write code, you run the check, and the check tells you what it thinks.
# It does not only say "wrong". It tries to find out *what* went wrong.
#
# Here is a wrong answer to the exercise below. Read what the check says about it.


# %%
def careless_rate(labels, observed):
    return labels.mean(dim=0)


print(verdict("0.1", careless_rate))

# %% [markdown]
# Three parts, in this order:
#
# * **what was tried**: here an example with three users that somebody worked out by hand,
# * **what your numbers mean**: which mistake gives exactly these numbers,
# * **a question** for you. The check never types the answer for you.
#
# The check does not know every mistake. If it does not know yours, it shows you the first wrong number instead:
# `expected ..., got ...`.
#
# There are three marks: `✓` right, `✗` not yet right, `○` not attempted yet.
# A red check does not stop you. The rest of the notebook runs anyway, so you can come back later.

# %% [markdown]
# ### Exercise 0.1 · The positive rate of each task
#
# ★☆☆ easy · 5 minutes · 1 line
#
# You get two tables with a row for each user and a column for each task:
#
# * `labels` (B, T): 1 where the user did it (liked, clicked, ...), 0 where not,
# * `observed` (B, T): True where the label was really seen, False where nobody knows.
#
# Return the **positive rate** of each task, shape (T,): of the labels that were observed, the share that is 1.
# Where `observed` is False, `labels` holds a number without meaning. Do not count it.
#
# Worked example: the task *like* has the labels 1, 0, 1 and all three are observed. Its rate is 2/3.
# The task *click* has the labels 0, 1, 1, but the second one was not observed. Its rate is 1/2.
#
# <details><summary>Hint: I do not know how to leave out the unobserved cells</summary>
# True counts as 1 and False as 0 when you multiply. What is left of a cell after that?
# </details>
#
# <details><summary>Hint: my result has the wrong shape</summary>
# <code>sum(dim=0)</code> removes the first axis, <code>sum(dim=1)</code> the second one. Which letter has to stay?
# </details>


# %% tags=["answer:0.1"]
def rate(labels, observed):
    """Share of positives among the observed labels.   labels (B, T), observed (B, T) -> (T,)"""
    ### BEGIN SOLUTION
    return (labels * observed).sum(dim=0) / observed.sum(dim=0)  # (T,)
    ### END SOLUTION


# %% tags=["check:0.1", "points:5"]
check("0.1", rate)

# %% [markdown]
# Try it: break your answer on purpose. Use `dim=1`, or forget `observed`, and run the check again.
# Read each message. Then repair your answer.
#
# An error in your code is no problem either. The check shows you the error and *your* line, nothing else:


# %%
def broken_rate(labels, observed):
    return (labels * seen).sum(dim=0) / observed.sum(dim=0)


print(verdict("0.1", broken_rate))

# %% [markdown]
# ## 3 · The letters
#
# Shapes are half of deep learning. This series always uses the same letters:
#
# | letter | it counts | example |
# |---|---|---|
# | B | rows of a **batch** | 512 impressions |
# | F | categorical **fields** | user id, video id, hour |
# | D | **input width** of one row after encoding | 128 numbers |
# | E | **experts** | 8 small networks |
# | H | **width** of an expert's output | 32 numbers |
# | G | **gates** | one per task |
# | T | **tasks** | click, like, long view |
# | L | LoRAs (small matrices, only in notebook 04) | 2 |
#
# The batch always comes first. A comment at the end of a line tells you the shape, like `# (B, E, H)`.
#
# ### Exercise 0.2 · Spell three shapes
#
# ★☆☆ easy · 3 minutes · predict
#
# Return a dictionary. Each value is a word made of the letters above, in the order of the axes.
# For example the *embeddings of all fields* would have an axis for the rows and an axis for the fields first: "BF...".
#
# * `"one batch of inputs"`: encoded rows that go into a model
# * `"labels of all tasks"`: one label for each row and each task
# * `"outputs of all experts"`: each row goes through each expert
#
# <details><summary>Hint: which axis comes first?</summary>
# Look at the sentence right under the table.
# </details>


# %% tags=["answer:0.2"]
def shapes():
    """Three shapes, each spelled with the letters of the table."""
    ### BEGIN SOLUTION
    return {
        "one batch of inputs": "BD",
        "labels of all tasks": "BT",
        "outputs of all experts": "BEH",
    }
    ### END SOLUTION


# %% tags=["check:0.2", "points:5"]
check("0.2", shapes)

# %% [markdown]
# ## 4 · The data you will meet
#
# * **A generator with a knob.** Two tasks that are as related as you like. Nothing to download.
# * **Census-Income**: 299,285 people from two US surveys. Tasks: does a person earn more than 50,000 dollars,
#   did she never marry. About 10 MB, downloaded once when you first ask for it.
#
# Every data set comes as the same table. Here is one:

# %%
from mtlkit import data

table = data.relatedness(cosine=0.5, rows=1000)
print(table.tasks, "| rows:", len(table), "| dense features:", table.dense.shape)
table.summary().round(3)

# %% [markdown]
# `observed` counts the labels that are there. `label_mean` is the mean of a label, which is the positive rate
# when a label is 0 or 1. You computed just that in exercise 0.1.

# %% [markdown]
# ## 5 · How to hand in
#
# * **On your own:** green checks are all you need. To see your points, run in a terminal
#   `python -m autograde_tests notebooks/00_start/00_start.ipynb`.
# * **In a class:** save the notebook. Then hand it in the way your teacher told you, for example with
#   *Nbgrader → Assignment List → Submit* in JupyterLab.
#
# Please keep the cells where they are. Write only in the answer cells, and add cells of your own if you like.
#
# Before you hand in: *Kernel → Restart Kernel and Run All Cells*. Are all checks still green?
#
# **Next:** `01_shared_bottom`, your first multi-task model.
