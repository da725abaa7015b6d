// The reference image and those beside it: uploads, drops, pastes.

import { at, nameOf, say, state, urlOf } from "/page.js";
import { showFurther } from "/showing.js";
import { texts } from "/texts.js";

export function setReference(reference) {
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
  // Until the settings are there, the server alone refuses what it does not take.
  const unknown = { max_upload: Infinity, most_uploads: Infinity, endings: [] };
  const { max_upload: limit, most_uploads: most, endings } = state.settings ?? unknown;
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
  if (!files.length) return;
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

export function takeFromGallery({ hash, path }, said = texts.reference(path)) {
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
