// The address: every turn has one, to go back to, reload or share.

import { leaves, search } from "/asking.js";
import { present, renew } from "/focus.js";
import { PAGE, at, hashesOf, listed, lost, say, state, turn } from "/page.js";
import { filter } from "/ranking.js";
import { setReference } from "/reference.js";
import { show, showStates } from "/showing.js";
import { texts } from "/texts.js";

function address() {
  const { reference, further, asked, text, left, unlike, unlikeImages, method, weights } = turn();
  const { where, group, start } = turn();
  const fields = { text, method, ...weights };
  if (left) Object.assign(fields, { state: left.state, before: JSON.stringify(left.before) });
  if (unlike) fields.unlike = unlike;
  if (unlikeImages.length) fields.unlike_images = hashesOf(unlikeImages);
  if (reference) fields.reference = asked.reference;
  if (further.length) fields.further = hashesOf(further);
  if (where.length) fields.where = where.join("\n");
  if (!group) fields.group = "false";
  if (start) fields.start = start;
  return `?${new URLSearchParams(fields)}`;
}

export function remember(anew) {
  const entry = { turn: state.current, start: turn().start, count: turn().count };
  if (anew) history.pushState(entry, "", address());
  else history.replaceState(entry, "", address());
}

// The images that an address names; raises for one that is not here, as an upload is not.
async function imagesOf(hashes) {
  const found = [];
  for (const hash of (hashes ?? "").split(",").filter(Boolean)) {
    const { images } = await listed({ hash });
    if (!images.length) throw new Error(texts.uploadAgain);
    found.push(...images);
  }
  return found;
}

// Asks what the address says, where it says something.
export async function follow() {
  const fields = new URLSearchParams(location.search);
  const text = fields.get("text") ?? "";
  const hash = fields.get("reference");
  if (!text && !hash) return;
  const known = state.settings.methods;
  const method = fields.get("method") in known ? fields.get("method") : at("method").value;
  const weights = {};
  for (const name of ["alpha_pos", "alpha_neg"]) {
    if (known[method].weights && fields.has(name)) weights[name] = fields.get(name);
  }
  const unlike = fields.get("unlike") ?? "";
  at("text").value = text;
  at("unlike").value = unlike;
  let images;
  try {
    images = await Promise.all(["reference", "further", "unlike_images"].map((name) => imagesOf(fields.get(name))));
  } catch (error) {
    say(lost(error), true);
    return;
  }
  const [[reference = null], further, unlikeImages] = images;
  const where = (fields.get("where") ?? "").split("\n").filter(Boolean);
  const group = fields.get("group") !== "false";
  const question = { reference, further, unlike, unlikeImages, where, group, start: 0, count: PAGE };
  // What a turn before left is not in the address, so the turns before are asked again.
  let carried = null;
  for (const one of before(fields)) {
    if (!(await search({ ...question, ...one, left: carried && leaves(one.state) }, true))) return;
    carried = true;
  }
  const how = carried ? fields.get("state") : "image";
  const start = /^\d{1,6}$/.test(fields.get("start") ?? "") ? Number(fields.get("start")) : 0;
  const page = { start, count: start ? state.settings.most_images : PAGE };
  await search({ ...question, ...page, text, method, weights, left: leaves(how) }, true);
}

// The turns that the one of an address goes on from; none where the address says none that can be.
function before(fields) {
  try {
    const found = JSON.parse(fields.get("before") ?? "[]");
    return found.every(({ text, method }) => typeof text === "string" && method in state.settings.methods) ? found : [];
  } catch {
    return [];
  }
}

window.addEventListener("popstate", ({ state: entry }) => {
  if (entry && state.turns[entry.turn]) {
    state.current = entry.turn;
    const { start, count } = entry;
    if (turn().start !== start) Object.assign(turn(), { start, count, stale: true });
    show();
  } else if (!location.search) {
    state.current = -1;
    setReference(null);
    filter.set([]);
    at("text").value = "";
    renew(at("images"), [], at("results"));
    at("start").hidden = false;
    for (const id of ["more", "pages", "tools", "texts-box"]) present(at(id), false, at("results"));
    at("notes").textContent = "";
    showStates();
    say("");
  } else {
    follow();
  }
});
