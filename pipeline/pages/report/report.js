// Shows the queries of a report. All text from data goes into text nodes, never into markup.
"use strict";

const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);

const report = read("data");
const compared = report.sides.length > 1;
const MINUS = "−";

/** Make an element; children are elements, strings (text nodes), or null for none. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const fixed = (value) => value.toFixed(4).replace("-", MINUS);
const signed = (value) => (value < 0 ? "" : "+") + fixed(value);

// --- pictures ---------------------------------------------------------------------------------

const blocks = new Map();

function picture(image, text) {
  const block = Math.floor(image / report.chunk);
  if (!blocks.has(block)) blocks.set(block, read(`pictures-${block}`));
  const content = blocks.get(block)[image % report.chunk];
  if (content === null) {
    return make("span", { className: "picture absent", role: "img", ariaLabel: text }, "no picture");
  }
  return make("img", {
    className: "picture", alt: text, decoding: "async", src: `data:image/webp;base64,${content}`,
  });
}

// --- one query --------------------------------------------------------------------------------

/** Say how an image stands against its place by absolute similarity alone. */
function movement(rank, place) {
  const places = place - rank;
  const words = Math.abs(places) === 1 ? "1 place" : `${Math.abs(places)} places`;
  if (places === 0) {
    return make("span", { title: "the same place by absolute similarity alone" }, "=");
  }
  const label = `${places > 0 ? "up" : "down"} ${words} from ${place} by absolute similarity alone`;
  const arrow = make(
    "span", { className: places > 0 ? "up" : "down", title: label, role: "img", ariaLabel: label },
    `${places > 0 ? "▲" : "▼"}${Math.abs(places)}`,
  );
  return make("span", {}, arrow, make("span", { ariaHidden: "true" }, ` from ${place}`));
}

function row(name, value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value));
}

/**
 * Show image `number` of a list; `truth` holds the query's relevant images, `isWhole` says whether
 * its ranks are those in the whole gallery.
 */
function result(listed, number, truth, isWhole) {
  const image = listed.images[number];
  const rank = listed.ranks[number];
  const score = listed.scores[number];
  const measured = listed.absolute !== undefined && listed.absolute[number] !== null;
  const figures = make("dl", {});
  if (score !== null) figures.append(row("score", fixed(score)));
  if (measured) {
    figures.append(row("absolute", fixed(listed.absolute[number])));
    figures.append(row("increment", signed(listed.increment[number])));
  }
  if (listed.other !== undefined) {
    const place = listed.other[number];
    figures.append(row("other rank", place === null ? `> ${report.depth}` : `${place}`));
  }
  const shown = make("div", { className: "rank" }, make("b", {}, rank === null ? `> ${report.depth}` : `${rank}`), " ");
  if (measured && rank !== null && isWhole) shown.append(movement(rank, listed.place[number]));
  if (measured && rank === null) shown.append(`${listed.place[number]} by absolute`);
  const id = report.images[image];
  const relevant = truth.has(image);
  return make(
    "li", { className: relevant ? "result truth" : "result" },
    picture(image, `image ${id}`),
    shown,
    relevant ? make("div", { className: "mark" }, "✓ ground truth") : null,
    figures,
    make("div", { className: "name" }, id),
  );
}

function results(listed, truth, isWhole) {
  const list = make("ol", { className: "results" });
  listed.images.forEach((_, number) => list.append(result(listed, number, truth, isWhole)));
  return list;
}

function sideOf(query, number) {
  const side = query.sides[number];
  const truth = new Set(query.truth);
  const shown = make("section", {});
  if (compared) {
    const value = report.metrics.length ? `, ${report.metrics[0]} ${side.metrics[0].toFixed(2)}` : "";
    shown.append(make("h4", {}, report.sides[number] + value));
  }
  if (side.top) shown.append(results(side.top, truth, true));
  if (side.missed) {
    shown.append(make("p", { className: "quiet" }, `Ground truth that is not among the first ${report.top}`));
    shown.append(results(side.missed, truth, true));
  }
  if (side.subset) {
    shown.append(make("p", { className: "quiet" }, "Ranking within the group of the reference image"));
    shown.append(results(side.subset, truth, false));
  }
  return shown;
}

function texts(query) {
  if (!query.captions.length) return null;
  const edited = query.captions[0].length > 1;
  const failed = query.captions.filter((pair) => edited && pair[1] === null).length;
  const title = `${query.captions.length} captions${edited ? " and their edited captions" : ""}`;
  const details = make(
    "details", { className: "captions", open: byId("open-captions").checked },
    make("summary", {}, failed ? `${title}, ${failed} of them without an edit` : title),
  );
  const head = ["caption", ...(edited ? ["edited caption"] : [])];
  const table = make("table", { className: "texts" });
  const cells = head.map((name) => make("th", { scope: "col" }, name));
  table.append(make("thead", {}, make("tr", {}, ...cells)), make("tbody", {}));
  for (const pair of query.captions) {
    const line = pair.map((text) =>
      text === null ? make("td", { className: "failed" }, "none: the LLM failed") : make("td", {}, text),
    );
    table.tBodies[0].append(make("tr", {}, ...line));
  }
  details.append(table);
  return details;
}

const SEARCHED_BY = { text: "text", image: "reference image", both: "reference image with text" };

/** Show how a query was taken apart: what is searched, and what becomes of the images found. */
function plan({ method, join, retrievals, failed }) {
  const unwanted = retrievals.filter(({ wanted }) => !wanted).length;
  const wanted = retrievals.length - unwanted;
  const joined = wanted > 1 ? `${join} of ${wanted} retrievals` : "1 retrieval";
  const title = `plan of ${method}: ${joined}${unwanted ? `, less ${unwanted} unwanted` : ""}`;
  const details = make(
    "details", { className: "captions", open: byId("open-captions").checked },
    make("summary", {}, title),
    failed ? make("p", { className: "failed" }, "the LLM made none, so this one was searched by") : null,
  );
  const head = ["searched by", "text", "images found are"].map((name) => make("th", { scope: "col" }, name));
  const table = make("table", { className: "plan" });
  table.append(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}));
  for (const { by, text, wanted } of retrievals) {
    const cells = [SEARCHED_BY[by], text, wanted ? "wanted" : "taken away"];
    table.tBodies[0].append(make("tr", {}, ...cells.map((cell) => make("td", {}, cell))));
  }
  details.append(table);
  return details;
}

const cards = report.queries.map((query, order) => {
  const heading = make("h3", {}, make("a", { href: `#query-${encodeURIComponent(query.id)}` }, `query ${query.id}`));
  const top = make("div", { className: "heading" }, heading);
  if (report.metrics.length && !compared) {
    top.append(make("span", {}, `${report.metrics[0]} ${query.sides[0].metrics[0].toFixed(2)}`));
  }
  if (query.parts.length) top.append(make("span", { className: "quiet" }, query.parts.join(", ").replaceAll("_", " ")));
  const article = make(
    "article", { className: "query", id: `query-${query.id}`, tabIndex: -1 },
    top,
    make("p", { className: "relative" }, query.relative.join(" · ")),
    query.concept ? make("p", { className: "quiet" }, `shared concept: ${query.concept}`) : null,
  );
  return { query, order, article, built: false };
});

function build(card) {
  if (card.built) return;
  card.built = true;
  const { query, article } = card;
  const references = query.references.map((image) => make(
    "figure", { className: "reference" },
    picture(image, `reference image ${report.images[image]}`),
    make("figcaption", { className: "quiet" }, `reference ${report.images[image]}`),
  ));
  const sides = make("div", { className: "sides" }, ...query.sides.map((_, number) => sideOf(query, number)));
  article.prepend(...references);
  article.append(...[texts(query), ...query.plans.map(plan), sides].filter(Boolean));
}

// --- which queries, in which order ------------------------------------------------------------

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** How many places the images of a list moved in all; null where that is not known. */
function moved(listed) {
  if (!listed || !listed.place) return null;
  return sum(listed.images.map((_, i) => (listed.place[i] === null ? 0 : Math.abs(listed.place[i] - listed.ranks[i]))));
}

/** The best rank of a relevant image; infinite where the ranking ends before all of them. */
function firstTruth({ sides: [{ top, missed }], truth }) {
  const lists = [top, missed].filter(Boolean);
  const ranks = lists.flatMap(({ images, ranks }) => ranks.filter((_, i) => truth.includes(images[i])));
  return Math.min(...ranks.filter((rank) => rank !== null));
}

/** How much the headline metric gains against the other ranking; images not shared where level. */
function difference({ sides: [own, other] }) {
  const shared = own.top && other.top ? own.top.images.filter((image) => other.top.images.includes(image)).length : 0;
  const unshared = 1 - shared / report.top;
  const gain = report.metrics.length ? own.metrics[0] - other.metrics[0] : 0;
  return { gain, change: Math.abs(gain) + unshared / 1e4 };
}

/** What queries can be sorted by: name, key of a query, and whether the highest comes first. */
const orders = [{ name: "place in the dataset", key: (query, order) => order, falling: false }];
report.metrics.forEach((name, i) => {
  orders.push({ name, key: (query) => query.sides[0].metrics[i], falling: false });
});
if (report.metrics.length) {
  orders.push({ name: "rank of the first ground truth", key: firstTruth, falling: true });
}
orders.push({ name: "score of the first image", key: (query) => (query.sides[0].top ? query.sides[0].top.scores[0] : null), falling: true });
if (report.has_similarities) {
  orders.push({ name: "places moved from absolute similarity", key: (query) => moved(query.sides[0].top), falling: true });
}
if (compared) {
  orders.unshift(
    { name: `change against ${report.sides[1]}`, key: (query) => difference(query).change, falling: true },
    { name: `gain against ${report.sides[1]}`, key: (query) => difference(query).gain, falling: true },
  );
}

const list = byId("list");
const matching = () => cards.filter((card) => !card.article.hidden);

function sort() {
  const { key } = orders[byId("sort").value];
  const sign = Number(byId("direction").value);
  const keys = new Map(cards.map((card) => [card, key(card.query, card.order)]));
  const ordered = [...cards].sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === y) return a.order - b.order;
    if (x === null || y === null) return x === null ? 1 : -1;
    return sign * (x < y ? -1 : 1);
  });
  list.replaceChildren(...ordered.map((card) => card.article));
}

function haystack(card) {
  const { id, relative, captions, concept, plans } = card.query;
  const planned = plans.flatMap(({ retrievals }) => retrievals.map(({ text }) => text));
  card.text ??= [`query ${id}`, concept ?? "", ...relative, ...captions.flat(), ...planned].join("\n").toLowerCase();
  return card.text;
}

function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const part = byId("part")?.value ?? "";
  for (const card of cards) {
    const fits = words.every((word) => haystack(card).includes(word));
    card.article.hidden = !fits || (part !== "" && !card.query.parts.includes(part));
  }
  const shown = matching().length;
  byId("count").value = shown === cards.length ? `${shown} queries` : `${shown} of ${cards.length} queries`;
}

function choose(order) {
  byId("sort").value = String(order);
  byId("direction").value = orders[order].falling ? "-1" : "1";
  sort();
}

/** Show the query that the address names, also one that the filter hides. */
function follow() {
  const id = decodeURIComponent(location.hash.slice(1));
  const card = cards.find(({ article }) => article.id === id);
  if (!card) return;
  card.article.hidden = false;
  build(card);
  card.article.scrollIntoView();
  card.article.focus({ preventScroll: true });
}

orders.forEach(({ name }, i) => byId("sort").append(make("option", { value: String(i) }, name)));
if (byId("part")) {
  for (const name of [...new Set(cards.flatMap(({ query }) => query.parts))].sort()) {
    byId("part").append(make("option", { value: name }, name.replaceAll("_", " ")));
  }
  byId("part").addEventListener("change", filter);
}
byId("filter").addEventListener("input", filter);
byId("sort").addEventListener("change", (event) => choose(Number(event.target.value)));
byId("direction").addEventListener("change", sort);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("open-captions").addEventListener("change", (event) => {
  for (const details of list.querySelectorAll("details")) details.open = event.target.checked;
});
window.addEventListener("hashchange", follow);
window.addEventListener("beforeprint", () => matching().forEach(build));

const ofArticle = new Map(cards.map((card) => [card.article, card]));
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    build(ofArticle.get(target));
    watcher.unobserve(target);
  }
}, { rootMargin: "800px" });

// What is wider than the screen is scrolled by keyboard, too.
const wide = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const part of document.querySelectorAll(".figures section, .scroll")) wide.observe(part);

choose(0);
filter();
for (const { article } of cards) watcher.observe(article);
follow();
