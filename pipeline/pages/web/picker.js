// Picking an image of the gallery.

import { present, renew } from "/focus.js";
import { at, element, imageUrl, listed, lost } from "/page.js";
import { takeFromGallery } from "/reference.js";
import { texts } from "/texts.js";

const picker = { start: 0, asked: 0, answered: 0 };

export function candidate({ hash, path }, chosen) {
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
