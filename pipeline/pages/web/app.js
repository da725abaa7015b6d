// The page's behaviour. All text enters the document through textContent, never as markup.

import { makeFilter } from "/filter.js";
import { present, renew } from "/focus.js";
import { fill, language, texts } from "/texts.js";

const at = (id) => document.getElementById(id);
const state = {
  settings: null, // what /settings says
  reference: null, // {file, url, name} or {hash, path}
  further: [], // what the query is about beside the reference, each as that is
  unlike: [], // images {hash, path} that are not wanted
  turns: [], // {reference, text, draft, left, asked, shown, method, weights, where, group, start, count}
  current: -1,
  busy: null, // what aborts the query that is under way
  selected: new Map(), // hash to image
};
const PAGE = 24;
const SAMPLES = 12;
const WIDE = matchMedia("(min-width: 62rem)");

// --- small helpers ---------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text, error = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", error);
}

const number = (value) => value.toLocaleString(language);
const imageUrl = (hash, size = "small") => `/images/${hash}/${size}`;
const urlOf = (reference) => reference.url ?? imageUrl(reference.hash);
const nameOf = (reference) => reference.name ?? reference.path;
const turn = () => state.turns[state.current];

async function answer(response) {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error ?? texts.status(response.status));
  return content;
}

function lost(error) {
  return error instanceof TypeError ? texts.lost : error.message;
}

// --- the reference image -----------------------------------------------------------------------

function setReference(reference) {
  state.reference = reference;
  at("reference").hidden = at("forget").hidden = reference === null;
  if (reference === null) {
    at("reference").removeAttribute("src");
    at("reference-name").textContent = texts.noReference;
    return;
  }
  at("reference").src = urlOf(reference);
  at("reference").alt = texts.referenceAlt(nameOf(reference));
  at("reference-name").textContent = at("reference-name").title = nameOf(reference);
}

// Says why files cannot be searched with; null where they can.
function refused(files) {
  const { max_upload: limit, most_uploads: most, endings } = state.settings;
  const none = files.find(
    ({ name, type }) => !type.startsWith("image/") && !endings.some((one) => name.toLowerCase().endsWith(one)),
  );
  if (none) return texts.noImage(none.name);
  const large = files.find(({ size }) => size > limit);
  const mebibytes = Math.floor(limit / 2 ** 20);
  if (large) return texts.tooLarge(large.name, mebibytes);
  if (files.length > most) return texts.tooMany(most);
  if (files.reduce((sum, { size }) => sum + size, 0) > limit) return texts.tooLargeTogether(mebibytes);
  return null;
}

// Takes files as reference images: the first alone, or several with all that they replace.
function takeFiles(list) {
  const files = [...list];
  if (!files.length || !state.settings) return;
  at("state").value = "image";
  const why = refused(files);
  if (why) {
    say(why, true);
    return;
  }
  const [first, ...others] = files.map((file) => ({ file, url: URL.createObjectURL(file), name: file.name }));
  setReference(first);
  state.further = others.length ? others : state.further.filter(({ file }) => !file);
  showFurther();
  say(others.length ? texts.references(files.length) : texts.reference(first.name));
  at("text").focus();
}

function takeFromGallery({ hash, path }, said = texts.reference(path)) {
  at("state").value = "image";
  setReference({ hash, path });
  say(said);
  at("text").focus();
}

at("file").addEventListener("change", (event) => {
  takeFiles(event.target.files);
  event.target.value = "";
});
at("forget").addEventListener("click", () => {
  at("state").value = "image";
  setReference(null);
  at("text").focus();
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  takeFiles(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  takeFiles(event.clipboardData?.files ?? []);
});
at("reference").addEventListener("error", () => { // a format that the browser does not show
  at("reference").hidden = true;
});

// --- picking from the gallery --------------------------------------------------------------------

const picker = { start: 0, asked: 0, answered: 0 };

const listed = async (query) => answer(await fetch(`/gallery?${new URLSearchParams(query)}`));

function candidate({ hash, path }, chosen) {
  const image = element("img", { src: imageUrl(hash), alt: path, loading: "lazy" });
  const button = element("button", { type: "button", title: path, className: "view" }, image);
  button.addEventListener("click", chosen);
  return element("li", {}, button);
}

async function list(more = false) {
  if (more && picker.answered !== picker.asked) return; // other names are asked for meanwhile
  picker.start = more ? at("candidates").children.length : 0;
  const asked = ++picker.asked;
  try {
    const found = await listed({ start: picker.start, name: at("name").value });
    if (asked !== picker.asked) return;
    picker.answered = asked;
    const made = found.images.map((image) =>
      candidate(image, () => {
        at("picker").close();
        takeFromGallery(image);
      }),
    );
    if (more) at("candidates").append(...made);
    else renew(at("candidates"), made, at("name"));
    const shown = at("candidates").children.length;
    at("picker-count").textContent = texts.picked(shown, found.total);
    if (more) made[0]?.firstChild.focus();
    present(at("picker-more"), shown < found.total, at("name"));
  } catch (error) {
    at("picker-count").textContent = lost(error);
  }
}

at("pick").addEventListener("click", () => {
  at("picker").showModal();
  at("name").focus();
  list();
});
at("name").addEventListener("input", () => list());
at("picker-more").addEventListener("click", () => list(true));
at("picker-close").addEventListener("click", () => at("picker").close());
at("viewer-close").addEventListener("click", () => at("viewer").close());
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", ({ target, clientX, clientY }) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    const outside = clientX < left || clientX > right || clientY < top || clientY > bottom;
    if (target === dialog && outside) dialog.close(); // the backdrop
  });
}

// --- asking --------------------------------------------------------------------------------------

function told(line) {
  if (line.step === "wait") say(texts.waiting(line.ahead));
  else if (line.step) say(texts.steps[line.step] ?? texts.working);
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split("\n");
    rest = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}

const hashesOf = (images) => images.map(({ hash }) => hash).join(",");

// Which part of the ranking is asked for, and among which images.
const part = ({ where, group, start, count }) => ({ where: where.join("\n"), group, start, top_k: count });

async function ask(question, signal) {
  const { reference, further, text, left, unlike, unlikeImages, method, weights } = question;
  const form = new FormData();
  if (left) {
    form.append("state", left.state);
    form.append("vector", left.vector);
    form.append("carried_captions", left.captions.join("\n"));
  }
  const every = [reference, ...further].filter(Boolean);
  const sent = left ? [] : every.filter(({ file }) => file);
  for (const { file } of sent) form.append("image", file);
  const known = further.filter((image) => !sent.includes(image));
  if (reference && !sent.includes(reference)) form.append("reference", reference.hash);
  if (known.length) form.append("further", hashesOf(known));
  form.append("relative_caption", text);
  if (unlike) form.append("unlike", unlike);
  if (unlikeImages.length) form.append("unlike_images", hashesOf(unlikeImages));
  if (method) form.append("method", method);
  for (const [name, value] of Object.entries(part(question))) form.append(name, value);
  for (const [name, value] of Object.entries(weights ?? {})) form.append(name, value);
  const response = await fetch("/query", { method: "POST", body: form, signal });
  if (!response.ok) await answer(response);
  for await (const line of lines(response)) {
    if (line.error) throw new Error(line.error);
    if (line.result) return line.result;
    told(line);
  }
  throw new Error(texts.stopped);
}

// Asks, and shows the answer as a new turn; `linked` is one that the address already holds.
async function search(question, linked = false) {
  const abort = new AbortController();
  state.busy = abort;
  at("cancel").hidden = false;
  present(at("search"), false, at("cancel"));
  say(texts.asking);
  let meanwhile = question.where;
  try {
    const result = await ask(question, abort.signal);
    const uploads = [...result.uploads]; // their hashes, in the order in which they were sent
    const known = (image) => (image.file && uploads.length ? { ...image, hash: uploads.shift() } : image);
    const reference = question.reference && {
      ...known(question.reference),
      path: result.path ?? question.reference.path,
    };
    const further = question.further.map(known);
    const shown = {
      captions: [...result.captions],
      edited_captions: [...result.edited_captions],
      images: result.images,
      notes: result.notes,
      vector: result.vector,
      matching: result.matching,
    };
    const typed = !linked && at("text").value.trim() !== question.text; // while this was asked
    const draft = typed ? at("text").value : undefined;
    state.turns.push({ ...question, reference, further, asked: result, shown, draft });
    state.current = state.turns.length - 1;
    remember(!linked);
    if (!linked) meanwhile = filter.get();
    show();
    say(found());
    const goesOn = typed || at("filters").contains(document.activeElement);
    if (!goesOn) at("results").focus({ preventScroll: !linked });
    window.scrollTo({ top: 0 });
    return true;
  } catch (error) {
    if (error.name === "AbortError") say(texts.cancelled);
    else say(lost(error), true);
    return false;
  } finally {
    state.busy = null;
    at("search").hidden = false;
    present(at("cancel"), false, at("search"));
    if (meanwhile !== question.where) {
      filter.set(meanwhile);
      among(meanwhile);
    }
  }
}

// What the turn that is shown leaves to the next, as /query takes it; null for its image.
function leaves(how) {
  if (how === "image" || !turn()?.shown.vector) return null;
  const { edited_captions: edited, vector } = turn().shown;
  const captions = edited.filter(Boolean).map((text) => text.replace(/\s+/g, " "));
  const { text, method, weights } = turn();
  const before = [...(turn().left?.before ?? []), { text, method, weights, state: turn().left?.state }];
  return { state: how, vector, captions, before };
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.busy) return;
  const text = at("text").value.trim();
  if (!text && !state.reference && !state.further.length) {
    say(texts.sayFirst, true);
    at("text").focus();
    return;
  }
  const carried = leaves(at("state").value);
  search({
    reference: carried ? turn().reference : state.reference,
    further: carried ? turn().further : [...state.further],
    text,
    left: carried,
    unlike: at("unlike").value.trim(),
    unlikeImages: [...state.unlike],
    method: at("method").value,
    weights: weightsShown(),
    where: filter.take(),
    group: at("group").checked,
    start: 0,
    count: PAGE,
  });
});
at("cancel").addEventListener("click", () => state.busy?.abort());
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
at("text").addEventListener("input", () => {
  if (turn()) turn().draft = at("text").value; // another turn's is kept for its return
});

// --- the address: every turn has one, to go back to, reload or share -----------------------------

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

function remember(anew) {
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
async function follow() {
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

// --- ranking again: sliders, method, texts ---------------------------------------------------------

const filter = makeFilter({
  fields: async () => (await answer(await fetch("/fields"))).fields,
  changed: among,
  say: (error) => say(lost(error), true),
});

// Shows the turn among other images; one of which no image met the filter has no texts to rank by.
function among(where) {
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

// One request at a time; a turn that changed meanwhile is asked for right after, older states never.
// Returns whether this call's request was answered.
async function rank(said) {
  turn().stale = true;
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
    say(said ?? found());
    return true;
  } catch (error) {
    say(lost(error), true);
    return false;
  } finally {
    ranking = false;
  }
}

// Ranks by something else: what is best by that comes first.
function rankAnew(said = texts.again) {
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

function found() {
  const { start, shown: { images, matching } } = turn();
  const total = number(matching);
  if (!matching) return texts.noMatch;
  if (!images.length) return texts.none;
  if (!start) return texts.best(number(images.length), total);
  return texts.between(number(start + 1), number(start + images.length), total);
}

function weightsShown() {
  if (!state.settings.methods[at("method").value]?.weights) return {};
  return { alpha_pos: Number(at("alpha-pos").value), alpha_neg: Number(at("alpha-neg").value) };
}

function showNumbers() {
  for (const name of ["alpha-pos", "alpha-neg"]) {
    at(`${name}-value`).textContent = Number(Number(at(name).value).toPrecision(4));
  }
}

function showWeights(method, weights) {
  const { about, weights: known } = state.settings.methods[method] ?? {};
  at("method-said").textContent = about ?? "";
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

// --- showing ---------------------------------------------------------------------------------------

function show() {
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
function showStates() {
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

const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(4);

// The images of the turn as they stand, those that are nearly alike behind theirs where it is open.
function standing() {
  const { start, opened, shown: { images } } = turn();
  return images.flatMap((image, place) => {
    const nth = start + place + 1;
    const members = opened?.has(image.hash) ? image.members : [];
    return [{ ...image, nth }, ...members.map((one) => ({ ...one, nth, isMember: true }))];
  });
}

function told_of(image) {
  const numbers = [image.score.toFixed(4), image.similarity.toFixed(4), signed(image.increment)];
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
  const badge = element("span", { className: "badge", textContent: image.score.toFixed(2) });
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

function showImages() {
  const { images, notes } = turn().shown;
  at("notes").textContent = notes.join(" ");
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
  at("places").textContent = texts.places(number(total));
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
const showFurther = () => showKept("further", "further", texts.alsoNoMore, "text");

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

function useAsReference({ hash, path }) {
  state.further = [];
  showFurther();
  at("text").value = "";
  takeFromGallery({ hash, path }, texts.newReference(path));
}

function showTexts() {
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

// --- the viewer ------------------------------------------------------------------------------------

let viewed = 0;

function enlarge(place) {
  const images = turn().standing;
  viewed = (place + images.length) % images.length;
  const image = images[viewed];
  at("viewer-name").textContent = image.path;
  at("viewer-image").src = at("viewer-open").href = imageUrl(image.hash, "large");
  at("viewer-image").alt = image.path;
  at("viewer-numbers").textContent = told_of(image);
  at("viewer-status").textContent = "";
  at("previous").hidden = at("next").hidden = images.length < 2;
  if (at("viewer").open) return;
  at("viewer").returnValue = "";
  at("viewer").showModal();
}

at("previous").addEventListener("click", () => enlarge(viewed - 1));
at("next").addEventListener("click", () => enlarge(viewed + 1));
at("viewer").addEventListener("keydown", ({ key }) => {
  if (key === "ArrowLeft") enlarge(viewed - 1);
  if (key === "ArrowRight") enlarge(viewed + 1);
});
at("viewer").addEventListener("close", () => {
  if (at("viewer").returnValue === "use") useAsReference(turn().standing[viewed]);
  else at("images").children[viewed]?.querySelector(".view").focus();
});
at("viewer-use").addEventListener("click", () => at("viewer").close("use"));
at("viewer-copy").addEventListener("click", async () => {
  const { path } = turn().standing[viewed];
  try {
    await navigator.clipboard.writeText(path);
    at("viewer-status").textContent = texts.copied(path);
  } catch {
    at("viewer-status").textContent = texts.notCopied;
  }
});

// --- selecting and saving --------------------------------------------------------------------------

function showSelection() {
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
    say(texts.zipMost(number(most)), true);
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

// --- start -----------------------------------------------------------------------------------------

function showFolder() {
  const { name, images, indexing } = state.settings;
  at("gallery-name").textContent = texts.folder(name, number(images));
  at("indexing").hidden = !indexing?.running && !indexing?.error;
  if (!indexing) return;
  const { done, total, failed, skipped, error, running } = indexing;
  const others = Object.values(skipped).reduce((sum, count) => sum + count, 0);
  if (failed || others) at("gallery-name").append(` (${texts.leftOut(failed, others)})`);
  at("indexing-said").textContent = error
    ? texts.indexFailed(error)
    : total ? texts.indexing(number(done), number(total)) : texts.indexingStarts;
  at("indexed").hidden = !running;
  at("indexed").max = total || 1;
  if (total) at("indexed").value = done;
  else at("indexed").removeAttribute("value");
}

// Follows the index until it is there: what can be searched is shown as it grows.
async function watchIndex() {
  while (state.settings.indexing?.running) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const before = state.settings.images;
    try {
      state.settings = await answer(await fetch("/settings"));
    } catch {
      continue;
    }
    showFolder();
    if (!before && state.settings.images) await showSamples();
  }
}

async function showSamples() {
  try {
    const { images } = await listed({ start: 0 });
    const every = Math.max(1, Math.floor(images.length / SAMPLES));
    const some = images.filter((_, place) => place % every === 0).slice(0, SAMPLES);
    const made = some.map((image) => candidate(image, () => takeFromGallery(image)));
    renew(at("samples"), made, at("text"));
  } catch {
    // there is nothing to show yet
  }
}

async function start() {
  fill(document);
  at("text").placeholder = texts.example;
  at("unlike").placeholder = texts.unlikeExample;
  at("ranking").open = WIDE.matches;
  at("examples").replaceChildren(
    ...texts.examples.map((text) => {
      const button = element("button", { type: "button", textContent: text });
      button.addEventListener("click", () => {
        at("text").value = text;
        at("text").focus();
      });
      return button;
    }),
  );
  try {
    state.settings = await answer(await fetch("/settings"));
  } catch (error) {
    say(lost(error), true);
    return;
  }
  const { name, methods, method, endings } = state.settings;
  document.title = `${name} · seize`;
  showFolder();
  at("group-box").hidden = state.settings.group_at === null;
  at("text").maxLength = state.settings.longest_text;
  at("file").accept = ["image/*", ...endings].join(",");
  at("method").replaceChildren(
    ...Object.keys(methods).map((each) => element("option", { value: each, textContent: each })),
  );
  at("method").value = method;
  showWeights(method);
  at("controls").disabled = false;
  at("search").disabled = false;
  if (state.settings.images) await showSamples();
  await Promise.all([watchIndex(), follow()]);
}

start();
