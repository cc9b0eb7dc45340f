// Shows openapi.json as a page, without anything from another host.

function add(parent, kind, text = "") {
  const element = parent.appendChild(document.createElement(kind));
  element.textContent = text;
  return element;
}

function table(parent, title, rows) {
  if (!rows.length) return;
  add(parent, "h3", title);
  const body = add(parent, "table");
  for (const [name, words] of rows) {
    const row = add(body, "tr");
    add(add(row, "td"), "code", name);
    add(row, "td", words);
  }
}

function fieldWords(field, required) {
  const kinds = [field, ...(field.anyOf ?? [])];
  const values = kinds.flatMap((kind) => kind.enum ?? []);
  const given = kinds.find((kind) => kind.default !== undefined)?.default;
  const parts = [field.description, values.join(" | "), given === undefined ? "" : `default: ${given}`, required ? "required" : ""];
  return parts.filter(Boolean).join("; ");
}

const description = await (await fetch("openapi.json")).json();
for (const [path, methods] of Object.entries(description.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const section = add(document.getElementById("paths"), "section");
    add(add(section, "h2"), "code", `${method.toUpperCase()} ${path}`);
    add(section, "p", [operation.summary, operation.description].filter(Boolean).join(". "));
    const schema = operation.requestBody?.content["multipart/form-data"].schema;
    if (schema) {
      table(section, "Form", Object.entries(schema.properties).map(([name, field]) => [name, fieldWords(field, schema.required.includes(name))]));
      add(section, "pre", `curl -F file=@photo.jpg ${location.origin}${path} > result.png`);
    }
    table(section, "Answers", Object.entries(operation.responses).map(([status, answer]) => [status, answer.description]));
  }
}
