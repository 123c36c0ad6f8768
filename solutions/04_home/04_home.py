# %% [markdown]
# # 04 · HoME: three illnesses of experts, and a remedy for each
#
# MMoE and PLE are ideas on paper. What happens to them in an app with hundreds of millions of users? The makers of one
# such app ran MMoE for years. Then they looked inside, and found their experts ill, in three ways. Their model **HoME**,
# *hierarchy of multi-gate experts*, has a remedy for each.
#
# After this notebook you can
#
# * see three illnesses in any model with gates: **collapse**, **degradation** and **underfitting**,
# * bring experts of different size to one scale, with a batch norm and Swish,
# * give categories of tasks experts of their own, level by level,
# * write a feature gate and a self gate, and tell what each is for,
# * assemble HoME, take it apart again, and judge which part does something,
# * say where the paper's story holds in your log, and where it does not.
#
# It takes about 100 minutes. There are ten exercises, 100 points in all.
#
# Paper: X. Wang et al., *HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou* (the **HoME
# paper**), KDD 2025, arXiv 2408.05430. All equations below are numbered as there.

# %% tags=["setup"]
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from autograde_tests import check
from mtlkit import data, illnesses, layers, models, plots, training
from mtlkit.models.home import two_levels

torch.set_num_threads(1)  # small models: threads would wait for each other longer than they work

# %% [markdown]
# ## 1 · The patient
#
# We need a log with tasks of two **categories**. *Watch*: how long did she look? *Interaction*: did she click, like,
# comment? `data.short_video` draws one. Nobody's data is in it, and it has a gift: the true chance of every label is
# known. So there is a **ceiling**, the AUC of these chances, and each model's result can be read as a share of what
# can be reached.
#
# Real logs have counts in them: followers, past views, seconds. Some are 0, some are a million. First we hand them to
# the models **as they are** (`raw_counts`).

# %% tags=["experiment"]
log = data.short_video(rows=60_000, raw_counts=True, seed=0)
rates = log.summary().query("split == 'train'").set_index("task")["label_mean"]
card = pd.DataFrame({"category": pd.Series(log.categories), "rate": rates.round(4)})
card["Bayes AUC"] = training.ceiling(log.part("test"))["auc"].round(3)
card.loc[list(log.tasks)]

# %% [markdown]
# Look at the rates. One row in two is an *effective_view*, one in a thousand is a *forward*. Some tasks have
# thousands of positives to learn from, others a few dozen.
#
# One function trains all models of this notebook:


# %% tags=["setup"]
def learn(log, kind, seed=0, **sizes):
    """A trained model of this kind. Three passes over the log, towers with one hidden layer of 16."""
    model = models.Recommender(log, kind, embedding=5, seed=seed, tower=[16], **sizes)
    how = {"epochs": 3, "batch_size": 1024, "lr": 0.006, "weight_decay": 0.1, "schedule": "one_cycle"}
    training.fit(model, log, patience=None, seed=seed, progress=False, **how)
    return model


def reached(model, log):
    """The AUC on the test days of each task, as a share of what can be reached: 0 is a coin, 1 is the ceiling."""
    test = log.part("test")
    return training.ceiling(test, training.predict(model, test))["auc_share"]


def some_rows(log, n=3000):
    """What a model reads, for n rows of the test days."""
    test = log.part("test")
    return torch.from_numpy(test.ids[:n]).long(), torch.from_numpy(test.dense[:n])


# %% tags=["experiment"]
six = {"experts": 6, "expert": [64, 32]}
ill = learn(log, models.MMoE, **six)
reached(ill, log).round(3).to_frame("MMoE").T

# %% [markdown]
# Next to nothing. On some tasks it is worse than a coin. Something is wrong with this model. Let us look inside.
#
# ## 2 · Illness one: collapse
#
# The HoME paper looked at the outputs of its experts. One had a mean a hundred times smaller than the others, and more
# than 90 % of the outputs were zeros. A gate must weigh experts against each other. It cannot do this well when one
# speaks in thousands and another in hundredths.
#
# ### Exercise 4.1 · What do the experts say?
#
# ★☆☆ easy · 10 minutes · about 3 lines
#
# You get the outputs of all experts, `h` (B, E, H). Return a dictionary with three entries, (E,) each:
#
# * `"mean"`: the mean of the expert's outputs, over users and units,
# * `"variance"`: their variance. Divide by the number of outputs,
# * `"zeros"`: the share of outputs that are exactly 0.
#
# Worked example: three users, two experts with two units. Expert 0 says (0, 2) to all: mean 1, variance 1, half of it
# zeros. Expert 1 says (10, 30), (15, 25) and (25, 15): mean 20, variance (2 · 100 + 4 · 25) / 6 = 50, no zeros.
#
# <details><summary>Hint: which axes?</summary>
# Each expert keeps one number. Which two letters of (B, E, H) have to go?
# </details>
#
# <details><summary>Hint: the share of zeros</summary>
# <code>h == 0</code> is a tensor of True and False. Its mean is a share, once it is made of numbers.
# </details>


# %% tags=["answer:4.1"]
def expert_outputs(h):
    """Mean, variance and share of zeros of each expert.   (B, E, H) -> {name: (E,)}"""
    ### BEGIN SOLUTION
    return {
        "mean": h.mean(dim=(0, 2)),
        "variance": h.var(dim=(0, 2), correction=0),
        "zeros": (h == 0).float().mean(dim=(0, 2)),
    }
    ### END SOLUTION


# %% tags=["check:4.1", "points:10"]
check("4.1", expert_outputs)

# %% [markdown]
# From here the notebook uses `mtlkit.illnesses.examine`. It looks at experts and gates of any model, and says in words
# what it finds. This is our MMoE:

# %% tags=["experiment", "figure:4_1_expert_outputs"]
report = illnesses.examine(ill, *some_rows(log), tasks=log.tasks)
ax = plots.expert_outputs(report.experts.loc[1])
plots.show(
    ax,
    "Mean and variance of the outputs of six experts, on a logarithmic scale. The means lie between a hundred and "
    "some thousand, the variances between a million and a hundred million. Under each expert stands its share of "
    "zeros: most are above 60 per cent, one is above 90.",
)
print(report)

# %% tags=["experiment", "figure:4_1_gates"]
ax = plots.expert_use(report.weights[0], log.tasks, experts=report.weights[0].columns)
plots.show(
    ax,
    "Mean gate weights of MMoE, a row per task, a column per expert. Nearly every row has one or two dark cells "
    "and zeros elsewhere: a gate has all but decided, the same for everybody.",
)

# %% [markdown]
# The outputs are in the thousands, they differ from expert to expert, and most are zeros. The gates have decided: almost
# all weight goes to one or two experts.
#
# Is this the collapse of the paper? In part. There *all* gates took the *same* expert. Here each took its own favourite.
# What makes ours ill is easy to name: raw counts. Both experts and gates are linear in x first, so a count of a
# million makes outputs of thousands, and a softmax of thousands is a decision. With scaled inputs the same model is
# well:

# %% tags=["experiment"]
scaled = data.short_video(rows=60_000, seed=0)  # the same log, its counts as scaled logarithms
well = learn(scaled, models.MMoE, **six)
report = illnesses.examine(well, *some_rows(scaled), tasks=scaled.tasks)
print(report)
print(report.experts[["mean", "variance", "zeros"]].round(2).to_string())
reached(well, scaled).round(3).to_frame("MMoE, scaled").T

# %% [markdown]
# Keep this in mind: the first remedy for a sick model is to look at its inputs. But with thousands of inputs you will
# miss some, and experts can drift apart by themselves. So let us go on.
#
# ## 3 · Illness two and three: degradation and underfitting
#
# Next the paper's authors tried CGC (notebook 03): own experts and shared ones. They found that
#
# * **degradation**: each of the *shared* experts was used by *one* task almost alone,
# * **underfitting**: some sparse tasks left their *own* experts aside, and lived from the shared ones.
#
# ### Exercise 4.2 · Whose expert is it?
#
# ★☆☆ easy · 5 minutes · 2 lines
#
# You get the weights of all gates, `weights` (B, T, E). A task's **use** of an expert is its weight, averaged over the
# users. Return (E,): of each expert's whole use, the largest share that belongs to one task.
#
# Worked example: over two users, *like* gives (0.45, 0.2, 0.35) on average and *click* gives (0.15, 0.2, 0.65).
# Expert 0: 0.45 of 0.6 is like's, so ¾. Expert 1: ½. Expert 2: 0.65 of 1 is click's.
#
# <details><summary>Hint: what do I divide by?</summary>
# By what all tasks together give to this expert: a sum over which axis?
# </details>


# %% tags=["answer:4.2"]
def main_share(weights):
    """The share of each expert's use that is one task's.   (B, T, E) -> (E,)"""
    ### BEGIN SOLUTION
    use = weights.mean(dim=0)  # (T, E)
    return use.amax(dim=0) / use.sum(dim=0)
    ### END SOLUTION


# %% tags=["check:4.2", "points:5"]
check("4.2", main_share)

# %% [markdown]
# From here the notebook uses the column `main_share` of `examine`. Here is a CGC on the log with raw counts: an own
# expert for each task, and two shared ones, the last two.

# %% tags=["experiment", "figure:4_2_cgc_gates"]
cgc = {"shared_experts": 2, "task_experts": 1, "expert": [64, 32]}
report = illnesses.examine(learn(log, models.CGC, **cgc), *some_rows(log), tasks=log.tasks)
ax = plots.expert_use(report.weights[0], log.tasks, experts=report.experts["owner"])
plots.show(
    ax,
    "Mean gate weights of CGC with raw counts: nine own experts on the diagonal and two shared ones on the right. "
    "Five tasks give most to their own expert. Four live from the shared ones: three of them from the same one, and "
    "follow has the other nearly for itself.",
)
print(report)
report.experts.query("owner == 'shared'")[["main_user", "main_share"]].round(2)

# %% [markdown]
# Both are there: tasks that leave their own expert aside, and a shared expert that is used by one task for the most
# part. Compare with the rates of section 1: are the tasks that do so the sparse ones, as in the paper? Not here:
# *click* is one of them. With scaled inputs this CGC is well, too; try it: `learn(scaled, models.CGC, **cgc)`.
#
# ## 4 · Remedy one: expert norm
#
# First, all experts should speak in the same scale. HoME puts a **batch norm** behind the expert's layers, and
# **Swish** behind that (Eq. 4, 5), in place of the ReLU:
#
# $$\mathrm{BatchNorm}(z) = \gamma\, \frac{z - \mu}{\sqrt{\delta^2 + \epsilon}} + \beta, \qquad
# \mathrm{Expert}(x) = \mathrm{Swish}\big(\mathrm{BatchNorm}(\mathrm{MLP}(x))\big)$$
#
# $\mu$ and $\delta^2$ are mean and variance **over the batch**, for each output unit of each expert. A unit that says
# the same to everybody has the variance 0; the small $\epsilon$ keeps it from 0 / 0. Swish is $u\,\sigma(u)$. Why not
# ReLU? After the norm half of the numbers lie below zero, and a ReLU would silence them.
#
# ### Exercise 4.3 · Experts with a norm
#
# ★★☆ medium · 15 minutes · about 5 lines
#
# You get `x` (B, D), the matrices of all experts `W` (E, H, D), and `gamma`, `beta` (E, H). Each expert is one linear
# layer without bias, then norm, then Swish. Take $\epsilon = 10^{-5}$, and the variance that divides by B. Return
# (B, E, H).
#
# Worked example: x = 1, 3, 3, 1 for four users. Expert 0 has the weight 1: z is 1 or 3, normalised -1 or 1, with
# gamma 2: -2 or 2. Swish makes -0.24 or 1.76 of it. Expert 1 has the weight -100: z is -100 or -300. Normalised:
# 1 or -1! With beta 1: 2 or 0. Swish: 1.76 or 0. The scale is gone.
#
# <details><summary>Hint: shapes step by step</summary>
# z (B, E, H): an einsum, "bd,ehd->beh". Mean and variance: (E, H). They fit z as they are.
# </details>
#
# <details><summary>Hint: may I use a norm of torch?</summary>
# Yes: <code>F.batch_norm(..., training=True)</code>. It wants (B, units), so flatten the experts' units.
# </details>


# %% tags=["answer:4.3"]
def home_experts(x, W, gamma, beta):
    """Swish(BatchNorm(W x)).   (B, D), (E, H, D), (E, H), (E, H) -> (B, E, H)"""
    ### BEGIN SOLUTION
    z = torch.einsum("bd,ehd->beh", x, W)
    mean, variance = z.mean(dim=0), z.var(dim=0, correction=0)  # (E, H)
    u = gamma * (z - mean) / (variance + 1e-5).sqrt() + beta
    return u * torch.sigmoid(u)
    ### END SOLUTION


# %% tags=["check:4.3", "points:15"]
check("4.3", home_experts)

# %% [markdown]
# From here the notebook uses `layers.Experts(..., norm=True)`, and `expert_norm=True` in a model. The paper writes a
# star for it: **MMoE\*** is MMoE with these experts.
#
# In notebook 02 you found a gate with a batch norm: the same user had another score in another batch. Here it is for
# the **training** only. In evaluation, running averages from the training stand in for mean and variance:

# %%
torch.manual_seed(0)
experts = layers.Experts(4, experts=2, widths=[3], norm=True)
anna, others = torch.randn(1, 4), torch.randn(50, 4)
for mode in (True, False):
    experts.train(mode)
    beside, alone = experts(torch.cat([anna, others]))[0], experts(torch.cat([anna, 2 * others]))[0]
    print(
        "training:  " if mode else "evaluation:",
        "the same answer in both batches?",
        torch.equal(beside, alone),
    )

# %% tags=["experiment", "figure:4_3_expert_outputs"]
normed = learn(log, models.MMoE, **six, expert_norm=True)
report = illnesses.examine(normed, *some_rows(log), tasks=log.tasks)
ax = plots.expert_outputs(report.experts.loc[1])
plots.show(
    ax,
    "Mean and variance of the outputs of the six experts of MMoE* on the log with raw counts. All means and variances "
    "lie near 0.3, and no expert has a zero.",
)

# %% tags=["experiment"]
normed_well = learn(scaled, models.MMoE, **six, expert_norm=True)
pd.DataFrame(
    {
        "raw counts": [reached(ill, log).mean(), reached(normed, log).mean()],
        "scaled": [reached(well, scaled).mean(), reached(normed_well, scaled).mean()],
    },
    index=["MMoE", "MMoE*"],
).round(3)

# %% [markdown]
# All experts speak in one scale now, and no output is lost. The table has the mean of all tasks: the norm helps on
# both logs, and on the scaled one, where no illness was to be seen, too. But it does not save the model with raw
# counts. Why not? Its **gates** still read them, and so do the first layers. Look: `report.weights[0].round(2)`.
#
# From here on we use the scaled log.
#
# ## 5 · Remedy two: a hierarchy
#
# Degradation says: what all tasks share is less than we thought. *Likes* and *comments* have more in common with each
# other than with *long views*. So between "mine" and "everybody's" HoME puts a third kind of expert: **my
# category's**. And it learns in two levels (Eq. 6, 7):
#
# * **level 1** knows categories only. Experts belong to a category or to all. The gate of a category sees its own and
#   the shared ones; the shared gate sees all. It is the first level of PLE, with categories in the place of tasks.
# * **level 2**: experts belong to a task, a category, or to all. The gate of a task sees its own, its category's and
#   the shared ones.

# %% tags=["experiment", "figure:4_4_who_sees_whom"]
ax = plots.who_sees_whom(
    [[1, 0, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]],
    ["long_view", "complete_view", "like"],
    ["long_view's", "complete_view's", "like's", "watch", "interaction", "shared"],
    "level 2 of HoME",
)
plots.show(
    ax,
    "A table with three rows. Long_view and complete_view each see their own expert, both see that of the category "
    "watch. Like sees its own expert and that of the category interaction. All see the shared expert.",
)

# %% [markdown]
# ### Exercise 4.4 · The table of level 2
#
# ★★☆ medium · 10 minutes · about 6 lines
#
# You get `groups`, the category of each task as a number: [0, 0, 1] in the picture. Every task has `own` experts, every
# category `local` ones, and there are `shared` more. Any of the first two can be 0. Return the table (T, E), True where a
# task sees an expert. The columns: the experts of task 0, of task 1, ..., then those of category 0, of category
# 1, ..., the shared ones last.
#
# Worked example: the picture above, where `own`, `local` and `shared` are 1. Row *like* is (0, 0, 1, 0, 1, 1).
#
# <details><summary>Hint: three tables side by side</summary>
# Tasks against tasks, tasks against categories, tasks against "shared". Make each with one column per owner, repeat
# the columns, and put the three together with <code>torch.cat</code>.
# </details>
#
# <details><summary>Hint: how many categories are there?</summary>
# They are numbered from 0 without gaps. The largest number in <code>groups</code> tells.
# </details>


# %% tags=["answer:4.4"]
def level_2_mask(groups, own, local, shared):
    """Which task sees which expert.   -> (T, E), True or False"""
    ### BEGIN SOLUTION
    category = torch.tensor(groups)
    tasks = torch.eye(len(groups)).repeat_interleave(own, dim=1)
    local_ones = F.one_hot(category, max(groups) + 1).repeat_interleave(local, dim=1)
    everybodys = torch.ones(len(groups), shared)
    return torch.cat([tasks, local_ones, everybodys], dim=1).bool()
    ### END SOLUTION


# %% tags=["check:4.4", "points:10"]
check("4.4", level_2_mask)

# %% [markdown]
# From here the notebook uses `models.HoME`, which makes both tables from `groups`. In a `Recommender` it takes the
# categories from the table.
#
# ## 6 · Remedy three, first part: feature gates
#
# Underfitting says: a sparse task leaves its own experts aside. HoME has two means against it, one at the input of the
# experts and one at their output. Here is the first.
#
# All experts of a level read the same x, so all their gradients meet in the same embeddings, and may pull apart. The
# frequent tasks may drown the sparse ones. So HoME gives each **group** of experts an input of its own: x, with some
# features amplified and others damped. A **feature gate** makes the factors (Eq. 8 to 10):
#
# $$\mathrm{LoRA}_l(x) = 2\,\sigma(x\, B_l\, A_l), \qquad \mathrm{factor}(x) = \sum_l g_l(x)\, \mathrm{LoRA}_l(x), \qquad
# x' = x \odot \mathrm{factor}(x)$$
#
# A **LoRA** is two thin matrices, $B_l$ (D × R) and $A_l$ (R × D), in place of one D × D. R is its **rank**.
# $g(x) = \mathrm{softmax}(W x)$ is a small gate over the L LoRAs. Read the rest slowly: the sigmoid comes **before** the
# mixture. The 2 makes the factor of a feature 1 where the logit is 0, and lets it go up as well as down.
#
# ### Exercise 4.5 · A feature gate
#
# ★★★ hard · 15 minutes · about 4 lines
#
# You get `x` (B, D), the matrices of the LoRAs `down` (L, D, R) and `up` (L, R, D), called B and A in Eq. 8, and the
# matrix of the gate `W` (L, D). Return the gated input (B, D).
#
# Worked example: x = (1, 2), two LoRAs of rank 1. The logits of the first are (0, 0), so its factors are (1, 1). Those
# of the second are (log 3, -log 3): 2·¾ and 2·¼, so (1.5, 0.5). The gate says (½, ½): the factors are (1.25, 0.75),
# the gated input is (1.25, 1.5).
#
# <details><summary>Hint: shapes step by step</summary>
# x (B, D) → low (B, L, R) → logits (B, L, D) → with the weights (B, L) mixed to (B, D).
# </details>
#
# <details><summary>Hint: the letters</summary>
# "bd,ldr->blr", then "blr,lrc->blc". The second letter for the features is only there to tell in from out.
# </details>


# %% tags=["answer:4.5"]
def feature_gate(x, down, up, W):
    """x times its factors.   (B, D), (L, D, R), (L, R, D), (L, D) -> (B, D)"""
    ### BEGIN SOLUTION
    low = torch.einsum("bd,ldr->blr", x, down)
    factors = 2 * torch.sigmoid(torch.einsum("blr,lrc->blc", low, up))  # (B, L, D)
    weights = torch.softmax(x @ W.T, dim=1)  # (B, L)
    return x * torch.einsum("bl,blc->bc", weights, factors)
    ### END SOLUTION


# %% tags=["check:4.5", "points:15"]
check("4.5", feature_gate)

# %% [markdown]
# From here the notebook uses `layers.FeatureGates`, which has a gate for each group of experts.
#
# What does a feature gate cost? The paper takes the rank R = D / L, so that "more LoRAs add no parameters". Count them:

# %%
for loras, rank in ((1, None), (2, None), (4, None), (2, 4)):
    part = layers.FeatureGates(64, groups=1, loras=loras, rank=rank)
    print(f"D = 64, L = {loras}, rank {rank or 64 // loras:2}: {models.count_parameters(part):,} parameters")

# %% [markdown]
# With R = D / L the LoRAs have 2 D² weights for **every** L: twice a full matrix D × D. With two LoRAs or more the small
# gate adds L·D. For the paper's 3000 features that is 18 million in all, for one group of experts. "Low rank" saves
# something only if you choose a small rank yourself.
#
# ## 7 · Remedy three, second part: self gates
#
# The second means is at the output. When a task forgets its own experts, their weight is small, so their gradient is
# small, so they stay bad. HoME opens a second way: a **self gate** looks at a group's own experts alone, and what it
# takes from them is **added** to the mixture (Eq. 11):
#
# $$z' = z + \sum_k s_k(x)\, E_k(x), \qquad s(x) = \begin{cases} \sigma(W x) & \text{one own expert} \\
# \mathrm{softmax}(W x) & \text{several} \end{cases}$$
#
# However little z contains of them, the gradient now reaches the own experts. Why two cases? A softmax over one
# number is always 1.
#
# ### Exercise 4.6 · A self gate
#
# ★★☆ medium · 10 minutes · about 4 lines
#
# You get `x` (B, D), the matrix of the self gate `W` (K, D), the group's own `experts` (B, K, H), and the `mixture`
# (B, H) that the gate made. Return what comes out (B, H).
#
# Worked example: one own expert, it says (4, 8). The self gate's logit is log 3, so its weight is ¾. The mixture is
# (1, 1). The result is (1 + 3, 1 + 6) = (4, 7).
#
# <details><summary>Hint: how do I know which case it is?</summary>
# K is in the shape of <code>W</code>.
# </details>


# %% tags=["answer:4.6"]
def self_gate(x, W, experts, mixture):
    """The mixture and more of the own experts.   (B, D), (K, D), (B, K, H), (B, H) -> (B, H)"""
    ### BEGIN SOLUTION
    logits = x @ W.T  # (B, K)
    weights = torch.sigmoid(logits) if len(W) == 1 else torch.softmax(logits, dim=1)
    return mixture + torch.einsum("bk,bkh->bh", weights, experts)
    ### END SOLUTION


# %% tags=["check:4.6", "points:10"]
check("4.6", self_gate)

# %% [markdown]
# From here the notebook uses `layers.SelfGates`. It gives the weights of all self gates at once, (B, G, E) like those
# of `layers.Gates`, with 0 where an expert is not a gate's own. This makes the next exercise short.
#
# ## 8 · One level
#
# Now the parts come together. A level of HoME has four. They work for all groups at once, so the shapes have one more
# letter: M groups of experts, G gates.
#
# | part | reads | gives |
# |---|---|---|
# | `self.feature_gates` | the experts' input, (B, M, D) or (B, D) | an input for each group, (B, M, D) |
# | `self.experts` | an input for each group, (B, M, D) | the outputs of all experts, (B, E, H) |
# | `self.gates` | the gates' input, (B, G, D) or (B, D) | weights (B, G, E) that sum to 1 |
# | `self.self_gates` | the gates' input | weights (B, G, E), 0 where an expert is not a gate's own |
#
# The experts and the gates of a level can have different inputs. So `forward` has two arguments: `x` for the experts,
# `given` for the gates. In the paper **all gates read the raw input**, never what the feature gates made of it. Public
# code gets this wrong.
#
# ### Exercise 4.7 · The forward of a level
#
# ★★☆ medium · 10 minutes · about 3 lines
#
# Return the mixtures (B, G, H), what the self gates add included. You may use `layers.mix(weights, experts)`: (B, G, E)
# and (B, E, H) → (B, G, H).
#
# Worked example: one group with one expert, all matrices of the gates are 0. The gate gives it 1, the self gate σ(0) = ½.
# The expert's norm has gamma 0 and beta 2, so it says Swish(2) = 1.76 to everybody. The result is 1.5 · 1.76.
#
# <details><summary>Hint: two mixtures of the same experts</summary>
# Sum(w, experts) + Sum(s, experts): is there a shorter way to write it?
# </details>


# %% tags=["answer:4.7"]
class Level(nn.Module):
    """x (B, M, D) for the experts, given (B, G, D) for the gates -> (B, G, H)"""

    def __init__(self, D, H, experts, visible, own):
        super().__init__()
        self.feature_gates = layers.FeatureGates(D, groups=len(experts))
        self.experts = layers.Experts(D, experts, [H], norm=True)
        self.gates = layers.Gates(D, len(visible), sum(experts), torch.tensor(visible))
        self.self_gates = layers.SelfGates(D, torch.tensor(own))

    def forward(self, x, given):
        ### BEGIN SOLUTION
        weights = self.gates(given) + self.self_gates(given)  # (B, G, E)
        return layers.mix(weights, self.experts(self.feature_gates(x)))
        ### END SOLUTION


# %% tags=["check:4.7", "points:10"]
check("4.7", Level)

# %% [markdown]
# From here the notebook uses `mtlkit.models.home.HoMELevel`. Its `forward` is yours. Two things are new: `given` may have
# another width than `x`, and several gates may read one row of it.
#
# ## 9 · HoME
#
# Two levels make HoME. Level 1 gives a vector for each category, and one for all, the last. Level 2 reads these:
#
# * a **group of experts** reads one vector: that of its category, and the shared experts read the shared one,
# * the **gate of a task** reads two, side by side: its category's vector ⊕ the shared vector.
#
# Before you write it: who learns from whom?
#
# ### Exercise 4.8 · Predict the gradients
#
# ★★☆ medium · 5 minutes · predict, do not run
#
# Tasks **A** and **B** are interactions, **C** is a watch task. HoME is complete, with its mask. Return a dictionary,
# True where the loss of **A** sends a gradient, with these keys:
#
# * `"level 2: B's own experts"`
# * `"level 2: the experts of A's category"`
# * `"level 2: the experts of C's category"`
# * `"level 2: the shared experts"`
# * `"level 1: the experts of C's category"`
# * `"level 1: the gate of C's category"`
# * `"level 1: the self gate of C's category"`
# * `"level 1: the feature gate of C's category"`
#
# <details><summary>Hint: how do I decide?</summary>
# Go backwards from A's logit, as in notebook 03. On level 1: which vectors does A's part of level 2 read, and what
# went into each?
# </details>


# %% tags=["answer:4.8"]
def trained_by_A():
    """True where the loss of task A sends a gradient."""
    ### BEGIN SOLUTION
    return {
        "level 2: B's own experts": False,
        "level 2: the experts of A's category": True,
        "level 2: the experts of C's category": False,
        "level 2: the shared experts": True,
        "level 1: the experts of C's category": True,
        "level 1: the gate of C's category": False,
        "level 1: the self gate of C's category": False,
        "level 1: the feature gate of C's category": True,
    }
    ### END SOLUTION


# %% tags=["check:4.8", "points:5"]
check("4.8", trained_by_A)

# %% [markdown]
# Measure it. The experts of level 1 are those of interaction, of watch, and the shared one. Level 2: those of A, B and C,
# of interaction, of watch, and the shared one.

# %% tags=["experiment"]
torch.manual_seed(0)
home = models.HoME(4, 3, groups=["interaction", "interaction", "watch"], levels=[[8], [8]])
for level in home.levels:  # feature gates start at the factor 1, where they learn nothing yet: move them
    nn.init.normal_(level.feature_gates.up.weight)
home(torch.randn(200, 4))[:, 0].square().mean().backward()  # a loss of task A
for number, level in enumerate(home.levels, start=1):
    for part, weight in (
        ("experts", level.experts.layers[0].weight),
        ("feature gates", level.feature_gates.down.weight),
    ):
        print(f"level {number}, {part:13}", weight.grad.flatten(1).norm(dim=1).numpy().round(3))

# %% [markdown]
# ### Exercise 4.9 · The forward of HoME
#
# ★★★ hard · 15 minutes · about 6 lines
#
# `groups` are the categories of the tasks as numbers, C of them. The parts are made for you:
#
# * `self.meta(x, given)`: level 1, → (B, C + 1, H), the shared vector last. Experts and gates both read x,
# * `self.task(x, given)`: level 2, → (B, T, H). Its experts want (B, T + C + 1, H): a vector for each task's own experts,
#   for each category's, and for the shared ones, in this order. Its gates want (B, C, 2H),
#   a row per category and not one per gate: the tasks of a category read the same two vectors, side by side,
# * `self.towers`: for each task a linear layer H → 1.
#
# `forward`: x (B, D) → logits (B, T).
#
# Worked example: *long_view* and *complete_view* are of category 0, *like* is of category 1. All experts of level 2 say 1.76
# to everybody, the gates give 1 in all and the self gates ½: each task has 2.64. The towers multiply by 1, 2, 3
# and take 0, 1, 2 off: the logits are 2.64, 4.28 and 5.93. This tests the end only. The check's other trials test
# the wiring.
#
# <details><summary>Hint: how do I pick vectors of z?</summary>
# With a list of row numbers: <code>z[:, [0, 0, 1]]</code> is (B, 3, H). Which list has T + C + 1 numbers?
# </details>
#
# <details><summary>Hint: the two vectors side by side</summary>
# <code>z[:, :-1]</code> has one row for each category. The shared vector is one row: <code>expand_as</code> repeats it.
# Then <code>torch.cat</code> along the last axis.
# </details>


# %% tags=["answer:4.9"]
class HoME(nn.Module):
    """x (B, D) -> logits (B, T)"""

    def __init__(self, D, H, groups):
        super().__init__()
        self.groups, self.C = groups, max(groups) + 1
        self.meta, self.task = two_levels(D, groups, [[H], [H]])
        self.towers = nn.ModuleList(nn.Linear(H, 1) for _ in groups)

    def forward(self, x):
        ### BEGIN SOLUTION
        z = self.meta(x, x)  # (B, C + 1, H)
        readers = [*self.groups, *range(self.C), self.C]
        both = torch.cat([z[:, :-1], z[:, -1:].expand_as(z[:, :-1])], dim=2)  # (B, C, 2H)
        h = self.task(z[:, readers], both)  # (B, T, H)
        return torch.cat([tower(h[:, t]) for t, tower in enumerate(self.towers)], dim=1)
        ### END SOLUTION


# %% tags=["check:4.9", "points:15"]
check("4.9", HoME)

# %% [markdown]
# From here the notebook uses `models.HoME`. Train it, and examine it:

# %% tags=["experiment"]
home_sizes = {
    "meta_shared_experts": 2,
    "meta_category_experts": 2,
    "shared_experts": 2,
    "levels": [[32], [32]],
}
cured = learn(scaled, models.HoME, **home_sizes)
report = illnesses.examine(cured, *some_rows(scaled), tasks=scaled.tasks)
print(report)
pd.DataFrame(
    {"MMoE": reached(well, scaled), "MMoE*": reached(normed_well, scaled), "HoME": reached(cured, scaled)}
).T.round(3)

# %% [markdown]
# What do its feature gates do? The paper (Fig. 6) draws a **heat map** of the factors. A row per group of experts of
# level 1, a column per feature, the mean over the users. White is 1: the feature is left as it is.

# %% tags=["experiment", "figure:4_9_feature_gates"]
inputs = cured.encoder(*some_rows(scaled))  # (B, D)
gates = cured.body.levels[0].feature_gates
with torch.no_grad():
    factors = gates.factors(inputs).mean(dim=0)  # (M, D)
names = [field for field in scaled.fields for _ in range(5)] + list(scaled.dense_names)
ax = plots.feature_gates(factors, [*cured.body.categories, "shared"], names)
plots.show(
    ax,
    "Heat map of the mean factors of the three feature gates of level 1: rows watch, interaction and shared, a column "
    "per feature. The colours differ from row to row. Watch amplifies habit_0 and damps habit_1, interaction does "
    "the reverse.",
)

# %% [markdown]
# Each group has its own view of the same inputs. Find *habit_0* and *habit_1*: how much she tends to watch, and how much
# she tends to interact. What does each category do with the habit of the other? Nobody told the model which is which.
#
# ## 10 · Take it apart again
#
# HoME is a lot of machinery. Which part does something? An **ablation** takes one part away and trains again. The paper
# names them "HoME w/o fg" and so on:
#
# * **fg2**: the feature gates of level 2. **fg**: the feature gates of both levels,
# * **sg**: the self gates,
# * **mask**: the table. Without it every gate sees all experts of its level.
#
# ### Exercise 4.10 · From a name to switches
#
# ★☆☆ easy · 5 minutes · about 5 lines
#
# Return a dictionary: `"feature_gates"` is a pair, True where level 1 has feature gates, and level 2; `"self_gates"` and
# `"mask"` are True or False. Parts are joined by "-": `"HoME w/o fg-sg-mask"` has three taken away. `"HoME"` is complete.
#
# Worked example: `"HoME w/o fg2"` gives feature_gates (True, False), self_gates True, mask True.
#
# <details><summary>Hint: fg is in fg2</summary>
# It is, as text. Cut the name into its parts first, and look for whole parts.
# </details>


# %% tags=["answer:4.10"]
def switches(name):
    """The options of models.HoME for the name of an ablation."""
    ### BEGIN SOLUTION
    gone = name.split("w/o ")[1].split("-") if "w/o" in name else []
    return {
        "feature_gates": ("fg" not in gone, "fg" not in gone and "fg2" not in gone),
        "self_gates": "sg" not in gone,
        "mask": "mask" not in gone,
    }
    ### END SOLUTION


# %% tags=["check:4.10", "points:5"]
check("4.10", switches)

# %% [markdown]
# From here the notebook has the switches written out. Each model trains on three logs of 60,000 rows. (This takes about a
# minute.)

# %% tags=["experiment"]
no_gates = {"feature_gates": (False, False), "self_gates": False}
rivals = {
    "MMoE": (models.MMoE, six),
    "MMoE*": (models.MMoE, six | {"expert_norm": True}),
    "HoME": (models.HoME, home_sizes),
    "HoME w/o fg2": (models.HoME, home_sizes | {"feature_gates": (True, False)}),
    "HoME w/o fg": (models.HoME, home_sizes | {"feature_gates": (False, False)}),
    "HoME w/o sg": (models.HoME, home_sizes | {"self_gates": False}),
    "HoME w/o mask": (models.HoME, home_sizes | {"mask": False}),
    "HoME w/o fg-sg-mask": (models.HoME, home_sizes | no_gates | {"mask": False}),
}
runs, parameters = {name: [] for name in rivals}, {}
for seed in range(3):
    table = data.short_video(rows=60_000, seed=seed)
    for name, (kind, sizes) in rivals.items():
        model = learn(table, kind, seed=seed, **sizes)
        runs[name].append(reached(model, table).mean())
        parameters[name] = models.count_parameters(model.body)

# %% tags=["experiment"]
runs = pd.DataFrame(runs)  # a row per log
against = runs.sub(runs["HoME"], axis=0)  # log by log, as in notebook 03
pd.DataFrame(
    {
        "share of the ceiling": runs.mean(),
        "against HoME": against.mean(),
        "error": against.sem(),
        "parameters": parameters,
    }
).round(3)

# %% [markdown]
# Read the columns *against HoME* and *error* together: a difference below two errors is luck until proven otherwise, and
# three logs prove little.
#
# * HoME is ahead of MMoE and of MMoE\*. The longest piece of the way from MMoE to HoME is the expert norm alone.
# * Taken away one at a time, only the feature gates are missed by more than two errors. All three parts together are
#   missed most.
# * The models are not of one size: look at the last column. Feature gates are more than half of HoME's parameters. Do they
#   help because they are feature gates, or because they are many? This table cannot tell.
# * All models had three passes over the log. Normalised experts learn faster, so this number suits them. With ten larger
#   logs and the number of passes that is best for each model, a part of the lead is left in AUC. In GAUC, the AUC inside
#   each user's own list (notebook 01), none is left over MMoE (docs/results.md).
#
# The paper reports a gain of every part, on billions of rows. To tell such differences from luck, you would need more
# logs and models of one size.
#
# ## What you know now
#
# * Collapse, degradation, underfitting: three numbers to look at in every model with gates.
# * Look at the inputs first. Raw counts make gates decide and experts shout.
# * Expert norm: Swish(BatchNorm(MLP)), over the batch, per unit of each expert. Running averages in evaluation.
# * A hierarchy: mine, my category's, everybody's.
# * A feature gate: sigmoids first, then the mixture, times 2, times x. A self gate: a second way to one's own experts.
# * All gates read the raw input of their level.
# * An ablation is a paired difference with an error. Report what you find, not what you hoped for.
#
# **Next:** `05_capstone`. Your own claim, measured honestly.
