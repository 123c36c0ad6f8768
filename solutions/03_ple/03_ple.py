# %% [markdown]
# # 03 · PLE: experts of one's own, and levels of them
#
# In notebook 02 every task could ask every expert. Nothing kept an expert for one task, and nothing kept one for all.
#
# Here is the next idea. Some experts belong to **one task**: no other task may ask them. Some are **shared**. Each
# gate weighs what its task may see. This model is called **CGC**, *customized gate control*.
# Put two of its levels on top of each other and you have **PLE**, *progressive layered extraction*.
#
# After this notebook you can
#
# * write down who may see whom, as a table of True and False,
# * write a gate that keeps to this table, and CGC around it,
# * say what the shared gate is for, and stack two levels,
# * tell which parameters the loss of a task can reach, and which it cannot,
# * train tasks that were not observed on the same rows,
# * compare models of the same size, task by task, and recognise a **seesaw**,
# * find out how a published table got an AUC below 0.5.
#
# It takes about 90 minutes. There are nine exercises, 100 points in all.
#
# Paper: H. Tang et al., *Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for
# Personalized Recommendations* (the **PLE paper**), RecSys 2020. All equations below are numbered as there.

# %% tags=["setup"]
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from autograde_tests import check
from mtlkit import data, diagnosis, ensemble, models, plots, training
from mtlkit.models.cgc import Level, own_and_shared

torch.set_num_threads(1)  # small models: threads would wait for each other longer than they work

# %% [markdown]
# ## 1 · Who may see what
#
# All models of this series are experts, gates, and a table: which gate (row) sees which expert (column)?
# In MMoE every cell is True. In CGC a task sees **its own** experts and the **shared** ones.

# %% tags=["experiment", "figure:3_1_who_sees_whom"]
ax = plots.who_sees_whom(
    [[1, 1, 0, 1, 1], [0, 0, 1, 1, 1]],
    ["like", "click"],
    ["like's 0", "like's 1", "click's", "shared 0", "shared 1"],
    "CGC",
)
plots.show(
    ax,
    "A table with two rows, like and click, and five columns. Like sees its own two experts and the two shared "
    "ones. Click sees its own single expert and the two shared ones.",
)

# %% [markdown]
# ### Exercise 3.1 · The table
#
# ★☆☆ easy · 10 minutes · about 6 lines
#
# You get `own`, a list with the number of experts of each task, and `shared`, one number: the shared experts.
# Return the table (T, E), True where a task sees an expert. The columns stand in this order: the experts of task 0,
# those of task 1, and so on; the shared ones come last. Nothing may be shared at all: `shared` can be 0.
#
# Worked example: the table above. `own` is [2, 1] and `shared` is 2. Row *like* is (1, 1, 0, 1, 1), row *click* is
# (0, 0, 1, 1, 1).
#
# <details><summary>Hint: where does the part of a task begin?</summary>
# Count the experts of all tasks before it. You can keep a running sum in your loop.
# </details>
#
# <details><summary>Hint: I want to do it without a loop</summary>
# Write down the owner of each column: 0, 0, 1, 2, 2 in the example, where 2 stands for "shared". Which two
# comparisons make a row out of it?
# </details>


# %% tags=["answer:3.1"]
def who_sees_whom(own, shared):
    """Which task sees which expert.   -> (T, E), True or False"""
    ### BEGIN SOLUTION
    total = sum(own) + shared
    visible = torch.zeros(len(own), total, dtype=torch.bool)
    visible[:, sum(own) :] = True  # the shared experts, for every task
    first = 0
    for task, n in enumerate(own):
        visible[task, first : first + n] = True  # its own
        first += n
    return visible  # (T, E)
    ### END SOLUTION


# %% tags=["check:3.1", "points:10"]
check("3.1", who_sees_whom)

# %% [markdown]
# From here the notebook uses `mtlkit.models.cgc.own_and_shared`. It takes one list, the shared number last:

# %%
own_and_shared([2, 1, 2], tasks=2).int()

# %% [markdown]
# ## 2 · A gate that keeps to the table
#
# The gate itself is that of notebook 02: one matrix and a softmax (Eq. 3). New is that some experts are hidden from
# it. A hidden expert has the weight 0, **exactly**. And the weights of the others sum to 1.
#
# ### Exercise 3.2 · The masked gate
#
# ★★☆ medium · 10 minutes · 2 or 3 lines
#
# You get `x` (B, D), the matrices of all gates `W` (T, E, D), and the table `visible` (T, E). Return the weights
# (B, T, E).
#
# Worked example: one user. *like* sees the experts 0 and 2. Its logits are (log 3, 5, 0), and the 5 must not count:
# the weights are (¾, 0, ¼). *click* sees 1 and 2. Its logits are (7, 0, log 4): the weights are (0, ⅕, ⅘).
#
# <details><summary>Hint: which logit has the weight 0 after the softmax?</summary>
# The softmax takes exp of it. For which number is exp exactly 0? <code>masked_fill</code> puts a number where a
# mask is True.
# </details>
#
# <details><summary>Hint: how do I multiply x with all matrices at once?</summary>
# <code>torch.einsum</code>: x is "bd", W is "ted", and "bte" comes out.
# </details>


# %% tags=["answer:3.2"]
def masked_gate(x, W, visible):
    """The weights of all tasks' gates.   (B, D), (T, E, D), (T, E) -> (B, T, E)"""
    ### BEGIN SOLUTION
    logits = torch.einsum("bd,ted->bte", x, W)  # (B, T, E)
    return logits.masked_fill(~visible, -torch.inf).softmax(dim=2)
    ### END SOLUTION


# %% tags=["check:3.2", "points:10"]
check("3.2", masked_gate)

# %% [markdown]
# From here the notebook uses `mtlkit.layers.Gates`. It takes the same table.

# %% [markdown]
# ## 3 · CGC
#
# Now the model. Task k mixes the experts that it sees, $S^k(x)$, and its tower reads the mixture (Eq. 2 to 5):
#
# $$g^k(x) = w^k(x)\, S^k(x), \qquad w^k(x) = \mathrm{softmax}(W_g^k\, x), \qquad y^k(x) = t^k\big(g^k(x)\big)$$
#
# Mind the letters, they are the paper's: in notebook 02 $g^k$ was the gate and $f^k$ the mixture. Here $w^k$ is the gate
# and $g^k$ the mixture.
#
# $S^k(x)$ lists the task's **own experts first, then the shared ones**. So $W_g^k$ has a row for each of these, and
# no row for a hidden expert.
#
# ### Exercise 3.3 · CGC
#
# ★★★ hard · 15 minutes · about 10 lines
#
# Every task has `own` experts, and there are `shared` more. Here `own` is **one number**, the same for all tasks (in
# 3.1 it was a list). Either number can be 0. Three parts, with these names:
#
# * `self.experts`: T·own + shared linear layers D → H, in the order of exercise 3.1. A ReLU follows each in
#   `forward`.
# * `self.gates`: for each task one linear layer D → own + shared **without bias**. Its first outputs weigh the task's
#   own experts.
# * `self.towers`: for each task one linear layer H → 1.
#
# `forward`: x (B, D) → logits (B, T). Write it with torch alone. D and H can differ.
#
# Worked example: x = (1, 2), one expert each. That of *like* gives (3, 0), that of *click* (2, 1), the shared one
# (1, 2). The gate of *like* says (½, ½), so its mixture is (2, 1). With the weights (2, 2) and the bias 1 its logit
# is 7. The gate of *click* says (¾, ¼), the mixture is (1.75, 1.25). With the weights (-4, 4) its logit is -2.
#
# <details><summary>Hint: shapes step by step</summary>
# All experts, stacked: (B, E, H). What task t sees, a piece of it: (B, own + shared, H). Its weights:
# (B, own + shared). Its mixture: (B, H).
# </details>
#
# <details><summary>Hint: how do I cut out what task t sees?</summary>
# Two slices of the expert axis, side by side with <code>torch.cat</code>. Count where each begins and ends, and mind
# that a slice from "minus 0" on is the whole axis.
# </details>


# %% tags=["answer:3.3"]
class CGC(nn.Module):
    """x (B, D) -> logits (B, T)"""

    def __init__(self, D, H, own, shared, T):
        super().__init__()
        self.own, self.shared, self.T = own, shared, T
        ### BEGIN SOLUTION
        self.experts = nn.ModuleList(nn.Linear(D, H) for _ in range(T * own + shared))
        self.gates = nn.ModuleList(nn.Linear(D, own + shared, bias=False) for _ in range(T))
        self.towers = nn.ModuleList(nn.Linear(H, 1) for _ in range(T))
        ### END SOLUTION

    def forward(self, x):
        ### BEGIN SOLUTION
        h = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)  # (B, E, H)
        common, logits = h[:, self.T * self.own :], []
        for t in range(self.T):
            mine = h[:, t * self.own : (t + 1) * self.own]
            seen = torch.cat([mine, common], dim=1)  # (B, own + shared, H)
            w = self.gates[t](x).softmax(dim=1)  # (B, own + shared)
            logits.append(self.towers[t]((w.unsqueeze(2) * seen).sum(dim=1)))
        return torch.cat(logits, dim=1)  # (B, T)
        ### END SOLUTION


# %% tags=["check:3.3", "points:15"]
check("3.3", CGC)

# %% [markdown]
# From here the notebook uses `mtlkit.models.CGC`. Its `forward` is one line: a `Level`, and towers.

# %% [markdown]
# ## 4 · The shared gate
#
# We want to put a second level on the first. Each of its experts needs an input. The experts of *like* read
# the mixture of *like*, those of *click* read the mixture of *click*. What do the **shared** experts read?
#
# They get a mixture of their own. A level below another has one more gate, the **shared gate**. It sees **all**
# experts: those of every task and the shared ones. This is the part of PLE that public code misses most often. Some
# have no shared gate. In others it sees the shared experts only.

# %% tags=["experiment", "figure:3_4_shared_gate"]
ax = plots.who_sees_whom(
    own_and_shared([2, 1, 2], tasks=2, shared_gate=True),
    ["like", "click", "shared"],
    ["like's 0", "like's 1", "click's", "shared 0", "shared 1"],
    "level 1 of PLE",
)
plots.show(
    ax,
    "The table of CGC with a third row, the shared gate. Like and click see what they saw before. The shared gate "
    "sees all five experts.",
)

# %% [markdown]
# ### Exercise 3.4 · One level with a shared gate
#
# ★★☆ medium · 10 minutes · about 4 lines
#
# Now every module may have an input of its own: each task is a module, and the shared experts are one more, the last.
# You get
#
# * `g` (B, T+1, D): row k is the input of module k, and so of its gate,
# * `experts` (B, E, H): what the experts gave,
# * `W` (T+1, E, D): a matrix per gate, that of the shared gate last,
# * `visible` (T, E): the table of the tasks, *without* the row of the shared gate.
#
# Return the mixtures of all gates (B, T+1, H), that of the shared gate last. Write it with torch alone, without
# `layers.Gates` and `layers.mix`.
#
# Worked example: three experts with one unit. That of *like* gives 4, that of *click* 8, the shared one 0. The task
# gates have equal weights: *like* gets (4 + 0) / 2 = 2, *click* gets (8 + 0) / 2 = 4. The shared gate says (¼, ½,
# ¼): 1 + 4 + 0 = 5.
#
# <details><summary>Hint: how do I add a row to the table?</summary>
# <code>torch.cat</code> along the first axis. What stands in each cell of the new row?
# </details>
#
# <details><summary>Hint: the letters</summary>
# Inputs "bgd" and matrices "ged" make logits "bge": each gate meets its own input.
# </details>


# %% tags=["answer:3.4"]
def fuse(g, experts, W, visible):
    """What each gate makes of the experts.   (B, T+1, D), (B, E, H), (T+1, E, D), (T, E) -> (B, T+1, H)"""
    ### BEGIN SOLUTION
    visible = torch.cat([visible, torch.ones_like(visible[:1])])  # (T + 1, E)
    logits = torch.einsum("bgd,ged->bge", g, W)  # (B, T + 1, E)
    weights = logits.masked_fill(~visible, -torch.inf).softmax(dim=2)
    return torch.bmm(weights, experts)  # (B, T + 1, H)
    ### END SOLUTION


# %% tags=["check:3.4", "points:15"]
check("3.4", fuse)

# %% [markdown]
# From here the notebook uses `mtlkit.models.cgc.Level`: the experts and the gates of one level. You give it four things:
#
# * the input width,
# * the number of experts of each module, the shared one last,
# * the widths of an expert's layers **as a list**: `[3]` is one layer that gives 3 numbers,
# * the table. With `shared_gate=True`, `own_and_shared` adds the row of the shared gate; without it there is none.

# %%
torch.manual_seed(0)
level = Level(4, [2, 1, 2], [3], own_and_shared([2, 1, 2], tasks=2, shared_gate=True))
users = torch.randn(5, 4)  # (B, D), one input for all modules
print("from (B, D):      ", tuple(level(users).shape))
print("from (B, T+1, D): ", tuple(level(torch.randn(5, 3, 4)).shape))

# %% [markdown]
# ## 5 · Levels on levels
#
# Level j of PLE (Eq. 6), for every module k, be it a task or the shared one:
#
# $$g^{k,j}(x) = w^{k,j}\big(g^{k,j-1}(x)\big)\, S^{k,j}(x), \qquad g^{k,0}(x) = x$$
#
# Read it slowly. Two things on level 2 read $g^{k,1}$, the module's own mixture: its **experts**, inside $S^{k,2}$,
# and its **gate**. No gate of level 2 reads x. After the last level come the towers (Eq. 7). Nobody would read a
# shared mixture there, so the last level has no shared gate.
#
# ### Exercise 3.5 · PLE of two levels
#
# ★★★ hard · 15 minutes · about 8 lines
#
# You get `experts`, a list with the number of experts of each module, the same on both levels; the shared number is
# the last. So there are `len(experts) - 1` tasks. Use `Level` and `own_and_shared`. Three parts:
#
# * `self.first`: a level D → H with a shared gate (`shared_gate=True` in its table),
# * `self.second`: a level H → H without one,
# * `self.towers`: for each task one linear layer H → 1.
#
# `forward`: x (B, D) → logits (B, T).
#
# Worked example: one expert of one unit per module, all gates equal. The user is x = 1. On level 1 *like*, *click*
# and shared give 2, 4 and 6. The mixtures are (2 + 6) / 2 = 4, (4 + 6) / 2 = 5, and for the shared module (2 + 4 +
# 6) / 3 = 4. On level 2 the experts multiply by 1, 1 and 2, so they give 4, 5 and 8. The mixtures are 6 and 6.5.
# The like tower multiplies by 1: 6. The click tower multiplies by 2 and takes 3 off: 10.
#
# <details><summary>Hint: what does a Level want?</summary>
# Look at the cell above: the input width, the list, <code>[H]</code>, and the table. Which of your two tables has
# a row more?
# </details>
#
# <details><summary>Hint: shapes step by step</summary>
# x (B, D) → first (B, T+1, H) → second (B, T, H) → tower t reads row t, (B, H) → (B, 1).
# </details>


# %% tags=["answer:3.5"]
class PLE(nn.Module):
    """x (B, D) -> logits (B, T)"""

    def __init__(self, D, H, experts):
        super().__init__()
        T = len(experts) - 1
        ### BEGIN SOLUTION
        self.first = Level(D, experts, [H], own_and_shared(experts, T, shared_gate=True))
        self.second = Level(H, experts, [H], own_and_shared(experts, T))
        self.towers = nn.ModuleList(nn.Linear(H, 1) for _ in range(T))
        ### END SOLUTION

    def forward(self, x):
        ### BEGIN SOLUTION
        g = self.second(self.first(x))  # (B, T, H)
        return torch.cat([tower(g[:, t]) for t, tower in enumerate(self.towers)], dim=1)  # (B, T)
        ### END SOLUTION


# %% tags=["check:3.5", "points:15"]
check("3.5", PLE)

# %% [markdown]
# From here the notebook uses `mtlkit.models.PLE`. It takes any number of levels; with one it is CGC.

# %% [markdown]
# ## 6 · Whose loss reaches whom?
#
# You call `backward()` on the loss of task A alone. Which parameters get a gradient?
#
# ### Exercise 3.6 · Predict the gradients
#
# ★★☆ medium · 5 minutes · predict, do not run
#
# Two tasks, A and B, each with experts of its own, and shared experts. *One level* is CGC, *two levels* is PLE.
# Return a dictionary, True where the loss of **A** sends a gradient, with these keys:
#
# * `"one level: B's experts"`
# * `"one level: the shared experts"`
# * `"two levels: B's experts of level 1"`
# * `"two levels: B's experts of level 2"`
# * `"two levels: the shared gate of level 1"`
# * `"two levels: B's gate of level 1"`
# * `"two levels: B's tower"`
#
# <details><summary>Hint: how do I decide?</summary>
# Go backwards from A's logit. Write down what it reads, what that reads, and so on. All that you meet gets a
# gradient.
# </details>


# %% tags=["answer:3.6"]
def trained_by_A():
    """True where the loss of task A sends a gradient."""
    ### BEGIN SOLUTION
    return {
        "one level: B's experts": False,
        "one level: the shared experts": True,
        "two levels: B's experts of level 1": True,
        "two levels: B's experts of level 2": False,
        "two levels: the shared gate of level 1": True,
        "two levels: B's gate of level 1": False,
        "two levels: B's tower": False,
    }
    ### END SOLUTION


# %% tags=["check:3.6", "points:5"]
check("3.6", trained_by_A)

# %% [markdown]
# Now measure it. Expert 0 belongs to A, expert 1 to B, expert 2 is shared. The cell prints the length of the
# gradient that A's loss sends to each of them.

# %% tags=["experiment"]
torch.manual_seed(0)
x = torch.randn(200, 4)
sizes = {"shared_experts": 1, "task_experts": 1}
one = models.CGC(4, tasks=2, expert=[8], **sizes)
two = models.PLE(4, tasks=2, levels=[[8], [8]], **sizes)

rows = {}
for name, model, levels in (("CGC", one, [one]), ("PLE", two, two.levels)):
    model(x)[:, 0].square().mean().backward()  # a loss of task A
    for number, part in enumerate(levels, start=1):
        rows[f"{name}, level {number}"] = part.experts.layers[0].weight.grad.flatten(1).norm(dim=1).tolist()
pd.DataFrame(rows, index=["A's expert", "B's expert", "shared expert"]).T.round(3)

# %% [markdown]
# Look at the column of B. In CGC it is 0: A cannot disturb B's expert. On the first level of PLE it is not: B's
# expert helps to make the shared mixture, and A reads that on level 2. On the last level it is 0 again. The tasks are
# separated step by step. That is the *progressive* in the name.
#
# If you ever write PLE yourself, keep this as a test. A model without a shared gate shows a 0 in the third row of
# B's column, a model that lets everybody see everything shows no 0 at all.
# %% [markdown]
# ## 7 · Tasks with different rows
#
# A user can only *share* what she has *opened*. So *share* has labels on some rows, *open* on all. Which rows do
# you train on? The PLE paper takes the **union** of all tasks' rows. Every task has its own **sample space**, and a
# row outside of it adds nothing (Eq. 9):
#
# $$L_k = \frac{1}{\sum_i \delta_k^i} \sum_i \delta_k^i\, \mathrm{loss}_k(\hat y_k^i, y_k^i), \qquad \delta_k^i = 1
# \text{ where the label is known, else } 0$$
#
# The task losses are added up with weights (Eq. 8), and the weights may change in training (Eq. 10):
#
# $$L = \sum_k \omega_k^{(t)} L_k, \qquad \omega_k^{(t)} = \omega_{k,0}\, \gamma_k^{\,t}$$
#
# With $\gamma_k > 1$ a task becomes more important from epoch to epoch. (The paper says in one sentence that t counts
# steps and in another that it counts epochs. We take epochs.)
#
# ### Exercise 3.7 · The joint loss
#
# ★★☆ medium · 10 minutes · about 4 lines
#
# You get `logits` (B, T), `labels` (B, T) with NaN where a label is not known, the starting weights `start` (T,),
# the ratios `ratio` (T,), and the number `epoch`. Return L, a single number. Use binary cross-entropy on logits. A
# task without any known label in the batch adds 0.
#
# Worked example: two users, and the second has no label for *click*. The model gave the right labels of *like* the
# chances ¼ and 1/16: they cost log 4 and log 16, their mean is log 8. It gave the one known label of *click* the
# chance ¼: log 4. The ratios are 2 and ½, the starting weights 1. After two epochs the weights are 4 and ¼. So
# L = 4 · log 8 + ¼ · log 4 = 8.66.
#
# <details><summary>Hint: I get NaN</summary>
# NaN times 0 is NaN. Put a harmless label into the gaps before the loss, and take the cell out afterwards.
# </details>
#
# <details><summary>Hint: which number do I divide by?</summary>
# Each task by its own: how many of its labels are known? And what if there are none?
# </details>


# %% tags=["answer:3.7"]
def joint_loss(logits, labels, start, ratio, epoch):
    """PLE's loss over the union of sample spaces.   (B, T), (B, T), (T,), (T,), int -> ()"""
    ### BEGIN SOLUTION
    seen = ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")  # (B, T)
    losses = (each * seen).sum(dim=0) / seen.sum(dim=0).clamp(min=1)  # (T,)
    return (start * ratio**epoch * losses).sum()
    ### END SOLUTION


# %% tags=["check:3.7", "points:10"]
check("3.7", joint_loss)

# %% [markdown]
# From here the notebook uses `training.fit`, which has this loss inside. For weights that change, give it
# `task_weights=losses.TaskWeights(...)`.

# %% [markdown]
# ## 8 · Who gains, who pays?
#
# Now train. First we need a log. Here is a small one that we make ourselves, so that you see what is in it: 20
# numbers per row, and three tasks. *is_click* and *long_view* have much in common. *is_like* goes its own way, and
# a little against *long_view*. All users of all logs follow the same rules; the seed draws other users.


# %% tags=["setup"]
def small_log(seed, rows=10_000, D=20):
    """A table with the tasks is_click, is_like and long_view, made from three wavy tastes."""
    rules = np.random.default_rng(7)
    directions, heads = rules.normal(size=(3, D, 6)) / D**0.5, rules.normal(size=(3, 6))
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, D)).astype(np.float32)
    taste = np.stack([np.sin(1.5 * x @ d) @ v for d, v in zip(directions, heads, strict=True)])  # (3, N)
    taste = taste / taste.std(axis=1, keepdims=True)
    logits = {
        "is_click": 1.5 * taste[0] - 0.3,
        "is_like": 1.5 * (0.9 * taste[1] - 0.6 * taste[2]) - 2.5,
        "long_view": 1.5 * (0.6 * taste[0] + 0.8 * taste[2]) - 1.0,
    }
    labels = {t: (draw.random(rows) < 1 / (1 + np.exp(-z))).astype(np.float32) for t, z in logits.items()}
    return data.Table(
        ids=np.zeros((rows, 0), dtype=np.int32),
        dense=x,
        labels=labels,
        split=np.repeat([0, 1, 2], [rows // 2, rows // 10, rows - rows // 2 - rows // 10]).astype(np.int8),
        dense_names=tuple(f"x{i}" for i in range(D)),
        kinds=dict.fromkeys(labels, "binary"),
    )


# %% tags=["experiment"]
small_log(seed=0).summary().query("split == 'train'").round(3)

# %% [markdown]
# Five rivals with the same budget. PLE has one expert of its own per task and one shared, on both levels. All others
# get as wide a first layer as the same number of parameters allows. All have two layers of experts, or two layers
# below the towers.

# %% tags=["experiment"]
one_each = {"shared_experts": 1, "task_experts": 1}
ple_sizes = one_each | {"levels": [[16], [8]]}
budget = models.count_parameters(models.PLE(20, tasks=3, **ple_sizes))
rivals = {
    "SingleTask": (models.SingleTask, lambda w: {"bottom": [w, 8], "tower": []}),
    "Shared-Bottom": (models.SharedBottom, lambda w: {"bottom": [w, 8], "tower": []}),
    "MMoE": (models.MMoE, lambda w: {"experts": 4, "expert": [w, 8], "tower": []}),
    "CGC": (models.CGC, lambda w: one_each | {"expert": [w, 8]}),
    "PLE": (models.PLE, lambda w: ple_sizes),
}
for name, (kind, sizes) in rivals.items():
    if name != "PLE":
        width = models.match_width(lambda w, k=kind, s=sizes: k(20, tasks=3, **s(w)), budget)
        rivals[name] = kind, sizes(width)
    else:
        rivals[name] = kind, ple_sizes
    size = models.count_parameters(kind(20, tasks=3, **rivals[name][1]))
    print(f"{name:13} {size:,} parameters  {rivals[name][1]}")

# %% [markdown]
# Each rival trains on the same 20 logs, with the same seeds, steps and learning rate.

# %% tags=["experiment"]
logs = [small_log(seed) for seed in range(20)]
results, trained = [], {}
for name, (kind, sizes) in rivals.items():
    team = [models.Recommender(log, kind, seed=seed, **sizes) for seed, log in enumerate(logs)]
    ensemble.fit_many(team, logs, epochs=8, batch_size=200, lr=0.005, progress=False)
    trained[name] = team
    for seed, (model, log) in enumerate(zip(team, logs, strict=True)):
        auc = training.evaluate(model, log.part("test"))["auc"]
        results += [{"model": name, "seed": seed, "task": t, "auc": a} for t, a in auc.items()]
results = pd.DataFrame(results)
results.pivot_table(index="model", columns="task", values="auc", sort=False).round(4)

# %% [markdown]
# A table of means hides what we want to know. Take the network per task as the zero line. The **MTL gain** (Eq. 11)
# of a model on a task is its AUC minus that of the single-task network. Both learned from the same log with the
# same seed, so compare them seed by seed.
#
# ### Exercise 3.8 · The gain and its error
#
# ★☆☆ easy · 5 minutes · about 3 lines
#
# You get `together` and `alone`, both (S, T): the AUC for each of S seeds and T tasks, of the multi-task model and
# of the single-task one. Return a dictionary with
#
# * `"mean"`: (T,), the mean gain over the seeds,
# * `"error"`: (T,), the standard error of this mean: the standard deviation of the *differences* (the usual one,
#   which divides by S - 1), divided by √S.
#
# Worked example, in points: *like* gains 0, 3 and 6 with three seeds. The mean is 3, the standard deviation 3, the
# error 3/√3 = 1.73. *click* loses 1 with each seed: the mean is -1, the error 0.
#
# <details><summary>Hint: why the differences?</summary>
# Some logs are harder than others, for both models. In the difference this cancels.
# </details>


# %% tags=["answer:3.8"]
def gain(together, alone):
    """Mean gain and its error, seed by seed.   (S, T), (S, T) -> {"mean": (T,), "error": (T,)}"""
    ### BEGIN SOLUTION
    difference = together - alone  # (S, T)
    error = difference.std(dim=0) / len(difference) ** 0.5
    return {"mean": difference.mean(dim=0), "error": error}
    ### END SOLUTION


# %% tags=["check:3.8", "points:10"]
check("3.8", gain)

# %% [markdown]
# From here the notebook uses `mtlkit.diagnosis.transfer`, which makes this table for all models. Its column `ci95` is
# half of a **95 % interval**: the interval is gain ± `ci95`, and `ci95` is your error times a number from Student's t
# distribution. For 20 seeds this number is 2.09, for 10 it is 2.26.

# %% tags=["experiment", "figure:3_8_seesaw"]
gains = diagnosis.transfer(results)
ax = plots.seesaw(gains)
plots.show(
    ax,
    "The gain in AUC over single tasks, a group of dots per task, with 95 % intervals. Is_click: "
    "Shared-Bottom lies clearly below the line, the others near it. Is_like: all lie near the line, three of four a "
    "little below. Long_view: MMoE, CGC and PLE lie clearly above the line, Shared-Bottom near it.",
)
gains.round(4)

# %% tags=["experiment"]
diagnosis.seesaw(gains)

# %% [markdown]
# Go through the figure task by task.
#
# * **is_click**: Shared-Bottom loses, by far more than its interval. That is **negative transfer**: with the same
#   budget, a network per task does better. The models with experts avoid it.
# * **long_view**: MMoE, CGC and PLE win. This task has much in common with *is_click*, and they make use of it.
# * **is_like**: nobody wins. MMoE, CGC and PLE lie below the line, but the interval of each crosses it.
#
# A model that wins on one task and loses on another shows the **seesaw**. The PLE paper saw it in older models and
# built PLE against it. Does our table have one? Not one that we could defend: the wins on *long_view* are clear,
# the price on *is_like* is within the interval of its own luck. And PLE is not ahead of CGC or MMoE here. Three small tasks and a
# budget of 2,200 parameters are not the paper's billion rows.
#
# Twenty seeds cost a few seconds. Make the same table with the first ten alone:
# `diagnosis.transfer(results.query("seed < 10"))`. Would you have written the same sentences?
#
# ## 9 · Whom do they ask?
#
# The PLE paper (Fig. 8) looks into its models with one expert per module: the mean gate weight of each expert, and
# how much it varies from user to user. Here is one of our CGC models, on its test users:

# %% tags=["experiment", "figure:3_8_expert_bars"]
test = logs[0].part("test")
inputs = torch.from_numpy(test.ids).long(), torch.from_numpy(test.dense)
weights = diagnosis.gate_weights(trained["CGC"][0], *inputs)["body.gates"]  # (B, T, E)
use = diagnosis.expert_use(weights)
ax = plots.expert_bars(use.mean, use.sd, test.tasks, [*test.tasks, "shared"])
plots.show(
    ax,
    "Mean gate weights of CGC, a group of bars per task, a bar per expert, with standard deviations. Each task gives about half "
    "to its own expert and half to the shared one, and none to the experts of the other tasks.",
)

# %% [markdown]
# The experts of the other tasks have the weight 0: the table is kept. The thin lines are standard deviations over
# the users. They tell how much a gate looks at the user: a gate with a short line gives everybody the same mixture.
#
# For two levels a table is easier to read: how much goes to the own, the shared and the others' experts?

# %% tags=["experiment"]
diagnosis.module_shares(trained["PLE"][0], *inputs, tasks=test.tasks)[["own", "shared", "others"]].round(2)

# %% [markdown]
# Only the shared gate of level 1 asks the experts of the tasks (*others*). There all tasks meet.
#
# ## 10 · Find the bug: an AUC below 0.5
#
# An online textbook once printed this table for a log of short videos (FunRec, chapter 3.4.1; the two tasks were
# taken out of its report later):
#
# | AUC | is_click | is_like | long_view |
# |---|---|---|---|
# | Shared-Bottom | 0.61 | 0.431 | 0.436 |
# | MMoE | 0.60 | 0.420 | 0.459 |
# | PLE | 0.60 | 0.419 | 0.447 |
#
# A coin has 0.5. A model that has learned nothing has about 0.5. What must a model have learned to be **worse than a
# coin**, three models in the same way, on two tasks out of three?
#
# Think about it before you read on.
#
# A model that is reliably below 0.5 has learned something. It was asked about something else. The log of that
# chapter has its columns in the order click, like, long view. Its models have their outputs in the order click,
# long view, like. Labels and outputs were matched **by position**. Here is the fault in four lines:


# %%
def friends_label_matrix(columns, names, tasks):
    """The labels of the tasks.   columns (B, C), their C names, T tasks -> (B, T)"""
    keep = [i for i, name in enumerate(names) if name in tasks]
    return columns[:, keep]


# %% [markdown]
# ### Exercise 3.9 · Mend it
#
# ★☆☆ easy · 10 minutes · 1 or 2 lines
#
# Column t of the result must hold the labels of `tasks[t]`, in whatever order the log has its columns. The log may
# hold more columns than you need.
#
# Worked example: the log has (click, like, long_view), the model (click, long_view, like). The row (1, 0, 1)
# becomes (1, 1, 0).
#
# <details><summary>Hint: which loop does your friend run?</summary>
# It runs over the columns of the log. What should decide the order of the result?
# </details>


# %% tags=["answer:3.9"]
def label_matrix(columns, names, tasks):
    """The labels of the tasks.   columns (B, C), their C names, T tasks -> (B, T)"""
    ### BEGIN SOLUTION
    return columns[:, [names.index(task) for task in tasks]]
    ### END SOLUTION


# %% tags=["check:3.9", "points:10"]
check("3.9", label_matrix)

# %% [markdown]
# Now make the table yourself, on our small log. One PLE learns with your friend's labels, one with the right ones.
# Each is scored under the names that it believes in.


# %% tags=["experiment"]
def as_the_friend(table, tasks):
    """The table with the labels under the names that position gives them."""
    in_order = [name for name in table.labels if name in tasks]  # the order of the log
    labels = {task: table.labels[name] for task, name in zip(tasks, in_order, strict=True)}
    return replace(table, labels=labels, kinds=dict.fromkeys(labels, "binary"))


def learn_and_score(table, learned, kind, **options):
    """Train on ``learned``, score on the right labels of the test users of ``table``."""
    model = models.Recommender(learned, kind, seed=0, **options.pop("sizes"))
    training.fit(model, learned, patience=None, progress=False, **options)
    with warnings.catch_warnings(record=True) as said:  # evaluate() does not keep quiet about what it finds
        warnings.simplefilter("always")
        figures = training.evaluate(model, table.part("test").select(learned.tasks))
    print(*(f"mtlkit says: {warning.message}" for warning in said), sep="\n")
    return figures["auc"]


order = ("is_click", "long_view", "is_like")  # of the model's outputs
how = {"sizes": ple_sizes, "epochs": 8, "batch_size": 200, "lr": 0.005}
log = logs[0]
swap = {
    "friend's labels": learn_and_score(log, as_the_friend(log, order), models.PLE, **how),
    "right labels": learn_and_score(log, log.select(order), models.PLE, **how),
}
pd.DataFrame(swap).T.round(3)

# %% [markdown]
# With your friend's labels *is_click* is as good as ever. The other two are worse than a coin: each output learned the
# labels of the other task. In this log those who like tend not to watch for long (we made it so), and so the wrong
# label is worse than a random one. In another log a swap may end above 0.5. Then it looks like a weak model, and
# nobody asks.
#
# In `mtlkit` labels carry the name of their task all the way, and a table with its tasks in another order is refused.
# Still, an AUC below 0.5 gets a warning: you see it above. If you write your own code, look labels up by name. And
# whenever an AUC is below 0.5, look for a swap before you look for a better model.
#
# ## 11 · Real people
#
# **KuaiRand** is the log of a short-video app: who saw which video, clicked, watched it for long, liked it? Two
# weeks of it, split by date: the model learns from the first days and is tested on the last three. The first time the
# cell downloads 47 MB. Without a network and without a copy on your disk it says so and you can read on.
#
# PLE meets Shared-Bottom here. `"bottom": [169, 16]` are the two layers below the towers, 169 and 16 units wide. That
# gives it about as many parameters as PLE: the cell prints both numbers.

# %% tags=["experiment"]
try:
    days = ("2022-04-25", "2022-05-04", "2022-05-06")  # first days of train, validation, test
    videos = data.kuairand(dates=days, min_count=5, history=True)
except data.DataError as reason:  # no network and nothing cached
    videos = None
    print("Skipped:", reason)
else:
    print(videos.summary().query("split != 'validation'").round(4).to_string(index=False))

# %% tags=["experiment"]
if videos is not None:
    real = one_each | {"shared_experts": 2, "levels": [[32], [16]], "embedding": 4}
    bottom = {"bottom": [169, 16], "tower": [], "embedding": 4}
    how = {"epochs": 2, "lr": 0.003, "weight_decay": 0.1, "schedule": "one_cycle"}
    for kind, its in ((models.SharedBottom, bottom), (models.PLE, real)):
        model = models.Recommender(videos, kind, **its)
        training.fit(model, videos, patience=None, progress=False, **how)
        auc = training.evaluate(model, videos.part("test"))["auc"]
        by_task = ", ".join(f"{task} {value:.4f}" for task, value in auc.items())
        print(f"{kind.__name__:12} {models.count_parameters(model.body):,} parameters, test AUC: {by_task}")

# %% tags=["experiment"]
if videos is not None:
    test = videos.part("test")
    inputs = torch.from_numpy(test.ids).long(), torch.from_numpy(test.dense)
    shares = diagnosis.module_shares(model, *inputs, tasks=test.tasks)
    print(shares[["own", "shared", "others"]].round(2).to_string())

# %% [markdown]
# One run per model cannot rank them. docs/results.md is the place for tables with several seeds.
#
# Read the last table as you read the one of section 9. Level 2 has two shared experts and one own per task: a gate
# with equal weights would give 0.33 to its own expert and 0.67 to the shared ones. Which tasks keep to themselves,
# which live from the others?
#
# ## What you know now
#
# * CGC: a task sees its own experts and the shared ones. The mask comes before the softmax.
# * PLE: CGC in levels. Each module reads its own mixture of the level below, with its experts and with its gate.
# * The shared gate sees all experts. Through it the loss of A reaches B's experts on the lower level, never on the
#   last.
# * Tasks may have different rows: each loss is a mean over its own known labels.
# * Compare at equal budgets, seed by seed, task by task. A win on one task can be paid by another: the seesaw.
# * An AUC reliably below 0.5 is a swap until proven otherwise. Look labels up by name.
#
# **Next:** `04_home`. What goes wrong with all these experts in a large system, and the cure.
