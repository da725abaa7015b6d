// Showing a turn: its images, texts and what it was asked with.

import { remember } from "/address.js";
import { present, renew } from "/focus.js";
import { at, element, imageUrl, nameOf, say, state, turn, urlOf } from "/page.js";
import { filter, rank, rankAnew, showWeights } from "/ranking.js";
import { setReference, takeFromGallery } from "/reference.js";
import { showSelection } from "/saving.js";
import { decimal, texts, told } from "/texts.js";
import { enlarge } from "/viewer.js";

export function show() {
  const { method, weights, reference, further, text, draft, unlike, unlikeImages, where, group } = turn();
  present(at("start"), false, at("results"));
  at("tools").hidden = false;
  at("controls").disabled = false;
  at("method").value = method;
  showWeights(method, weights);
  setReference(reference);
  at("text").value = draft ?? text;
  at("unlike").value = unlike;
  state.further = [...further];
  state.unlike = [...unlikeImages];
  filter.set(where);
  at("group").checked = group;
  showFurther();
  showUnlike();
  showTurns();
  showStates();
  showImages();
  showTexts();
  if (turn().stale) rank();
}

function showTurns() {
  at("turns-box").hidden = false;
  renew(
    at("turns"),
    state.turns.map((one, place) => {
      const label = element("span", { textContent: `${place + 1}. ${one.text || texts.imageOnly}` });
      const button = element("button", { type: "button" }, label);
      if (one.reference) button.prepend(element("img", { src: urlOf(one.reference), alt: "" }));
      button.setAttribute("aria-current", String(place === state.current));
      button.addEventListener("click", () => {
        state.current = place;
        remember(true);
        show();
        say(texts.turn(place + 1, one.text));
        at("turns").children[place].firstChild.focus();
      });
      return element("li", {}, button);
    }),
    at("results"),
  );
}

// Offers what the next turn can begin with by the method; what was chosen stays where it can.
export function showStates() {
  const offered = state.settings.methods[at("method").value]?.states ?? ["image"];
  const chosen = at("state").value;
  at("state").replaceChildren(
    ...offered.map((one) => element("option", { value: one, textContent: texts.states[one] })),
  );
  at("state").value = offered.includes(chosen) ? chosen : "image";
  // A turn that went on from a query or captions is ranked by methods that can begin with these.
  const began = turn()?.left?.state;
  for (const one of at("method").options) {
    one.disabled = Boolean(began) && !state.settings.methods[one.value].states.includes(began);
  }
}

const signed = (value) => (value >= 0 ? "+" : "−") + decimal(Math.abs(value), 4);

// The images of the turn as they stand, those that are nearly alike behind theirs where it is open.
function standing() {
  const { start, opened, shown: { images } } = turn();
  return images.flatMap((image, place) => {
    const nth = start + place + 1;
    const members = opened?.has(image.hash) ? image.members : [];
    return [{ ...image, nth }, ...members.map((one) => ({ ...one, nth, isMember: true }))];
  });
}

export function told_of(image) {
  const numbers = [decimal(image.score, 4), decimal(image.similarity, 4), signed(image.increment)];
  const alike = image.copies.length ? texts.copies(image.copies.length) : "";
  return texts.numbers(image.nth, ...numbers) + alike;
}

function action(sign, label, act) {
  const button = element("button", { type: "button", textContent: sign, title: label });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  return button;
}

function card(image, place) {
  const picture = element("img", { src: imageUrl(image.hash), alt: image.path });
  const view = element("button", { type: "button", className: "view" }, picture);
  view.title = texts.enlarge(image.path);
  view.addEventListener("click", () => enlarge(place));
  const badge = element("span", { className: "badge", textContent: decimal(image.score, 2) });
  badge.setAttribute("aria-hidden", "true");
  const numbers = element("p", { className: "numbers visually-hidden" });
  numbers.textContent = told_of(image);
  const use = action("↻", texts.useNamed(image.path), () => useAsReference(image));
  const chosen = element("input", { type: "checkbox", checked: state.selected.has(image.hash) });
  chosen.setAttribute("aria-label", texts.selectNamed(image.path));
  chosen.addEventListener("change", () => {
    if (chosen.checked) state.selected.set(image.hash, image);
    else state.selected.delete(image.hash);
    showSelection();
  });
  const file = element("p", { className: "file", textContent: image.path, title: image.path });
  const less = action("−", texts.unlikeNamed(image.path), () => lessLike(image));
  const also = action("+", texts.alsoNamed(image.path), () => alsoLike(image));
  const acts = element("div", { className: "acts" }, chosen, less, also, use);
  const made = element("li", { className: image.isMember ? "member" : "" }, view, badge, numbers, acts);
  if (image.members?.length) made.append(alike(image));
  made.append(file);
  return made;
}

// What shows the images that are nearly like one, and hides them again.
function alike({ hash, path, members }) {
  const opened = (turn().opened ??= new Set());
  const button = action(`+${members.length}`, texts.alike(members.length, path), () => {
    if (!opened.delete(hash)) opened.add(hash);
    showImages();
  });
  button.className = "alike";
  button.setAttribute("aria-expanded", String(opened.has(hash)));
  return button;
}

export function showImages() {
  const { images, notes } = turn().shown;
  at("notes").textContent = notes.map(told).join(" ");
  turn().standing = standing();
  renew(at("images"), turn().standing.map(card), at("results"));
  const { start, count } = turn();
  const { most_images: most } = state.settings;
  const total = turn().shown.matching;
  const hasMore = images.length === count;
  present(at("more"), hasMore && count < most, at("results"));
  present(at("pages"), total > most || start > 0, at("results"));
  present(at("earlier"), start > 0, at("results"));
  present(at("later"), hasMore, at("results"));
  at("place").value = start + 1;
  at("place").max = total;
  at("places").textContent = texts.places(total);
}

// Shows images as buttons that take them out of a list of the state again.
function showKept(list, place, label, field) {
  renew(
    at(place),
    state[list].map((image) => {
      const button = action("", label(nameOf(image)), () => {
        state[list] = state[list].filter((one) => one !== image);
        showKept(list, place, label, field);
      });
      button.append(element("img", { src: urlOf(image), alt: "" }));
      return element("li", {}, button);
    }),
    at(field),
  );
}

const showUnlike = () => showKept("unlike", "unlike-images", texts.likeAgain, "unlike");
export const showFurther = () => showKept("further", "further", texts.alsoNoMore, "text");

function alsoLike({ hash, path }) {
  if (!state.further.some((image) => image.hash === hash)) state.further.push({ hash, path });
  showFurther();
  say(texts.also(path));
}

function lessLike({ hash, path }) {
  if (!state.unlike.some((image) => image.hash === hash)) state.unlike.push({ hash, path });
  showUnlike();
  say(texts.less(path));
}

export function useAsReference({ hash, path }) {
  state.further = [];
  showFurther();
  at("text").value = "";
  takeFromGallery({ hash, path }, texts.newReference(path));
}

export function showTexts() {
  const { asked, shown } = turn();
  const count = Math.max(asked.captions.length, 1);
  present(at("texts-box"), asked.edited_captions.length > 0, at("results"));

  function box(kind, field, place) {
    const original = asked[field][place] ?? "";
    const id = `${field}-${place}`;
    const label = element("label", { htmlFor: id, textContent: kind });
    const area = element("textarea", {
      id, rows: 2, value: shown[field][place] ?? "", maxLength: state.settings.longest_text,
    });
    const mark = () => area.classList.toggle("changed", area.value !== original);
    mark();
    area.addEventListener("input", mark);
    area.addEventListener("change", () => {
      const text = area.value.trim();
      shown[field] = shown[field].map((old, i) => (i === place ? text || null : old));
      if (field === "captions" && !text) {
        area.value = original; // a caption is needed for its edit to have an increment
        shown[field][place] = original;
        mark();
      }
      rankAnew(texts.changed);
    });
    return element("div", {}, label, area);
  }

  renew(
    at("texts"),
    asked.edited_captions.map((_, place) =>
      element(
        "li",
        {},
        place < count ? box(texts.caption(place + 1), "captions", place) : element("div"),
        box(texts.edited(place + 1), "edited_captions", place),
      ),
    ),
    at("results"),
  );
}
