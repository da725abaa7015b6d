// The start: the folder, and the first images to choose from.

import { follow } from "/address.js";
import "/asking.js";
import { renew } from "/focus.js";
import { answer, at, element, listed, lost, say, state } from "/page.js";
import { candidate } from "/picker.js";
import { showWeights } from "/ranking.js";
import { takeFromGallery } from "/reference.js";
import "/saving.js";
import "/showing.js";
import { fill, texts, told } from "/texts.js";
import "/viewer.js";

const SAMPLES = 12;
const WIDE = matchMedia("(min-width: 62rem)");

function showFolder() {
  const { name, images, indexing } = state.settings;
  at("gallery-name").textContent = texts.folder(name, images);
  at("indexing").hidden = !indexing?.running && !indexing?.error;
  if (!indexing) return;
  const { done, total, failed, skipped, error, running } = indexing;
  const others = Object.values(skipped).reduce((sum, count) => sum + count, 0);
  if (failed || others) at("gallery-name").append(` (${texts.leftOut(failed, others)})`);
  at("indexing-said").textContent = error
    ? texts.indexFailed(told(error))
    : total ? texts.indexing(done, total) : texts.indexingStarts;
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
