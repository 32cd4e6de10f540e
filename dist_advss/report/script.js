// The page's own behaviour; the charts are Bokeh's.
"use strict";

// A legend entry shows and hides the models it names, in every chart of its group.
document.addEventListener("click", (event) => {
  const entry = event.target.closest("button[data-models]");
  if (!entry) return;
  const show = entry.getAttribute("aria-pressed") !== "true";
  entry.setAttribute("aria-pressed", String(show));
  for (const id of entry.dataset.models.split(" ").filter(Boolean)) {
    for (const doc of Bokeh.documents) {
      const model = doc.get_model_by_id(id);
      if (model) model.visible = show;
    }
  }
});

// Charts are painted once with the colours of the moment; another scheme wants another coat.
function repaint() {
  if (!window.Bokeh) return;
  for (const doc of Bokeh.documents) for (const plot of doc.roots()) plot.change.emit();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

// On paper nothing can be unfolded.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of folded) details.open = false;
});
