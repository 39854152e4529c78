// YAML: completion, hover, snippets and ready pipelines.

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

import { assert, assertSame, check } from "../lib/harness.mjs";
import { marked, pipeline, shown, yaml } from "../lib/document.mjs";
import { documentation } from "../lib/server.mjs";

/** A document with the modeline and the lines of one node. */
export function document(place, lines) {
  const head = `# yaml-language-server: $schema=${place.schemaName}\nversion: 1\nname: test\nnodes:\n`;
  return marked(head + lines.map((line) => `${line}\n`).join(""));
}

async function completion(server, place, lines) {
  const { text, cursor } = document(place, lines);
  const uri = place.uri("yaml");
  server.open(uri, text);
  const items = await server.completion(uri, cursor);
  server.close(uri);
  return items;
}

async function hover(server, place, lines) {
  const { text, cursor } = document(place, lines);
  const uri = place.uri("yaml");
  server.open(uri, text);
  const found = await server.hover(uri, cursor);
  server.close(uri);
  return found;
}

export async function run(server, place) {
  await types(server, place);
  for (const type of place.schema.types) await fields(server, place, type);
  await nested(server, place);
  await snippets(server, place);
  await pipelines(server, place);
}

async function types(server, place) {
  const all = place.schema.types;
  const every = (items, what) => {
    assertSame(items.map((item) => item.label), all.map((type) => type.name), what);
    for (const type of all) {
      const item = items.find((item) => item.label === type.name);
      const found = documentation(item);
      assert(found.includes(type.summary), `${type.name} is documented as "${found}"`);
      assert(!type.summary.includes("\n"), `${type.name}: the summary has several lines`);
    }
  };
  await check("yaml: completion after `type:` lists every node type with its one-line description", async () => {
    every(await completion(server, place, ["  a:", "    type: ‸"]), "types");
  });
  await check("yaml: and with the beginning of a type typed", async () => {
    const begun = all[0].name.slice(0, 3);
    every(await completion(server, place, ["  a:", `    type: ${begun}‸`]), "types");
  });
  await check("yaml: and in a node that has fields already", async () => {
    const field = all.find((type) => type.fields.length > 0).fields[0];
    const line = `    ${field.name}: ${yaml(place.schema.sample(field.schema))}`;
    every(await completion(server, place, ["  a:", "    type: ‸", line]), "types");
  });
  await check("yaml: hover on a type shows its description and the reference page", async () => {
    for (const type of all) {
      const found = await hover(server, place, ["  a:", `    type: ‸${type.name}`]);
      assert(plain(found).includes(plain(type.summary)), `${type.name}: "${found.slice(0, 300)}"`);
      assert(found.includes(`nodes/${type.name}.md`), `${type.name}: no link to its page`);
    }
  });
}

async function fields(server, place, type) {
  const names = type.fields.map((field) => field.name);
  await check(`yaml: ${type.name}: inside the node, its own fields and no others, with documentation`, async () => {
    const items = await completion(server, place, ["  a:", `    type: ${type.name}`, "    ‸"]);
    const own = items.filter((item) => !isSkeleton(item));
    assertSame(own.map((item) => item.label), names, "fields");
    for (const item of own) {
      const text = place.schema.resolve(type.table.properties[item.label]).description;
      assert(text, `\`${item.label}\` has no description`);
      assert(plain(documentation(item)).includes(plain(text).slice(0, 40)), `\`${item.label}\` comes without text`);
    }
  });
  const values = type.fields.map((field) => [field, place.schema.sample(field.schema)]);
  await check(`yaml: ${type.name}: hover on each field shows its text, default and range`, async () => {
    for (const [field, value] of values) {
      const lines = ["  a:", `    type: ${type.name}`, `    ‸${field.name}: ${yaml(value)}`];
      const found = plain(await hover(server, place, lines));
      const text = field.schema.description;
      assert(found.includes(plain(text)), `\`${field.name}\`: hover is "${found}", not "${text}"`);
      const wanted = field.schema.default;
      const told = wanted === undefined || /default/i.test(found);
      assert(told, `\`${field.name}\`: hover does not tell the default ${yaml(wanted)}`);
    }
  });
}

/** Without what Markdown adds, for comparison. */
function plain(text) {
  return text.replace(/[\\`*_]/g, "").replace(/&nbsp;/g, " ").replace(/\s+/g, " ").trim();
}

async function nested(server, place) {
  for (const { type, field, tagged } of unions(place.schema)) {
    const start = ["  a:", `    type: ${type.name}`, `    ${field.name}:`];
    const at = `yaml: ${type.name}: \`${field.name}\``;
    await check(`${at}: completion of \`${tagged.tag}\` lists the variants`, async () => {
      const items = await completion(server, place, [...start, `      ${tagged.tag}: ‸`]);
      assertSame(items.map((item) => item.label), tagged.variants.map((variant) => variant.name), "variants");
    });
    await check(`${at}: inside each variant, its own fields`, async () => {
      for (const variant of tagged.variants) {
        const lines = [...start, `      ${tagged.tag}: ${variant.name}`, "      ‸"];
        const own = Object.keys(variant.table.properties).filter((name) => name !== tagged.tag);
        const items = (await completion(server, place, lines)).filter((item) => !isSkeleton(item));
        assertSame(items.map((item) => item.label), own, variant.name);
      }
    });
  }
}

/** The item that inserts all missing required fields at once. */
function isSkeleton(item) {
  return !(item.textEdit?.newText ?? item.insertText).startsWith(item.label);
}

/** Fields of node types that are tables with a tag. */
export function unions(schema) {
  const all = schema.types.flatMap((type) => type.fields.map((field) => ({ type, field })));
  return all.map((one) => ({ ...one, tagged: schema.tagged(one.field.schema) })).filter((one) => one.tagged);
}

async function snippets(server, place) {
  const all = place.schema.types;
  await check("yaml: under `nodes`, a snippet for every node type with its required fields", async () => {
    const items = await completion(server, place, ["  ‸"]);
    assertSame(items.map((item) => item.label), all.map((type) => type.name), "snippets");
    for (const type of all) {
      const item = items.find((item) => item.label === type.name);
      const body = item.textEdit?.newText ?? item.insertText;
      assert(documentation(item).includes(type.summary), `${type.name}: no description`);
      assert(body.includes(`type: ${type.name}`), `${type.name}: "${body}"`);
      for (const field of type.fields.filter((field) => field.required)) {
        assert(new RegExp(`^\\s+${field.name}:`, "m").test(body), `${type.name}: \`${field.name}\` is not in "${body}"`);
      }
    }
  });
  await check("yaml: after a snippet is filled in, nothing is flagged", async () => {
    const items = await completion(server, place, ["  ‸"]);
    for (const type of all) {
      const item = items.find((item) => item.label === type.name);
      let body = (item.textEdit?.newText ?? item.insertText).replace("${1:name}", "some-name");
      for (const [name, value] of place.schema.required(type)) {
        const simple = typeof value !== "object";
        if (simple) body = body.replace(new RegExp(`^(\\s+${name}: ).*$`, "m"), `$1${yaml(value)}`);
      }
      if (/\$\d/.test(body)) continue; // lists and tables have stops of their own
      const { text } = document(place, body.split("\n").map((line) => `  ${line}`));
      const found = await server.diagnose(place.uri("yaml"), text);
      assert(found.length === 0, `${type.name}: ${found.map((one) => shown(one, text)).join("; ")}\n${text}`);
    }
  });
}

async function pipelines(server, place) {
  for (const file of place.pipelines("yaml", "yml")) {
    await check(`yaml: ${file}: the modeline leads to the schema and nothing is flagged`, async () => {
      const text = pipeline(file, place.schemaPath, /^# yaml-language-server: \$schema=(\S+)$/m);
      const found = await server.diagnose(pathToFileURL(resolve(file)).href, text);
      assert(found.length === 0, found.map((one) => shown(one, text)).join("\n"));
    });
  }
}
