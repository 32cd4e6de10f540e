# %% [markdown]
# # Your own plots
#
# `dist_advss.load_runs(DIR)` returns everything that the runs of a launch recorded, as pandas DataFrames. This notebook is a
# plain Python file whose cells begin with `# %%`. VS Code and PyCharm run it as it is. Jupyter opens it with jupytext
# (`jupytext --to notebook own_plots.py`). `RUNS=DIR python docs/notebooks/own_plots.py` runs it without either.
# By default it reads the runs of `make quickstart`.

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
# One row for each evaluation, in percent, with 95% intervals.

# %%
table = runs.evaluations.set_index("method")[["ta", "ra", "ra_low", "ra_high", "n", "epochs_to_best_ra"]]
table["RA gained on P1→F4"] = table["ra"] - table.loc["P1→F4", "ra"]
print(table.round(1))

# %% [markdown]
# ## RA during fine-tuning
# `train` and `validation` are indexed by stage and step, so you select a curve in one step.

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
# An evaluation keeps every verdict, so you can compare models on the same images. Under attack, how many images does P3→F4 get
# right that P1→F4 gets wrong, and the other way round?

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
