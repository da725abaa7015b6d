// The viewer: one image large, with previous and next.

import { at, imageUrl, turn } from "/page.js";
import { told_of, useAsReference } from "/showing.js";
import { texts } from "/texts.js";

let images = []; // as they stood when it was opened: they may be ranked anew behind it
let viewed = 0;

export function enlarge(place) {
  if (!at("viewer").open) images = turn().standing;
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
  if (at("viewer").returnValue === "use") useAsReference(images[viewed]);
  else at("images").children[viewed]?.querySelector(".view").focus();
});
at("viewer-use").addEventListener("click", () => at("viewer").close("use"));
at("viewer-copy").addEventListener("click", async () => {
  const { path } = images[viewed];
  try {
    await navigator.clipboard.writeText(path);
    at("viewer-status").textContent = texts.copied(path);
  } catch {
    at("viewer-status").textContent = texts.notCopied;
  }
});
