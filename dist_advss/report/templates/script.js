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

// Typing into a legend's filter leaves only the runs with these letters.
document.addEventListener("input", (event) => {
  if (!event.target.matches(".filter")) return;
  const letters = event.target.value.trim().toLowerCase();
  for (const entry of event.target.parentElement.querySelectorAll("button:not(.all)")) {
    const match = entry.textContent.toLowerCase().includes(letters);
    entry.hidden = !match;
    set(entry, match);
  }
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

// A page of a launch that is under way loads itself again; what was scrolled, unfolded and hidden stays so.
const kept = `dist_advss ${location.pathname}`;
function keep() {
  const hidden = [...document.querySelectorAll(".legend button")].map((b) => b.getAttribute("aria-pressed") === "false");
  const open = [...document.querySelectorAll("details")].map((d) => d.open);
  const letters = [...document.querySelectorAll(".filter")].map((f) => f.value);
  sessionStorage.setItem(kept, JSON.stringify({ hidden, open, letters, top: scrollY }));
}
function restore() {
  const said = JSON.parse(sessionStorage.getItem(kept) || "null");
  sessionStorage.removeItem(kept);
  const entries = [...document.querySelectorAll(".legend button")];
  if (!said || said.hidden.length !== entries.length) return; // runs have come since: which is which is no longer known
  document.querySelectorAll("details").forEach((d, i) => (d.open = said.open[i]));
  document.querySelectorAll(".filter").forEach((f, i) => {
    f.value = said.letters[i];
    if (f.value) f.dispatchEvent(new Event("input", { bubbles: true }));
  });
  entries.forEach((b, i) => said.hidden[i] && set(b, false));
  scrollTo({ top: said.top, behavior: "instant" });
}
addEventListener("load", () => {
  const wait = setInterval(() => {
    if (document.querySelector("[data-root-id]") && !(window.Bokeh && Bokeh.documents.length)) return;
    clearInterval(wait);
    restore();
  }, 50);
});
const seconds = Number(document.body.dataset.reload);
if (seconds) setTimeout(() => (keep(), location.reload()), 1000 * seconds);
