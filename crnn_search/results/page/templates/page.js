"use strict";
const read = (id) => {
  const found = document.getElementById(id);
  return found ? JSON.parse(found.textContent) : {};
};
const charts = read("charts");
const configs = read("configs");
const dark = matchMedia("(prefers-color-scheme: dark)");
const place = (name) => document.getElementById(`chart-${name}`);

const textColor = (isDark) => (isDark ? "#e6e6e6" : "#1a1a1a");

function draw(name) {
  const { data, layout } = charts[name];
  layout.font.color = textColor(dark.matches);
  if (place(name).clientWidth < 500) {
    layout.margin = { ...layout.margin, l: 48, r: 8 };
  }
  Plotly.newPlot(place(name), data, layout, { responsive: true, displayModeBar: false });
  if (name.startsWith("pareto-")) {
    place(name).on("plotly_click", (event) => show(String(event.points[0].customdata)));
  }
}

function show(number) {
  const text = configs[number];
  if (text) {
    document.getElementById("config").textContent = `# trial ${number}\n${text}`;
  }
}

function copy() {
  const found = document.getElementById("config");
  getSelection().selectAllChildren(found);
  navigator.clipboard?.writeText(found.textContent).catch(() => {}); // else it is selected
}

function sort(table, column, header) {
  const rising = header.getAttribute("aria-sort") !== "ascending";
  table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.order;
  const compare = (a, b) => {
    const [first, second] = [key(a), key(b)];
    if (first === "" || second === "") {
      return (first === "") - (second === "");
    }
    const order = first - second;
    const found = Number.isNaN(order) ? first.localeCompare(second) : order;
    return rising ? found : -found;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(compare));
}

function recolor(isDark) {
  for (const name of Object.keys(charts)) {
    if (place(name).data) {
      Plotly.relayout(place(name), { "font.color": textColor(isDark) });
    }
  }
}

/* One chart after another, so that the page answers meanwhile. */
const waiting = Object.keys(charts);
function drawNext() {
  if (waiting.length) {
    draw(waiting.shift());
    setTimeout(drawNext);
  } else {
    document.documentElement.dataset.drawn = "yes";
  }
}
drawNext();

document.querySelectorAll("table.sortable").forEach((table) => {
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => sort(table, column, button.parentElement));
  });
});
document.getElementById("copy")?.addEventListener("click", copy);
dark.addEventListener("change", (event) => recolor(event.matches));
addEventListener("beforeprint", () => {
  while (waiting.length) {
    draw(waiting.shift());
  }
  for (const name of Object.keys(charts)) {
    const wide = place(name).parentElement.classList.contains("wide");
    Plotly.relayout(place(name), { width: wide ? 660 : 320, "font.color": "#000" });
  }
});
addEventListener("afterprint", () => {
  for (const name of Object.keys(charts)) {
    Plotly.relayout(place(name), { width: null, autosize: true });
  }
  recolor(dark.matches);
});
