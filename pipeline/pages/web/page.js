// What the parts of the page share: its state, and small helpers.
// All text enters the document through textContent, never as markup.

import { texts, told } from "/texts.js";

export const at = (id) => document.getElementById(id);
export const state = {
  settings: null, // what /settings says
  reference: null, // {file, url, name} or {hash, path}
  further: [], // what the query is about beside the reference, each as that is
  unlike: [], // images {hash, path} that are not wanted
  turns: [], // {reference, text, draft, left, asked, shown, method, weights, where, group, start, count}
  current: -1,
  busy: null, // what aborts the query that is under way
  selected: new Map(), // hash to image
};
export const PAGE = 24;

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function say(text, error = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", error);
}

export const imageUrl = (hash, size = "small") => `/images/${hash}/${size}`;
export const urlOf = (reference) => reference.url ?? imageUrl(reference.hash);
export const nameOf = (reference) => reference.name ?? reference.path;
export const turn = () => state.turns[state.current];

export async function answer(response) {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error ? told(content.error) : texts.status(response.status));
  return content;
}

export function lost(error) {
  return error instanceof TypeError ? texts.lost : error.message;
}

export const listed = async (query) => answer(await fetch(`/gallery?${new URLSearchParams(query)}`));

export const hashesOf = (images) => images.map(({ hash }) => hash).join(",");
