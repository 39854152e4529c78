// A text under construction that knows where its parts are.
//
// `‸` marks the place of the cursor and `«…»` the range where a message is expected; both are
// taken out of the text. Places are 0-based lines and UTF-16 columns, as the protocol has them.

import { readFileSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";

/** Takes the marks out of a text. */
export function marked(text) {
  let plain = "";
  const cursors = [];
  const ranges = [];
  let open = null;
  const place = () => {
    const lines = plain.split("\n");
    return { line: lines.length - 1, character: lines.at(-1).length };
  };
  for (const char of text) {
    if (char === "‸") cursors.push(place());
    else if (char === "«") open = place();
    else if (char === "»") ranges.push({ start: open, end: place() });
    else plain += char;
  }
  return { text: plain, cursor: cursors[0], cursors, ranges };
}

/** A value in flow style: JSON is YAML. */
export function yaml(value) {
  return JSON.stringify(value);
}

/** A value in TOML. */
export function toml(value) {
  if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    return `{ ${Object.entries(value).map(([key, inner]) => `${key} = ${toml(inner)}`).join(", ")} }`;
  }
  return JSON.stringify(value);
}

/** `line:column text` of a diagnostic with the text it points at, for messages. */
export function shown(diagnostic, text) {
  const { start, end } = diagnostic.range;
  const line = text.split("\n")[start.line] ?? "";
  const part = start.line === end.line ? line.slice(start.character, end.character) : line.slice(start.character);
  return `${start.line + 1}:${start.character + 1} «${part}» ${diagnostic.message}`;
}

/**
 * A ready pipeline as it is, if its modeline leads to the schema under test; for a schema of
 * another name the modeline is made to lead there.
 */
export function pipeline(file, schemaPath, modeline) {
  const source = readFileSync(file, "utf8");
  const target = modeline.exec(source)?.[1];
  if (!target) throw new Error("there is no modeline");
  const found = resolve(dirname(file), target);
  if (found === schemaPath) return source;
  if (basename(found) === basename(schemaPath)) throw new Error(`the modeline leads to ${found}, not ${schemaPath}`);
  return source.replace(modeline, (line) => line.replace(target, schemaPath));
}
