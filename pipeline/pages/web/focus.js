// Keeps the keyboard's focus where the page shows anew, hides or takes away what has it.

const CONTROLS = "a[href], button, input, select, textarea, summary, [tabindex]";

const usable = (control) => !control.disabled && control.getClientRects().length > 0;
const controlsIn = (root) => [...root.querySelectorAll(CONTROLS)].filter(usable);

function nameOf(control) {
  const said =
    control.getAttribute("aria-label") || control.labels?.[0]?.textContent || control.textContent.trim();
  return `${control.tagName} ${said || control.querySelector("img")?.alt}`;
}

// Puts new children into `list`. Focus in it goes to the control of the same name; where that is
// gone, to the one that took its place in the list, and to `otherwise` where the list is empty.
export function renew(list, children, otherwise) {
  const held = list.contains(document.activeElement) ? document.activeElement : null;
  const name = held && nameOf(held);
  const place = [...list.children].findIndex((child) => child.contains(held));
  list.replaceChildren(...children);
  if (!held) return;
  const same = controlsIn(list).find((control) => nameOf(control) === name);
  const neighbour = list.children[Math.min(place, list.children.length - 1)];
  (same ?? (neighbour && controlsIn(neighbour)[0]) ?? otherwise).focus({ preventScroll: true });
}

// Shows `control` or hides it; focus on it or in it then goes to `next`.
export function present(control, isShown, next) {
  const held = !isShown && control.contains(document.activeElement);
  control.hidden = !isShown;
  if (held) next.focus({ preventScroll: true });
}
