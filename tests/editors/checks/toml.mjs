// TOML: completion, hover, mistakes and ready pipelines, as far as Taplo can.
//
// Taplo never narrows by `type`: it offers every type's fields and says whose they are. It puts
// faults of a table at its header and faults of a field at its key.

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

import { assert, assertSame, check } from "../lib/harness.mjs";
import { marked, pipeline, shown, toml } from "../lib/document.mjs";
import { documentation, sleep } from "../lib/server.mjs";
import { unions } from "./yaml.mjs";

function document(place, text) {
  return marked(`#:schema ./${place.schemaName}\nversion = 1\nname = "test"\n${text}\n`);
}

async function ask(server, place, text, request) {
  const { text: plain, cursor } = document(place, text);
  const uri = place.uri("toml");
  server.open(uri, plain);
  await sleep(100);
  const found = await server[request](uri, cursor);
  server.close(uri);
  return found;
}

export async function run(server, place) {
  // The first document makes it read the schema.
  await server.diagnose(place.uri("toml"), document(place, "").text);
  await completion(server, place);
  await hovers(server, place);
  await faults(server, place);
  await pipelines(server, place);
}

async function completion(server, place) {
  const { schema } = place;
  await check("toml: completion after `type =` lists every node type with its one-line description", async () => {
    const items = await ask(server, place, "[nodes.a]\ntype = ‸", "completion");
    assertSame(items.map((item) => item.label), schema.types.map((type) => `"${type.name}"`), "types");
    schema.types.forEach((type, index) => {
      assert(documentation(items[index]) === type.summary, `${type.name}: "${documentation(items[index])}"`);
    });
  });
  await check("toml: inside a node, each field once, with the types that have it and its text", async () => {
    const first = schema.types[0].name;
    const items = await ask(server, place, `[nodes.a]\ntype = "${first}"\n‸\n`, "completion");
    const names = [...new Set(schema.types.flatMap((type) => type.fields.map((field) => field.name)))];
    const found = items.map((item) => item.label).filter((label) => !label.includes("."));
    assertSame(found, names, "fields");
    for (const type of schema.types) {
      for (const field of type.fields) {
        const text = documentation(items.find((item) => item.label === field.name));
        const wanted = field.schema.markdownDescription;
        assert(text.includes(`\`${type.name}\``) && text.includes(wanted), `${type.name}.${field.name}: "${text}"`);
      }
    }
  });
  await check("toml: the values of a choice that all types share", async () => {
    for (const { type, field } of shared(schema)) {
      const items = await ask(server, place, `[nodes.a]\ntype = "${type.name}"\n${field.name} = "‸"`, "completion");
      assertSame(items.map((item) => item.label), field.schema.enum.map((value) => `"${value}"`), field.name);
    }
  });
  await check("toml: the variants and fields of a nested union", async () => {
    for (const { type, field, tagged } of unions(schema).filter((one) => sharedBy(schema, one.field))) {
      const head = `[nodes.a]\ntype = "${type.name}"\n[nodes.a.${field.name}]\n`;
      const values = await ask(server, place, `${head}${tagged.tag} = "‸"`, "completion");
      const variants = tagged.variants.map((variant) => `"${variant.name}"`);
      assertSame(values.map((item) => item.label), variants, `${type.name}.${field.name}`);
      const inner = await ask(server, place, `${head}${tagged.tag} = "${tagged.variants[0].name}"\n‸\n`, "completion");
      const names = inner.map((item) => item.label);
      const wanted = tagged.variants.flatMap((variant) => Object.keys(variant.table.properties));
      const missing = wanted.filter((name) => name !== tagged.tag && !names.includes(name));
      assert(missing.length === 0, `${type.name}.${field.name}: missing [${missing}] in [${names}]`);
    }
  });
}

/** Whether all types that have a field of this name have the same schema for it. */
function sharedBy(schema, field) {
  return schema.node.properties[field.name].anyOf !== undefined;
}

/** Choices that are the same in every type that has them. */
function shared(schema) {
  const all = schema.types.flatMap((type) => type.fields.map((field) => ({ type, field })));
  return all.filter(({ field }) => field.schema.enum?.every((value) => typeof value === "string") && sharedBy(schema, field));
}

async function hovers(server, place) {
  await check("toml: hover on a type shows that type's description", async () => {
    for (const type of place.schema.types) {
      const found = await ask(server, place, `[nodes.a]\ntype = "‸${type.name}"`, "hover");
      assert(found.trim() === type.summary, `${type.name}: "${found}"`);
    }
  });
  for (const type of place.schema.types.filter((type) => type.fields.length > 0)) {
    await check(`toml: ${type.name}: hover on each field shows its text, default and range`, async () => {
      for (const field of type.fields) {
        const value = toml(place.schema.sample(field.schema));
        const text = `[nodes.a]\ntype = "${type.name}"\n‸${field.name} = ${value}`;
        const found = await ask(server, place, text, "hover");
        // Over a list of tables it shows the text of the table.
        const tables = schemaOfItems(place.schema, field)?.type === "object" && found.trim() !== "";
        assert(tables || found.includes(field.schema.markdownDescription), `\`${field.name}\`: "${found}"`);
      }
    });
  }
}

function schemaOfItems(schema, field) {
  const items = schema.resolve(field.schema).items;
  return items && schema.resolve(items);
}

/** All types in one document, each a node; the marked ranges and nothing else are flagged. */
async function flagged(server, place, name, nodes) {
  await check(`toml: ${name}`, async () => {
    assert(nodes.length > 0, "no node type has such a field");
    const { text, ranges } = document(place, nodes.map((node) => node.text).join("\n"));
    const found = await server.diagnose(place.uri("toml"), text);
    const report = found.map((one) => shown(one, text)).join("\n");
    const patterns = nodes.flatMap((node) => node.patterns.map((pattern) => [pattern, node]));
    assert(found.length === patterns.length, `${patterns.length} messages wanted, ${found.length} came:\n${report}`);
    patterns.forEach(([pattern, node]) => {
      const range = ranges[nodes.indexOf(node)];
      const hit = found.some((one) => JSON.stringify(one.range) === JSON.stringify(range) && pattern.test(one.message));
      assert(hit, `no message ${pattern} at line ${range?.start.line + 1}:\n${report}\n${text}`);
    });
  });
}

async function faults(server, place) {
  const { schema } = place;
  const whole = (type, index, more = "", except = [], header = `n${index}`) => {
    const fields = schema.required(type, except).map(([name, value]) => `${name} = ${toml(value)}`);
    return [`[nodes.${header}]`, `type = "${type.name}"`, ...fields, more].join("\n");
  };
  // One node for each type that has a fitting field, with that field wrong.
  const wrong = (test, value, pattern) => {
    const fields = schema.types.map((type) => [type, type.fields.find((field) => test(schema.resolve(field.schema)))]);
    return fields.filter(([, field]) => field).map(([type, field], index) => {
      const line = `«${field.name}» = ${value(schema.resolve(field.schema))}`;
      return { text: whole(type, index, line, [field.name]), patterns: [pattern] };
    });
  };
  const number = (full) => ["integer", "number"].includes(full.type) && !full.enum;
  const limited = (full) => number(full) && full.minimum !== undefined;
  const choice = (full) => full.enum?.every((value) => typeof value === "string");

  const good = schema.types.map((type, index) => ({ text: whole(type, index), patterns: [] }));
  if (good.length > 0) {
    await check("toml: complete nodes of every type: nothing is flagged", async () => {
      const { text } = document(place, good.map((node) => node.text).join("\n"));
      const found = await server.diagnose(place.uri("toml"), text);
      assert(found.length === 0, found.map((one) => shown(one, text)).join("\n"));
    });
  }
  const misspelt = (type, index) => ({
    text: whole(type, index, "zebra = 1", [], `«n${index}»`),
    patterns: [/^Additional properties are not allowed \('zebra' was unexpected\)/],
  });
  await flagged(server, place, "a misspelt key is flagged at the node's header, by name", schema.types.map(misspelt));
  const missing = (type, index) => ({
    text: `[nodes.«n${index}»]\ntype = "${type.name}"`,
    patterns: schema.required(type).map(([name]) => new RegExp(`^"${name}" is a required property`)),
  });
  await flagged(server, place, "missing required fields are flagged at the node's header", schema.types.map(missing));
  await flagged(server, place, "text for a number is flagged at its key", wrong(number, () => '"high"', /^"high" is not of type/));
  const low = (full) => String(full.minimum - 1);
  await flagged(server, place, "a number out of range is flagged at its key", wrong(limited, low, /is less than the minimum of/));
  await flagged(server, place, "a bad choice is flagged at its key", wrong(choice, () => '"zebra"', /^"zebra" is not one of \[/));
  const unknown = { text: '[nodes.a]\n«type» = "model.zebra"', patterns: [/^"model.zebra" is not one of \[/] };
  await flagged(server, place, "an unknown type is flagged at its key", [unknown]);
  await flagged(server, place, "a node without `type` is flagged", [
    { text: "[nodes.«a»]\nzebra = 1", patterns: [/^"type" is a required property/] },
  ]);
  await flagged(server, place, "`steps` and `epochs` together are flagged at the second", [
    { text: `[train]\nsteps = 1\n«epochs» = 1\n${whole(schema.types[0], 0)}`, patterns: [/^False schema does not allow/] },
  ]);
}

async function pipelines(server, place) {
  for (const file of place.pipelines("toml")) {
    await check(`toml: ${file}: the modeline leads to the schema and nothing is flagged`, async () => {
      const text = pipeline(file, place.schemaPath, /^#:schema (\S+)$/m);
      const found = await server.diagnose(pathToFileURL(resolve(file)).href, text);
      assert(found.length === 0, found.map((one) => shown(one, text)).join("\n"));
    });
  }
}
