// YAML: every kind of mistake is flagged once, at its place, in words that name the fault.

import { assert, check } from "../lib/harness.mjs";
import { shown, yaml } from "../lib/document.mjs";
import { document, unions } from "./yaml.mjs";

/** Asserts that exactly the marked ranges are flagged, with messages that match. */
async function flagged(server, place, lines, ...patterns) {
  const { text, ranges } = document(place, lines);
  const uri = place.uri("yaml");
  const found = await server.diagnose(uri, text);
  server.close(uri);
  const report = `\n${text}found: ${found.map((one) => shown(one, text)).join("\nfound: ") || "nothing"}`;
  assert(found.length === patterns.length, `${patterns.length} messages wanted, ${found.length} came${report}`);
  patterns.forEach((pattern, index) => {
    const range = ranges[Math.min(index, ranges.length - 1)];
    const at = (one) => JSON.stringify(one.range) === JSON.stringify(range);
    const hit = found.some((one) => at(one) && pattern.test(one.message));
    assert(hit, `no message ${pattern} at ${range.start.line + 1}:${range.start.character + 1}${report}`);
  });
}

/** The lines of a node: `type`, required fields, then more. */
function node(place, type, more, given = []) {
  const fields = place.schema.required(type, given).map(([name, value]) => `    ${name}: ${yaml(value)}`);
  return ["  a:", `    type: ${type.name}`, ...fields, ...more.map((line) => `    ${line}`)];
}

export async function run(server, place) {
  for (const type of place.schema.types) await ofType(server, place, type);
  await ofNodes(server, place);
  await ofUnions(server, place);
  await ofSettings(server, place);
}

async function ofType(server, place, type) {
  const { schema } = place;
  const at = `yaml: ${type.name}`;
  await check(`${at}: complete, nothing is flagged; a misspelt key is`, async () => {
    await flagged(server, place, node(place, type, []));
    const known = type.fields[0]?.name ?? "field";
    const wrong = `${known.slice(0, 1)}${known}`;
    await flagged(server, place, node(place, type, [`«${wrong}»: 1`]), new RegExp(`Property ${wrong} is not allowed`));
  });
  const required = type.fields.filter((field) => field.required);
  const groups = schema.groups(type.table);
  if (required.length + groups.length > 0) {
    await check(`${at}: each missing required field is flagged at the node's name`, async () => {
      const patterns = required.map((field) => new RegExp(`^Missing property "${field.name}"`));
      patterns.push(...groups.map((group) => new RegExp(`^One of \`${group[0]}\`.* is needed`)));
      await flagged(server, place, ["  «a»:", `    type: ${type.name}`], ...patterns);
    });
  }
  const of = (test) => type.fields.find((field) => test(schema.resolve(field.schema)));
  const number = of((full) => ["integer", "number"].includes(full.type) && !full.enum);
  if (number) {
    await check(`${at}: \`${number.name}\`: text for a number is flagged at the value`, async () => {
      const lines = node(place, type, [`${number.name}: «high»`], [number.name]);
      await flagged(server, place, lines, /^Incorrect type. Expected "(integer|number)"/);
    });
  }
  const limited = of((full) => full.minimum !== undefined || full.exclusiveMinimum !== undefined);
  if (limited) {
    await check(`${at}: \`${limited.name}\`: a number out of range is flagged at the value`, async () => {
      const full = schema.resolve(limited.schema);
      const low = (full.minimum ?? full.exclusiveMinimum) - 1;
      const lines = node(place, type, [`${limited.name}: «${low}»`], [limited.name]);
      await flagged(server, place, lines, /^Value is below the (exclusive )?minimum of/);
    });
  }
  const choice = of((full) => full.enum && full.enum.every((value) => typeof value === "string"));
  if (choice) {
    await check(`${at}: \`${choice.name}\`: a bad choice is flagged at the value, with the good ones`, async () => {
      const good = schema.resolve(choice.schema).enum.map((value) => `"${value}"`).join(", ");
      const lines = node(place, type, [`${choice.name}: «zebra»`], [choice.name]);
      await flagged(server, place, lines, new RegExp(`Valid values: ${good.replace(/[.]/g, "\\.")}`));
    });
  }
}

async function ofNodes(server, place) {
  const first = place.schema.types[0];
  await check("yaml: an unknown type is flagged once, at the value, with all types", async () => {
    const names = place.schema.types.map((type) => `"${type.name}"`).join(", ");
    const pattern = new RegExp(`Valid values: ${names.replace(/\./g, "\\.")}`);
    await flagged(server, place, ["  a:", "    type: «model.zebra»"], pattern);
    await flagged(server, place, ["  a:", "    type: «model.zebra»", "    zebra: 1"], pattern);
  });
  await check("yaml: a node without `type`, an empty one and a scalar are flagged once each", async () => {
    await flagged(server, place, ["  «a»:", "    zebra: 1"], /^Missing property "type"/);
    await flagged(server, place, ["  a: «3»"], /^Incorrect type. Expected "node"/);
    const { text } = document(place, ["  a:"]);
    const found = await server.diagnose(place.uri("yaml"), text);
    assert(found.length === 1 && /Expected "node"/.test(found[0].message), JSON.stringify(found));
  });
  await check("yaml: a key given twice is flagged", async () => {
    const lines = node(place, first, []);
    const twice = [...lines, lines.at(-1)];
    const { text } = document(place, twice);
    const found = await server.diagnose(place.uri("yaml"), text);
    assert(found.some((one) => /must be unique/.test(one.message)), JSON.stringify(found));
  });
  await check("yaml: a name that no node may have is flagged", async () => {
    const [, ...rest] = node(place, first, []);
    await flagged(server, place, ["  «a.b»:", ...rest], /^Names begin with a letter/);
  });
}

async function ofUnions(server, place) {
  for (const { type, field, tagged } of unions(place.schema)) {
    const lines = (...inner) => node(place, type, [`${field.name}:`, ...inner.map((line) => `  ${line}`)], [field.name]);
    await check(`yaml: ${type.name}: \`${field.name}\`: mistakes inside are flagged at their place`, async () => {
      const names = tagged.variants.map((variant) => `"${variant.name}"`).join(", ");
      await flagged(server, place, lines(`${tagged.tag}: «zebra»`), new RegExp(`Valid values: ${names}`));
      for (const variant of tagged.variants) {
        const value = place.schema.table({ ...variant.table });
        const inner = Object.entries(value).filter(([name]) => name !== tagged.tag);
        const good = inner.map(([name, value]) => `${name}: ${yaml(value)}`);
        const bad = [`${tagged.tag}: ${variant.name}`, ...good, "«zebra»: 1"];
        await flagged(server, place, lines(...bad), /^Property zebra is not allowed/);
      }
      const expected = new RegExp(`Incorrect type. Expected "${field.name}"`);
      await flagged(server, place, node(place, type, [`${field.name}: «100»`], [field.name]), expected);
    });
  }
}

async function ofSettings(server, place) {
  const complete = node(place, place.schema.types[0], []);
  await check("yaml: `steps` and `epochs` together are flagged at the second", async () => {
    const lines = [...complete, "train:", "  steps: 10", "  «epochs»: 1"];
    await flagged(server, place, lines, /`steps` and `epochs` exclude each other/);
  });
  await check("yaml: a misspelt setting, a wrong one and one in the wrong place are flagged", async () => {
    await flagged(server, place, [...complete, "«sed»: 1"], /^Property sed is not allowed/);
    await flagged(server, place, [...complete, "seed: «high»"], /^Incorrect type. Expected "integer"/);
    await flagged(server, place, [...complete, "train:", "  «rank»: 1"], /^Property rank is not allowed/);
    await flagged(server, place, [...complete, "train:", "  device: «gpu»"], /^Must be `auto`, `cpu`/);
  });
}
