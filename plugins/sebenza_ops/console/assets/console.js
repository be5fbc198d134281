// Runs on the console's pages, also inside Airflow's frame.
"use strict";

const REFRESH_MILLISECONDS = 5000;

const framed = window.parent !== window;

// Airflow has its own switch between light and dark; inside its frame the page follows that one.
function followAirflow() {
  const airflow = window.parent.document.documentElement;
  const follow = () => {
    document.documentElement.dataset.theme = airflow.classList.contains("dark") ? "dark" : "light";
  };
  follow();
  new MutationObserver(follow).observe(airflow, { attributes: true, attributeFilter: ["class"] });
}
if (framed) followAirflow();

// The frame may not move the page around it; Airflow's own router may, and listens to the history.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-airflow]");
  if (!link || !framed) return;
  event.preventDefault();
  window.parent.history.pushState({}, "", link.href);
  window.parent.dispatchEvent(new PopStateEvent("popstate", { state: {} }));
});

function say(text) {
  let line = document.getElementById("live");
  if (!line) {
    line = document.createElement("p");
    line.id = "live";
    line.className = "live small screen-only";
    document.body.prepend(line);
  }
  line.textContent = text;
}

function isInProgress() {
  const report = document.getElementById("report");
  return report !== null && report.dataset.inProgress === "true";
}

function now() {
  return `${new Date().toISOString().slice(11, 19)} UTC`;
}

let lastRefresh = now();

// A page that is refreshed whole would lose the place that somebody reads.
async function refresh() {
  try {
    const answer = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`Airflow answered ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const report = page.getElementById("report");
    if (!report) throw new Error("the answer was no report");
    document.getElementById("report").replaceWith(report);
    document.title = page.title;
    lastRefresh = now();
    say(isInProgress() ? `Live: refreshed at ${lastRefresh}` : "The run is over; this is its report.");
  } catch (error) {
    say(`Not refreshed since ${lastRefresh}: ${error.message}. Trying again.`);
  }
  if (isInProgress()) setTimeout(refresh, REFRESH_MILLISECONDS);
}

document.addEventListener("DOMContentLoaded", () => {
  if (!isInProgress()) return;
  say(`Live: refreshed every ${REFRESH_MILLISECONDS / 1000} seconds`);
  setTimeout(refresh, REFRESH_MILLISECONDS);
});
