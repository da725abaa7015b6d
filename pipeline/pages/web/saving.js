// Selecting images, and saving them or what is known of them.

import { present } from "/focus.js";
import { answer, at, element, lost, say, state, turn } from "/page.js";
import { texts } from "/texts.js";

export function showSelection() {
  const count = state.selected.size;
  present(at("select-none"), count > 0, at("csv"));
  if (count) say(texts.selected(count));
}

at("select-none").addEventListener("click", () => {
  state.selected.clear();
  for (const box of document.querySelectorAll("#images input")) box.checked = false;
  showSelection();
});

// What is selected, or all that is shown, in the order of the ranking.
function kept() {
  const images = turn().standing;
  if (!state.selected.size) return images;
  const here = images.filter(({ hash }) => state.selected.has(hash));
  const elsewhere = [...state.selected.values()].filter(({ hash }) => !images.some((i) => i.hash === hash));
  return [...here, ...elsewhere];
}

function save(content, kind, name) {
  const url = URL.createObjectURL(new Blob([content], { type: kind }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const FIELDS = ["path", "score", "similarity", "increment"];

// A text that a spreadsheet would take for a formula has an apostrophe before it.
function cell(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

at("csv").addEventListener("click", () => {
  const rows = kept().map((image) => FIELDS.map((field) => cell(image[field])).join(","));
  save([FIELDS.join(","), ...rows, ""].join("\r\n"), "text/csv", "seize.csv");
});
at("json").addEventListener("click", () => {
  const { text, method, weights } = turn();
  const images = kept().map((image) => Object.fromEntries(FIELDS.map((f) => [f, image[f]])));
  save(JSON.stringify({ text, method, weights, images }, null, 2), "application/json", "seize.json");
});
at("zip").addEventListener("click", async () => {
  const hashes = kept().map(({ hash }) => hash);
  const { most_exported: most } = state.settings;
  if (hashes.length > most) {
    say(texts.zipMost(most), true);
    return;
  }
  say(texts.zipping(hashes.length));
  try {
    const body = JSON.stringify({ images: hashes });
    const headers = { "Content-Type": "application/json" };
    const response = await fetch("/export", { method: "POST", headers, body });
    if (!response.ok) await answer(response);
    save(await response.blob(), "application/zip", "seize.zip");
    say(texts.zipped(hashes.length));
  } catch (error) {
    say(lost(error), true);
  }
});
at("size").addEventListener("input", () => {
  document.documentElement.style.setProperty("--side", `${at("size").value}rem`);
});
