// Ranking again: sliders, method, texts, filter, and further pages.

import { remember } from "/address.js";
import { part } from "/asking.js";
import { makeFilter } from "/filter.js";
import { present } from "/focus.js";
import { PAGE, answer, at, hashesOf, lost, say, state, turn } from "/page.js";
import { showImages, showStates, showTexts } from "/showing.js";
import { significant, texts, told } from "/texts.js";

export const filter = makeFilter({
  fields: async () => (await answer(await fetch("/fields"))).fields,
  changed: among,
  say: (error) => say(lost(error), true),
});

// Shows the turn among other images; one of which no image met the filter has no texts to rank by.
export function among(where) {
  if (!turn() || state.busy) return; // what is asked is ranked among them when it is there
  if (!turn().asked.matching) {
    at("form").requestSubmit();
    return;
  }
  Object.assign(turn(), { where, start: 0 });
  rank();
}

at("group").addEventListener("change", () => {
  if (!turn()) return;
  Object.assign(turn(), { group: at("group").checked, start: 0 });
  rank();
});

let ranking = false;
let saying; // what the last change has to say, once it is shown

// One request at a time; a turn that changed meanwhile is asked for right after, older states never.
// Returns whether this call's request was answered.
export async function rank(said) {
  turn().stale = true;
  saying = said;
  if (ranking) return false;
  ranking = true;
  try {
    while (turn().stale) {
      const now = turn();
      now.stale = false;
      const response = await fetch("/rank", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({
          reference: now.reference ? now.asked.reference : null,
          further: hashesOf(now.further),
          relative_caption: now.text,
          unlike: now.unlike,
          unlike_images: hashesOf(now.unlikeImages),
          captions: now.shown.captions,
          edited_captions: now.shown.edited_captions,
          ...(now.left && { state: now.left.state, vector: now.left.vector }),
          method: now.method,
          ...part(now),
          ...now.weights,
        }),
      });
      const { images, notes, vector, matching } = await answer(response);
      Object.assign(now.shown, { images, notes, vector, matching });
      if (now === turn()) {
        showImages();
        remember(false);
      }
    }
    say(saying ?? found());
    return true;
  } catch (error) {
    say(lost(error), true);
    return false;
  } finally {
    ranking = false;
  }
}

// Ranks by something else: what is best by that comes first.
export function rankAnew(said = texts.again) {
  turn().start = 0;
  return rank(said);
}

// Goes to the page of the ranking that begins behind `start` images.
async function turnTo(start) {
  Object.assign(turn(), { start, count: state.settings.most_images });
  remember(true);
  if (!(await rank())) return;
  at("results").focus({ preventScroll: true });
  window.scrollTo({ top: 0 });
}

export function found() {
  const { start, shown: { images, matching } } = turn();
  if (!matching) return texts.noMatch;
  if (!images.length) return texts.none;
  if (!start) return texts.best(images.length, matching);
  return texts.between(start + 1, start + images.length, matching);
}

export function weightsShown() {
  if (!state.settings.methods[at("method").value]?.weights) return {};
  return { alpha_pos: Number(at("alpha-pos").value), alpha_neg: Number(at("alpha-neg").value) };
}

function showNumbers() {
  for (const name of ["alpha-pos", "alpha-neg"]) {
    at(`${name}-value`).textContent = significant(Number(at(name).value));
  }
}

export function showWeights(method, weights) {
  const { about, weights: known } = state.settings.methods[method] ?? {};
  at("method-said").textContent = about ? (texts.methods[method] ?? told(about)) : "";
  present(at("weights"), Boolean(known), at("method"));
  if (!known) return;
  for (const [name, field, max] of [
    ["alpha-pos", "alpha_pos", "max_pos"],
    ["alpha-neg", "alpha_neg", "max_neg"],
  ]) {
    const value = weights?.[field] ?? known[field];
    at(name).max = Math.max(known[max], value);
    at(name).step = known.step;
    at(name).value = value;
  }
  showNumbers();
}

at("method").addEventListener("change", () => {
  showWeights(at("method").value);
  if (!turn()) return;
  turn().method = at("method").value;
  turn().weights = weightsShown();
  showStates();
  rankAnew(texts.by(turn().method));
});
for (const name of ["alpha-pos", "alpha-neg"]) {
  at(name).addEventListener("input", () => {
    showNumbers();
    if (!turn()) return;
    turn().weights = weightsShown();
    rankAnew();
  });
}
at("more").addEventListener("click", async () => {
  const now = turn();
  const before = now.shown.images.length;
  const stood = now.standing.length;
  now.count = Math.min(now.count + PAGE, state.settings.most_images);
  if (!(await rank())) return;
  const added = now.shown.images.length - before;
  say(added > 0 ? texts.added(added) : texts.allShown);
  const next = at("images").children[stood] ?? at("images").lastChild;
  next.querySelector("button").focus();
});
at("earlier").addEventListener("click", () => turnTo(Math.max(0, turn().start - state.settings.most_images)));
at("later").addEventListener("click", () => turnTo(turn().start + turn().shown.images.length));
at("place").addEventListener("change", () => {
  const place = Math.round(Number(at("place").value)) || 1;
  turnTo(Math.min(Math.max(place, 1), turn().shown.matching) - 1);
});
at("restore").addEventListener("click", () => {
  const { captions, edited_captions: edited } = turn().asked;
  Object.assign(turn().shown, { captions: [...captions], edited_captions: [...edited] });
  showTexts();
  rankAnew(texts.restored);
});
