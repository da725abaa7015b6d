// The filter: conditions that images have to meet, as `seize query --where` takes them.

import { present, renew } from "/focus.js";
import { condition as shown, texts, told } from "/texts.js";

const at = (id) => document.getElementById(id);
const ORDERED = ["=", "<", "<=", ">", ">=", "!="];
const OPERATORS = { number: ORDERED, date: ORDERED, folder: ["=", "!="], text: ["~", "=", "!~", "!="] };

const option = (value, textContent) => Object.assign(document.createElement("option"), { value, textContent });

// A time as it may be typed, to the day.
const typable = (value) => String(value).replace(/^(\d{4}-\d\d-\d\d)T.*$/, "$1");

// Makes the controls work. `fields` asks what conditions can be about, `changed` hears of every change
// with the conditions, `say` tells what went wrong.
export function makeFilter({ fields, changed, say }) {
  let where = [];
  let known = null; // by name, when they were asked for

  function show() {
    renew(
      at("conditions"),
      where.map((condition) => {
        const label = texts.unfilter(shown(condition));
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: `${shown(condition)} ×` });
        button.setAttribute("aria-label", label);
        button.addEventListener("click", () => change(where.filter((one) => one !== condition)));
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
      at("filter-value"),
    );
    at("filter").textContent = where.length ? texts.filters(where.length) : texts.filter;
  }

  function change(conditions) {
    where = conditions;
    show();
    changed(where);
  }

  function chosen() {
    const field = known.get(at("filter-field").value);
    const operators = OPERATORS[field.kind] ?? OPERATORS.text;
    at("filter-operator").replaceChildren(...operators.map((sign) => option(sign, texts.operators[sign])));
    at("filter-values").replaceChildren(...(field.values ?? []).map((value) => option(value, texts.values[value] ?? value)));
    at("filter-value").value = "";
    at("filter-value").placeholder = field.least === undefined ? "" : texts.range(typable(field.least), typable(field.most));
    at("filter-about").textContent = told(field.about);
  }

  async function open() {
    if (known) return;
    try {
      known = new Map((await fields()).map((field) => [field.name, field]));
      at("filter-field").replaceChildren(...[...known.keys()].map((name) => option(name, texts.fields[name] ?? name)));
      chosen();
      at("filter-add").disabled = false;
    } catch (error) {
      say(error);
    }
  }

  // Returns the conditions with what is typed as one more.
  function typed() {
    const value = at("filter-value").value.trim();
    if (!known || !value) return where;
    const condition = at("filter-field").value + at("filter-operator").value + value;
    at("filter-value").value = "";
    return where.includes(condition) ? where : [...where, condition];
  }

  at("filter").addEventListener("click", () => {
    const opened = at("filter").getAttribute("aria-expanded") !== "true";
    at("filter").setAttribute("aria-expanded", String(opened));
    present(at("filters"), opened, at("filter"));
    if (opened) open();
  });
  at("filter-field").addEventListener("change", chosen);
  at("filter-add").addEventListener("click", () => {
    change(typed());
    at("filter-value").focus();
  });
  at("filter-value").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault(); // of the form, which searches anew
    if (at("filter-value").value.trim()) change(typed());
  });

  function set(conditions) {
    where = conditions;
    show();
  }

  // Returns all conditions, with one that is typed and not yet added.
  function take() {
    set(typed());
    return where;
  }

  return { set, take, get: () => where };
}
