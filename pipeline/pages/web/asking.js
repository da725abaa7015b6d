// Asking: a query and its steps, and the turn that it becomes.

import { remember } from "/address.js";
import { present } from "/focus.js";
import { PAGE, answer, at, hashesOf, lost, say, state, turn } from "/page.js";
import { among, filter, found, weightsShown } from "/ranking.js";
import { show } from "/showing.js";
import { texts, told } from "/texts.js";

function step(line) {
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

// Which part of the ranking is asked for, and among which images.
export const part = ({ where, group, start, count }) => ({ where: where.join("\n"), group, start, top_k: count });

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
    if (line.error) throw new Error(told(line.error));
    if (line.result) return line.result;
    step(line);
  }
  throw new Error(texts.stopped);
}

// Asks, and shows the answer as a new turn; `linked` is one that the address already holds.
export async function search(question, linked = false) {
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
export function leaves(how) {
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
