"use strict";
// Nothing here is needed to read the page. It takes the theme of Airflow's UI, follows links out of the frame in which
// the UI shows the page, asks for the balance and the states of requests, and keeps what changes up to date.

function storedTheme() {
  try {
    return localStorage.getItem("theme"); // where Airflow's UI keeps its own
  } catch {
    return null;
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme() {
  const stored = storedTheme();
  const theme = stored === "light" || stored === "dark" ? stored : dark.matches ? "dark" : "light";
  document.documentElement.dataset.theme = theme;
}

setTheme();
dark.addEventListener("change", setTheme);
addEventListener("storage", setTheme);

// The UI's frame may neither navigate the window nor, before Airflow 3.2, download. A link of the window itself may.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[target=_top], a[download]");
  if (!link || parent === window || event.button !== 0) return;
  event.preventDefault();
  const outer = parent.document.createElement("a");
  outer.href = link.href;
  if (link.hasAttribute("download")) outer.download = link.download;
  if (event.ctrlKey || event.metaKey) outer.target = "_blank";
  parent.document.body.append(outer);
  outer.click();
  outer.remove();
});

async function fill(place) {
  const response = await fetch(place.dataset.fill);
  if (response.ok && !response.redirected) place.textContent = await response.text();
}

async function fillStates(list) {
  const response = await fetch(list.dataset.states);
  if (!response.ok || response.redirected) return;
  const states = await response.json();
  for (const place of list.querySelectorAll("[data-state]")) {
    if (place.dataset.state in states) place.textContent = states[place.dataset.state] || "unknown";
  }
}

function fillAll() {
  for (const place of document.querySelectorAll("[data-fill]")) fill(place).catch(() => {});
  for (const list of document.querySelectorAll("[data-states]")) fillStates(list).catch(() => {});
}

async function refresh() {
  if (document.hidden || document.activeElement?.closest("main form")) return;
  const response = await fetch(location.href);
  if (!response.ok || response.redirected) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("main");
  if (!fresh) return;
  document.querySelector("main").replaceWith(fresh);
  fillAll();
}

addEventListener("DOMContentLoaded", () => {
  fillAll();
  const seconds = Number(document.querySelector("main").dataset.refresh);
  if (seconds) setInterval(() => refresh().catch(() => {}), 1000 * seconds);
});
