// Fetches the page again every two seconds and puts its new contents in place of the old. Without this file the page is whole,
// and a <noscript> reloads it. When no answer comes, the page says since when: what is old never looks well.
"use strict";

(() => {
  const EVERY_MS = 2000;
  const PATIENCE_MS = 6000;
  let answeredAt = Date.now();

  function openDetails() {
    return [...document.querySelectorAll("details[open][id]")].map((element) => element.id);
  }

  function replace(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const main = fresh.getElementById("main");
    if (!main) return;
    const open = openDetails();
    document.getElementById("main").replaceWith(document.adoptNode(main));
    open.map((id) => document.getElementById(id)).forEach((element) => element && (element.open = true));
    document.title = fresh.title;
    const icon = fresh.getElementById("icon").getAttribute("href");
    if (document.getElementById("icon").getAttribute("href") !== icon) document.getElementById("icon").setAttribute("href", icon);
  }

  function showSilence() {
    const silent = Date.now() - answeredAt;
    const note = document.getElementById("silence");
    const old = silent > PATIENCE_MS;
    note.hidden = !old;
    document.body.classList.toggle("old", old);
    if (old) {
      note.textContent = `? UNKNOWN: no answer for ${Math.round(silent / 1000)} s; what stands below is old`;
      document.title = "? no answer · TARN";
      document.getElementById("icon").setAttribute("href", "dashboard/calm.svg");
    }
  }

  function selecting() {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed;
  }

  async function refresh() {
    const control = new AbortController();
    const timer = setTimeout(() => control.abort(), PATIENCE_MS);
    try {
      const answer = await fetch("dashboard", { signal: control.signal, headers: { Accept: "text/html" }, cache: "no-store" });
      const html = await answer.text();
      if (answer.status === 401) return location.reload();
      if (answer.ok) {
        answeredAt = Date.now();
        if (!selecting()) replace(html);
      }
    } catch (error) {
      // no answer: showSilence tells it
    } finally {
      clearTimeout(timer);
    }
    showSilence();
  }

  async function turn() {
    if (!document.hidden) await refresh();
    setTimeout(turn, EVERY_MS);
  }

  document.addEventListener("visibilitychange", () => !document.hidden && refresh());
  setInterval(showSilence, 1000);
  setTimeout(turn, EVERY_MS);
})();
