"use strict";
// Shows openapi.json: each request with its fields, an example and its answers.

function element(name, content = "") {
  const made = document.createElement(name);
  made.append(...[content].flat());
  return made;
}

function table(header, rows) {
  const made = element("table", [
    element("thead", element("tr", header.map((text) => element("th", text)))),
    element("tbody", rows.map((row) => element("tr", row.map((cell) => element("td", cell))))),
  ]);
  const box = element("div", made);
  box.className = "scroll";
  return box;
}

const code = (text) => element("code", text);
const marked = (text) => text.split("`").map((part, number) => (number % 2 ? code(part) : part));

function of(schema, all) {
  return schema.$ref ? all.components.schemas[schema.$ref.split("/").pop()] : schema;
}

function kind(schema, all) {
  const found = of(schema, all);
  if (found.anyOf) return found.anyOf.map((one) => kind(one, all)).join(" or ");
  if (found.type !== "array") return found.type || "any";
  const low = found.minItems ?? 0, high = found.maxItems;
  return `array${high ? ` of ${low} to ${high}` : ""}: ${kind(found.items, all)}`;
}

// Rows of a table for a schema's fields; those of objects in it follow them, indented.
function fields(schema, all, depth = 0) {
  return Object.entries(of(schema, all).properties || {}).flatMap(([name, field]) => [
    [["\u00a0".repeat(4 * depth), code(name)], kind(field, all), marked(field.description || "")],
    ...fields(field.items || field, all, depth + 1),
  ]);
}

function curl(method, path, type, body, all) {
  const token = all.components.securitySchemes ? ' -H "Authorization: Bearer $TOKEN"' : "";
  const start = `curl${token} ${location.origin}${path}`;
  if (method === "get") return start;
  if (type === "multipart/form-data") return `${start} -F images=@one.png -F images=@two.png`;
  const example = JSON.stringify(of(body, all).examples?.[0] ?? {});
  return `${start} -H "Content-Type: application/json" -d '${example}'`;
}

function section(path, method, operation, all) {
  const made = [
    element("h3", [code(`${method.toUpperCase()} ${path}`), ` ${operation.summary}`]),
  ];
  const [type, content] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  made.push(element("pre", curl(method, path, type, content?.schema, all)));
  if (content) {
    made.push(element("p", `Body: ${type}`));
    made.push(table(["Field", "Type", "Meaning"], fields(content.schema, all)));
  }
  const answer = operation.responses["200"].content["application/json"];
  const rows = answer?.schema ? fields(answer.schema, all) : [];
  if (rows.length) made.push(element("p", "Answer"), table(["Field", "Type", "Meaning"], rows));
  const refusals = Object.entries(operation.responses).filter(([status]) => status !== "200");
  const codes = refusals.map(([status]) => status).join(", ");
  made.push(
    element("details", [
      element("summary", `Refused with ${codes}`),
      table(["Status", "Why"], refusals.map(([status, { description }]) => [code(status), description])),
    ])
  );
  return made;
}

async function start() {
  const all = await (await fetch("/openapi.json")).json();
  document.getElementById("about").append(...marked(all.info.description));
  for (const [path, operations] of Object.entries(all.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      document.getElementById("requests").append(...section(path, method, operation, all));
    }
  }
  document.documentElement.dataset.shown = "1";
}

start();
