// The page's behaviour. All text enters the document through textContent, never as markup.

const at = (id) => document.getElementById(id);
const state = {
  settings: null, // what /settings says
  reference: null, // {file, url, name} or {hash, path}
  turns: [], // {reference, text, asked, shown, method, weights, count}
  current: -1,
  busy: false, // a query is under way
};
const PAGE = 24;

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

const imageUrl = (hash, size = "small") => `/images/${hash}/${size}`;
const urlOf = (reference) => reference.url ?? imageUrl(reference.hash);
const nameOf = (reference) => reference.name ?? reference.path;
const turn = () => state.turns[state.current];

async function answer(response) {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error ?? `The server answered ${response.status}.`);
  return content;
}

function lost(error) {
  return error instanceof TypeError ? "The server does not answer. Is it running?" : error.message;
}

// --- the reference image -----------------------------------------------------------------------

function setReference(reference) {
  state.reference = reference;
  at("reference").src = urlOf(reference);
  at("reference").alt = `Reference image ${nameOf(reference)}`;
  at("reference").hidden = false;
  at("reference-name").textContent = nameOf(reference);
}

function takeFile(file) {
  if (!file) return;
  const limit = state.settings?.max_upload ?? Infinity;
  if (!file.type.startsWith("image/")) {
    say(`${file.name} is not an image.`, true);
  } else if (file.size > limit) {
    say(`${file.name} is larger than ${Math.floor(limit / 2 ** 20)} MiB.`, true);
  } else {
    setReference({ file, url: URL.createObjectURL(file), name: file.name });
    say(`Reference image: ${file.name}`);
    at("text").focus();
  }
}

at("file").addEventListener("change", (event) => {
  takeFile(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  takeFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])][0];
  if (file) takeFile(file);
});

// --- picking from the gallery --------------------------------------------------------------------

const picker = { start: 0, asked: 0 };

async function list(more = false) {
  picker.start = more ? at("candidates").children.length : 0;
  const asked = ++picker.asked;
  const query = new URLSearchParams({ start: picker.start, name: at("name").value });
  try {
    const found = await answer(await fetch(`/gallery?${query}`));
    if (asked !== picker.asked) return;
    const made = found.images.map(({ hash, path }) => {
      const image = element("img", { src: imageUrl(hash), alt: path, loading: "lazy" });
      const button = element("button", { type: "button", title: path }, image);
      button.addEventListener("click", () => {
        setReference({ hash, path });
        at("picker").close();
        say(`Reference image: ${path}`);
        at("text").focus();
      });
      return element("li", {}, button);
    });
    if (more) at("candidates").append(...made);
    else at("candidates").replaceChildren(...made);
    const shown = at("candidates").children.length;
    at("picker-count").textContent = `${shown} of ${found.total} images`;
    at("picker-more").hidden = shown >= found.total;
    if (more) made[0]?.firstChild.focus();
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

const STEPS = {
  caption: "Describing the image …",
  edit: "Editing the captions …",
  search: "Searching …",
};

function told(line) {
  if (line.step === "wait") {
    say(`Waiting: ${line.ahead} ${line.ahead === 1 ? "query" : "queries"} ahead of yours …`);
  } else if (line.step) {
    say(STEPS[line.step] ?? "Working …");
  }
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

async function ask(reference, text, method, weights) {
  const form = new FormData();
  if (reference.file) form.append("image", reference.file);
  else form.append("reference", reference.hash);
  form.append("relative_caption", text);
  form.append("method", method);
  form.append("top_k", PAGE);
  for (const [name, value] of Object.entries(weights)) form.append(name, value);
  const response = await fetch("/query", { method: "POST", body: form });
  if (!response.ok) await answer(response);
  for await (const line of lines(response)) {
    if (line.error) throw new Error(line.error);
    if (line.result) return line.result;
    told(line);
  }
  throw new Error("The server stopped answering. Try again.");
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (state.busy || !state.settings) return;
  if (!state.reference) {
    say("Choose a reference image first.", true);
    at("pick").focus();
    return;
  }
  if (!text) {
    say("Say what should differ.", true);
    at("text").focus();
    return;
  }
  state.busy = true;
  at("search").disabled = true;
  say("Sending …");
  const { reference } = state;
  const method = at("method").value;
  const weights = weightsShown();
  try {
    const result = await ask(reference, text, method, weights);
    state.turns.push({
      reference, text, method, weights, asked: result, shown: { ...result }, count: PAGE,
    });
    state.current = state.turns.length - 1;
    show();
    say(`${result.images.length} images found.`);
    at("results").focus();
  } catch (error) {
    say(lost(error), true);
  } finally {
    state.busy = false;
    at("search").disabled = false;
  }
});

at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});

// --- ranking again: sliders, method, texts ---------------------------------------------------------

let ranking = false;

// One request at a time; a turn that changed meanwhile is asked for right after, older states never.
// Returns whether this call's request was answered.
async function rank(said = "Ranked again.") {
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
          reference: now.asked.reference,
          relative_caption: now.text,
          captions: now.shown.captions,
          edited_captions: now.shown.edited_captions,
          method: now.method,
          top_k: now.count,
          ...now.weights,
        }),
      });
      const { images, notes } = await answer(response);
      Object.assign(now.shown, { images, notes });
      if (now === turn()) showImages();
    }
    say(said);
    return true;
  } catch (error) {
    say(lost(error), true);
    return false;
  } finally {
    ranking = false;
  }
}

function weightsShown() {
  const known = state.settings.methods[at("method").value];
  if (!known) return {};
  return { alpha_pos: Number(at("alpha-pos").value), alpha_neg: Number(at("alpha-neg").value) };
}

function showNumbers() {
  for (const name of ["alpha-pos", "alpha-neg"]) {
    at(`${name}-value`).textContent = Number(Number(at(name).value).toPrecision(4));
  }
}

function showWeights(method, weights) {
  const known = state.settings.methods[method];
  at("weights").hidden = !known;
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
  rank(`Ranked by ${turn().method}.`);
});
for (const name of ["alpha-pos", "alpha-neg"]) {
  at(name).addEventListener("input", () => {
    showNumbers();
    if (!turn()) return;
    turn().weights = weightsShown();
    rank();
  });
}
at("more").addEventListener("click", async () => {
  const now = turn();
  const before = now.shown.images.length;
  now.count = Math.min(now.count + PAGE, state.settings.most_images);
  if (!(await rank())) return;
  const added = now.shown.images.length - before;
  say(added > 0 ? `${added} more images shown.` : "All images are shown.");
  at("images").children[before]?.querySelector("button").focus();
});
at("restore").addEventListener("click", () => {
  const { captions, edited_captions: edited } = turn().asked;
  Object.assign(turn().shown, { captions: [...captions], edited_captions: [...edited] });
  showTexts();
  rank("Texts restored.");
});

// --- showing ---------------------------------------------------------------------------------------

function show() {
  const { method, weights, reference, text } = turn();
  at("controls").disabled = false;
  at("method").value = method;
  showWeights(method, weights);
  setReference(reference);
  at("text").value = text;
  showTurns();
  showImages();
  showTexts();
  if (turn().stale) rank();
}

function showTurns() {
  at("turns-box").hidden = false;
  at("turns").replaceChildren(
    ...state.turns.map((one, number) => {
      const image = element("img", { src: urlOf(one.reference), alt: "" });
      const label = element("span", { textContent: `${number + 1}. ${one.text}` });
      const button = element("button", { type: "button" }, image, label);
      button.setAttribute("aria-current", String(number === state.current));
      button.addEventListener("click", () => {
        state.current = number;
        show();
        say(`Turn ${number + 1}: ${one.text}`);
        at("turns").children[number].firstChild.focus();
      });
      return element("li", {}, button);
    }),
  );
}

const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(4);

function showImages() {
  const { images, notes } = turn().shown;
  at("notes").textContent = notes.join(" ");
  at("images").replaceChildren(
    ...images.map((image, place) => {
      const picture = element("img", { src: imageUrl(image.hash), alt: image.path });
      const view = element("button", { type: "button", className: "view" }, picture);
      view.title = `Enlarge ${image.path}`;
      view.addEventListener("click", () => enlarge(image));
      const numbers = element("p", { className: "numbers" });
      numbers.append(
        element("b", { textContent: `${place + 1}. ${image.score.toFixed(4)}` }),
        ` (similarity ${image.similarity.toFixed(4)}, increment ${signed(image.increment)})`,
      );
      if (image.copies.length) numbers.append(`; ${image.copies.length} more files alike`);
      const use = element("button", { type: "button", textContent: "Use as reference" });
      use.setAttribute("aria-label", `Use ${image.path} as the new reference`);
      use.addEventListener("click", () => {
        setReference({ hash: image.hash, path: image.path });
        at("text").value = "";
        at("text").focus();
        say(`New reference image: ${image.path}. Say what should differ from it.`);
      });
      return element("li", {}, view, numbers, use);
    }),
  );
  at("more").hidden = images.length < turn().count || turn().count >= state.settings.most_images;
}

function enlarge({ hash, path }) {
  at("viewer-name").textContent = path;
  at("viewer-image").src = imageUrl(hash, "large");
  at("viewer-image").alt = path;
  at("viewer").showModal();
}

function showTexts() {
  const { asked, shown } = turn();
  at("texts-box").hidden = false;
  const count = Math.max(asked.captions.length, 1);

  function box(kind, field, number) {
    const original = asked[field][number] ?? "";
    const id = `${field}-${number}`;
    const label = element("label", { htmlFor: id, textContent: `${kind} ${number + 1}` });
    const area = element("textarea", {
      id, rows: 2, value: shown[field][number] ?? "", maxLength: state.settings.longest_text,
    });
    const mark = () => area.classList.toggle("changed", area.value !== original);
    mark();
    area.addEventListener("input", mark);
    area.addEventListener("change", () => {
      const text = area.value.trim();
      shown[field] = shown[field].map((old, i) => (i === number ? text || null : old));
      if (field === "captions" && !text) {
        area.value = original; // a caption is needed for its edit to have an increment
        shown[field][number] = original;
        mark();
      }
      rank("Ranked by the changed texts.");
    });
    return element("div", {}, label, area);
  }

  at("texts").replaceChildren(
    ...asked.edited_captions.map((_, number) =>
      element(
        "li",
        {},
        number < count ? box("Caption", "captions", number) : element("div"),
        box("Edited caption", "edited_captions", number),
      ),
    ),
  );
}

// --- start -----------------------------------------------------------------------------------------

async function start() {
  try {
    state.settings = await answer(await fetch("/settings"));
  } catch (error) {
    say(lost(error), true);
    return;
  }
  const { name, images, methods, method, endings } = state.settings;
  document.title = `${name} · seize`;
  at("gallery-name").textContent = `${name}, ${images.toLocaleString("en")} images`;
  at("text").maxLength = state.settings.longest_text;
  at("file").accept = ["image/*", ...endings].join(",");
  at("method").replaceChildren(
    ...Object.keys(methods).map((each) => element("option", { value: each, textContent: each })),
  );
  at("method").value = method;
  showWeights(method);
  at("controls").disabled = false;
  at("search").disabled = false;
}

start();
