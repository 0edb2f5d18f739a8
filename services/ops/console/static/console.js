// The console's own script: times in the viewer's zone, and the keyboard. Pages work without it.
"use strict";
(() => {
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

  function ago(seconds) {
    for (const [name, size] of units) {
      if (Math.abs(seconds) >= size) {
        const said = `${Math.floor(Math.abs(seconds) / size)} ${name}`;
        return seconds < 0 ? `in ${said}` : `${said} ago`;
      }
    }
    return "now";
  }

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function showTimes() {
    for (const element of document.querySelectorAll("time[data-local]")) {
      say(element, exact.format(new Date(element.dateTime)));
    }
    for (const element of document.querySelectorAll("time[data-ago]")) {
      say(element, ago((Date.now() - new Date(element.dateTime)) / 1000));
    }
  }

  const hour = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
  function showChartTimes() {
    for (const title of document.querySelectorAll("title[data-at]")) {
      say(title, `${hour.format(new Date(title.dataset.at))}: ${title.dataset.says}`);
    }
  }

  // Rows of a list are its links with data-row, or the first link of each row.
  function rows() {
    const link = (row) => row.querySelector("a[data-row]") ?? row.querySelector("a");
    return [...document.querySelectorAll("main .list tbody tr")].map(link).filter(Boolean);
  }

  function move(step) {
    const links = rows();
    if (!links.length) return;
    const row = document.activeElement?.closest?.("tr");
    const here = links.findIndex((link) => link.closest("tr") === row);
    const next = here < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, here + step));
    links[next].focus();
    links[next].scrollIntoView({ block: "nearest" });
  }

  function help() {
    const dialog = document.getElementById("help");
    if (dialog && !dialog.open) dialog.showModal();
  }

  let leads = false;
  let forget;

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (typing) {
      if (event.key === "Escape" && event.target.id === "search") event.target.blur();
      return;
    }
    if (leads) {
      leads = false;
      clearTimeout(forget);
      const link = document.querySelector(`.sections a[data-key="${CSS.escape(event.key)}"]`);
      if (link) {
        event.preventDefault();
        link.click();
      }
      return;
    }
    switch (event.key) {
      case "/": {
        const search = document.getElementById("search");
        if (!search) return;
        search.focus();
        search.select();
        break;
      }
      case "j": move(1); break;
      case "k": move(-1); break;
      case "?": help(); break;
      case "g":
        leads = true;
        forget = setTimeout(() => { leads = false; }, 1500);
        break;
      default: return;
    }
    event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-help]")) help();
  });

  // One checkbox for all of its form.
  document.addEventListener("change", (event) => {
    if (!event.target.matches?.("input[data-all]")) return;
    for (const each of event.target.form.querySelectorAll("tbody input[type=checkbox]")) {
      each.checked = event.target.checked;
    }
  });

  // Whether the last request for the newer state of a page was answered.
  function connected(is) {
    document.querySelector("[data-not-connected]").hidden = is;
  }
  document.addEventListener("htmx:error", () => connected(false));
  document.addEventListener("htmx:after:request", () => connected(true));

  // Parts of a page that htmx has replaced hold new times.
  function show() {
    showTimes();
    showChartTimes();
  }
  document.addEventListener("htmx:after:swap", show);
  setInterval(showTimes, 1000);
  show();

  // A page that nobody looks at is not asked for again and again.
  document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden && event.target.getAttribute?.("hx-trigger")?.startsWith("every ")) event.preventDefault();
  });
})();
