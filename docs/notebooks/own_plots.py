# %% [markdown]
# # Plots of one's own
#
# `dist_advss.load_runs(DIR)` gives everything that the runs of a launch wrote down as pandas DataFrames. This notebook is a
# plain Python file whose cells begin with `# %%`: VS Code and PyCharm run it as it is, Jupyter opens it with jupytext
# (`jupytext --to notebook own_plots.py`), and `RUNS=DIR python docs/notebooks/own_plots.py` runs it without either.
# `make quickstart` makes the runs that it takes by default.

# %%
import os
import sys

from bokeh.plotting import figure, output_notebook, show

import dist_advss

if "ipykernel" in sys.modules:
    output_notebook()
runs = dist_advss.load_runs(os.environ.get("RUNS", "runs/quickstart"))
runs.stages[["command", "state", "pretrain", "task", "finetune", "epochs", "seconds"]]

# %% [markdown]
# ## TA and RA
# One row an evaluation, in percent, with 95% intervals.

# %%
table = runs.evaluations.set_index("method")[["ta", "ra", "ra_low", "ra_high", "n", "epochs_to_best_ra"]]
table["RA gained on P1→F4"] = table["ra"] - table.loc["P1→F4", "ra"]
print(table.round(1))

# %% [markdown]
# ## RA in the course of fine-tuning
# `train` and `validation` are indexed by stage and step, so that a curve is one selection.

# %%
plot = figure(height=300, width=600, x_axis_label="epoch", y_axis_label="validation RA (%)")
tuned = runs.stages[runs.stages["command"] == "finetune"]
for (stage, row), colour in zip(tuned.iterrows(), ("grey", "orange", "green", "blue", "red"), strict=False):
    curve = runs.validation.loc[stage]
    plot.line(
        curve["epoch"], curve["ra"], color=colour, line_width=2, legend_label=f"{row['pretrain']}→{row['finetune']}"
    )
plot.legend.location = "bottom_right"
show(plot)

# %% [markdown]
# ## Image by image
# Every verdict is kept, so that models can be compared on the same images: how many does P3→F4 get right under attack which
# P1→F4 gets wrong, and the other way round?

# %%
methods = runs.evaluations["method"]
before, after = (
    runs.verdicts(methods[methods.str.startswith(p)].index[0])["adversarial_right"] for p in ("P1→F4", "P3→F4")
)
print(f"gained {(after & ~before).sum()}, lost {(before & ~after).sum()} of {len(before)} images")

# %% [markdown]
# ## Which classes gain

# %%
by_class = runs.per_class.pivot(index="class", columns="stage", values="ra")
print(by_class.round(1))
