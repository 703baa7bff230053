"use strict";
// The page: images that are drawn or chosen, in order, and what the server says of them.

const $ = (id) => document.getElementById(id);
const PEN = 40; // pixels of the canvas, which has 560
const TOKEN = "crnn-search-token";

let about; // the answer of /model
let strokes = []; // of the digit that is being drawn: each a list of points
let files = []; // the images before it
let request; // the one under way, which a newer one aborts

const canvas = $("canvas"), pen = canvas.getContext("2d");

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  if (response.status === 401) {
    sessionStorage.removeItem(TOKEN);
    $("token-form").hidden = false;
    $("token").focus();
    throw new Error("That is not the server's token.");
  }
  throw new Error(answer.error || `the server answered with ${response.status}`);
}

function complain(error) {
  if (error && error.name === "AbortError") return;
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

async function start() {
  const given = sessionStorage.getItem(TOKEN);
  try {
    about = await ask("/model");
  } catch (error) {
    const first = !given && !$("token-form").hidden; // its form says what is missing
    complain(first ? null : error);
    return;
  }
  complain(null);
  $("token-form").hidden = true;
  $("work").hidden = false;
  const { task } = about, title = task.sums ? "Draw digits, see their sum" : `Predict ${task.target}`;
  document.title = $("title").textContent = title;
  const most = `It was trained on sequences of up to ${task.longest} images.`;
  $("intro").textContent = task.sums
    ? `A network adds one handwritten digit after another. ${most}`
    : `A network predicts ${task.target} from a sequence of images. ${most}`;
  $("label").textContent = task.sums ? "Sum" : task.target;
  $("empty").textContent = task.sums ? "Nothing yet: draw a digit." : "Nothing yet: add pictures.";
  $("pad").hidden = $("next").hidden = !task.sums;
  if (!task.sums) $("files-label").textContent = "Add pictures, in order";
  $("preprocessing").replaceChildren(...about.preprocessing.map((text) => element("li", text)));
  const figures = Object.entries({ ...about.network, ...about.metrics });
  $("model").textContent = figures.map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join("\n");
  draw();
  update();
}

function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, properties);
}

function draw() {
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  Object.assign(pen, { lineCap: "round", lineJoin: "round", lineWidth: PEN, strokeStyle: "#111" });
  for (const points of strokes) {
    pen.beginPath();
    pen.moveTo(...points[0]);
    for (const point of points.length > 1 ? points.slice(1) : points) pen.lineTo(...point);
    pen.stroke();
  }
  $("hint").hidden = strokes.length > 0;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * canvas.width,
    ((event.clientY - box.top) / box.height) * canvas.height,
  ];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  strokes.push([place(event)]);
  draw();
});
canvas.addEventListener("pointermove", (event) => {
  if (!canvas.hasPointerCapture(event.pointerId)) return;
  const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  strokes.at(-1).push(...(all.length ? all : [event]).map(place));
  draw();
});
canvas.addEventListener("lostpointercapture", update);

const drawn = () => new Promise((found) => canvas.toBlob(found, "image/png"));

async function update() {
  request?.abort();
  request = new AbortController();
  const { signal } = request;
  delete document.documentElement.dataset.images; // what is shown is of before
  const blobs = [...files, ...(strokes.length ? [await drawn()] : [])];
  if (signal.aborted) return;
  $("undo").disabled = $("clear").disabled = !blobs.length;
  $("next").disabled = !strokes.length;
  if (!blobs.length) return show({ running: [], warnings: [], seen: [] });
  const body = new FormData();
  for (const [number, blob] of blobs.entries()) {
    body.append("images", blob, blob.name || `drawing-${number + 1}.png`);
  }
  body.append("show", "true");
  try {
    const answer = await ask("/predict/files", { method: "POST", body, signal });
    complain(null);
    show(answer.predictions[0]);
  } catch (error) {
    complain(error);
  }
}

function text(value) {
  if (value === null) return "no number";
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(about.task.scale)));
  return value.toFixed(Math.min(decimals, 20)) + (about.task.unit ? ` ${about.task.unit}` : "");
}

function show({ prediction = null, running, warnings, seen }) {
  const { sums } = about.task, known = running.length > 0;
  const rounded = sums && prediction !== null ? String(Math.round(prediction)) : text(prediction);
  $("value").textContent = known ? rounded : "–";
  $("exact").textContent = known && sums ? `The network says ${text(prediction)}` : "";
  $("empty").hidden = known;
  $("images").replaceChildren(...seen.map((source, number) => card(source, number, running, warnings)));
  $("warnings").replaceChildren(
    ...warnings.map(({ message, image }) =>
      element("li", image === null ? message : `Image ${image + 1}: ${message}`)
    )
  );
  document.documentElement.dataset.images = running.length;
}

function card(source, number, running, warnings) {
  const name = `Image ${number + 1}`, item = element("li");
  item.classList.toggle("warned", warnings.some(({ image }) => image === number));
  const after = element("span", `→ ${text(running[number])}`, { className: "after" });
  item.append(element("img", "", { src: source, alt: `${name} as the network sees it` }), after);
  if (number < files.length) {
    const remove = element("button", "×", { type: "button" });
    remove.setAttribute("aria-label", `Remove image ${number + 1}`);
    remove.addEventListener("click", () => (files.splice(number, 1), update()));
    item.append(remove);
  }
  return item;
}

$("next").addEventListener("click", async () => {
  const blob = await drawn();
  files.push(blob);
  strokes = [];
  draw();
  update();
});
$("undo").addEventListener("click", () => {
  if (strokes.length) strokes.pop();
  else files.pop();
  draw();
  update();
});
$("clear").addEventListener("click", () => {
  strokes = [];
  files = [];
  complain(null);
  draw();
  update();
});
$("files").addEventListener("change", (event) => {
  files.push(...event.target.files);
  event.target.value = "";
  update();
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  start();
});
start();
