// The page's own behaviour; the charts are Bokeh's.
"use strict";

// A legend entry shows and hides the models it names, in every chart of its group; "all" does so for every entry.
function set(entry, show) {
  entry.setAttribute("aria-pressed", String(show));
  for (const id of (entry.dataset.models || "").split(" ").filter(Boolean)) {
    for (const doc of Bokeh.documents) {
      const model = doc.get_model_by_id(id);
      if (model) model.visible = show;
    }
  }
}
document.addEventListener("click", (event) => {
  const button = event.target.closest(".legend button");
  if (!button) return;
  const show = button.getAttribute("aria-pressed") !== "true";
  const all = button.classList.contains("all");
  for (const entry of all ? button.parentElement.querySelectorAll("button") : [button]) set(entry, show);
});

// Charts are painted with the colours of the moment; another scheme, or paper, wants another coat.
function repaint() {
  if (!window.Bokeh) return;
  for (const doc of Bokeh.documents) for (const plot of doc.roots()) Bokeh.index.get_by_id?.(plot.id)?.paint?.();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

// On paper it is light, and nothing can be unfolded.
let folded = [];
addEventListener("beforeprint", () => {
  document.documentElement.classList.add("printing");
  repaint();
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printing");
  repaint();
  for (const details of folded) details.open = false;
});
