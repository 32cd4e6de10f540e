// The behaviour of the page. Bokeh handles the charts.
"use strict";

// A legend entry shows and hides its models in every chart of its group. "all" does so for every entry.
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

// A legend's filter shows only the runs whose names contain its text.
document.addEventListener("input", (event) => {
  if (!event.target.matches(".filter")) return;
  const letters = event.target.value.trim().toLowerCase();
  for (const entry of event.target.parentElement.querySelectorAll("button:not(.all)")) {
    const match = entry.textContent.toLowerCase().includes(letters);
    entry.hidden = !match;
    set(entry, match);
  }
});

// Charts keep the colours that they were painted with, so another colour scheme, or printing, repaints them.
function repaint() {
  if (!window.Bokeh) return;
  for (const doc of Bokeh.documents) for (const plot of doc.roots()) Bokeh.index.get_by_id?.(plot.id)?.paint?.();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

// Print in light colours, with everything unfolded.
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

// The page of a running launch reloads itself, and restores what was scrolled, unfolded, filtered and hidden.
const storageKey = `dist_advss ${location.pathname}`;
function keep() {
  const hidden = [...document.querySelectorAll(".legend button")].map((b) => b.getAttribute("aria-pressed") === "false");
  const open = [...document.querySelectorAll("details")].map((d) => d.open);
  const letters = [...document.querySelectorAll(".filter")].map((f) => f.value);
  sessionStorage.setItem(storageKey, JSON.stringify({ hidden, open, letters, top: scrollY }));
}
function restore() {
  const saved = JSON.parse(sessionStorage.getItem(storageKey) || "null");
  sessionStorage.removeItem(storageKey);
  const entries = [...document.querySelectorAll(".legend button")];
  if (!saved || saved.hidden.length !== entries.length) return; // with new runs, the entries no longer match
  document.querySelectorAll("details").forEach((d, i) => (d.open = saved.open[i]));
  document.querySelectorAll(".filter").forEach((f, i) => {
    f.value = saved.letters[i];
    if (f.value) f.dispatchEvent(new Event("input", { bubbles: true }));
  });
  entries.forEach((b, i) => saved.hidden[i] && set(b, false));
  scrollTo({ top: saved.top, behavior: "instant" });
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
