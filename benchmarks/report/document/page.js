"use strict";
(() => {
  // Tables: a press on a heading sorts by that column, a second press turns the order round.
  const key = (row, column) => {
    const cell = row.cells[column];
    const sort = cell.dataset.sort;
    return sort === "" ? null : Number(sort);
  };
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const compare = (column, sign) => (a, b) => {
    const [x, y] = [key(a, column), key(b, column)];
    if (x !== null && y !== null) return sign * (x - y);
    if (x === null && y === null) {
      return sign * collator.compare(a.cells[column].textContent.trim(), b.cells[column].textContent.trim());
    }
    return x === null ? 1 : -1; // what has no number stands last, whatever the order
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const numeric = head.classList.contains("number");
        const now = head.getAttribute("aria-sort");
        const next = now === null ? (numeric ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        const body = table.tBodies[0];
        const rows = [...body.rows].sort(compare(column, next === "ascending" ? 1 : -1));
        body.append(...rows);
      });
    });
  }

  // Charts: drawn one after the other, those in sight first, so that the page can be used at once.
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const column = (values) => Array.isArray(values[0]) ? values[1].map((place) => values[0][place]) : values;
  const unpack = (columns) => {
    const names = Object.keys(columns);
    const all = names.map((name) => column(columns[name]));
    return names.length ? all[0].map((_, row) => Object.fromEntries(names.map((name, n) => [name, all[n][row]]))) : [];
  };
  for (const { spec } of Object.values(charts)) {
    for (const [name, columns] of Object.entries(spec.datasets)) spec.datasets[name] = unpack(columns);
  }
  const views = new Map();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = (printing) => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const [text, line, faint] = printing ? ["#000", "#999", "#333"] : [of("--text"), of("--line"), of("--faint")];
    const font = getComputedStyle(document.body).fontFamily;
    const labels = { labelColor: text, titleColor: faint, labelFont: font, titleFont: font, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 };
    return {
      background: "transparent", font, view: { stroke: "transparent" },
      axis: { ...labels, gridColor: line, gridOpacity: 0.6, domainColor: line, tickColor: line },
      legend: { ...labels, symbolFillColor: faint, symbolStrokeColor: faint }, rule: { color: text }, title: { color: text },
    };
  };
  const draw = async (figure, printing = false) => {
    const chart = charts[figure.dataset.chart];
    const place = figure.querySelector(".drawing");
    const old = views.get(figure);
    if (old) old.finalize();
    const made = await vegaEmbed(place, chart.spec, { actions: false, renderer: "svg", config: theme(printing), tooltip: { theme: dark.matches ? "dark" : "light" } });
    views.set(figure, made);
    place.classList.add("done");
    await set(figure);
  };
  const set = (figure) => {
    const made = views.get(figure);
    if (!made) return Promise.resolve();
    const hidden = [...figure.querySelectorAll('.legend button[aria-pressed="false"]')].map((one) => one.dataset.method);
    made.view.signal("hidden", hidden);
    const menu = figure.querySelector("select");
    if (menu) made.view.signal("panel", menu.value);
    return made.view.runAsync();
  };
  const figures = [...document.querySelectorAll("figure.chart")];
  for (const figure of figures) {
    for (const button of figure.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        set(figure);
      });
    }
    const menu = figure.querySelector("select");
    if (menu) menu.addEventListener("change", () => set(figure));
  }
  const idle = window.requestIdleCallback || ((work) => setTimeout(work, 1));
  const waiting = new Set(figures);
  const failed = (figure) => (error) => { figure.querySelector(".drawing").textContent = `This chart cannot be drawn: ${error.message}`; console.error(error); };
  const start = (figure) => { waiting.delete(figure); return draw(figure).catch(failed(figure)); };
  const rest = () => {
    const [next] = waiting;
    if (next) start(next).then(() => idle(rest));
    else document.documentElement.dataset.drawn = "all";
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        seen.unobserve(entry.target);
        if (waiting.has(entry.target)) start(entry.target);
      }
    }
  }, { rootMargin: "200px" });
  figures.forEach((figure) => seen.observe(figure));
  addEventListener("load", () => idle(rest));
  dark.addEventListener("change", () => { for (const figure of views.keys()) draw(figure).catch(failed(figure)); });
})();
