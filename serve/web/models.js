// Which detectors there are to choose from.

import { byId, el } from "./dom.js";

/** Loads the list into the form. Gives a function from a detector's name to its card, or null. */
export async function loadModels(api, signal) {
  const { models } = (await api.get("models", signal)).answer;
  const select = byId("model");
  const wanted = select.value;
  const options = models.map(({ name, default: first }) =>
    el("option", { value: name, text: first && models.length > 1 ? `${name} (default)` : name }),
  );
  select.replaceChildren(...options);
  const first = models.find((card) => card.default) ?? models[0];
  select.value = models.some((card) => card.name === wanted) ? wanted : (first?.name ?? "");
  const cards = new Map(models.map((card) => [card.name, card]));
  select.onchange = () => describe(cards.get(select.value));
  select.onchange();
  return (name) => cards.get(name) ?? null;
}

function describe(card) {
  byId("model-hint").textContent = card
    ? `${card.id}; ${card.calibrated ? "calibrated" : "not calibrated: its score is no probability"}`
    : "";
  byId("frames").placeholder = card ? card.frames : "";
}
