// Reads the generated schema: node types, their fields, and values that it accepts.
//
// The checks take everything from here, so that they go on working as nodes are added.

import { readFileSync } from "node:fs";

export class Schema {
  constructor(path) {
    this.root = JSON.parse(readFileSync(path, "utf8"));
    this.node = this.root.definitions.Node;
    const type = this.node.properties.type;
    this.types = type.enum.map((name, index) => ({
      name,
      summary: type.enumDescriptions[index],
      table: this.root.definitions[name],
      fields: this.fieldsOf(this.root.definitions[name]),
    }));
  }

  /** The schema that a `$ref` stands for, with what stands beside it. */
  resolve(schema) {
    if (!schema?.$ref) return schema;
    const target = this.root.definitions[schema.$ref.replace("#/definitions/", "")];
    return { ...this.resolve(target), ...schema, $ref: undefined };
  }

  /** Fields of a node type: name, schema, whether required. */
  fieldsOf(table) {
    const all = Object.entries(table.properties).filter(([name]) => name !== "type");
    return all.map(([name, schema]) => ({ name, schema, required: table.required.includes(name) }));
  }

  /** `{ tag, variants }` when the value is a table whose tag tells its fields. */
  tagged(schema) {
    const full = this.resolve(schema);
    if (!full.then?.allOf || full.if?.required?.length !== 1) return null;
    const tag = full.if.required[0];
    if (!full.properties?.[tag]?.enum) return null;
    const variants = full.properties[tag].enum.map((name, index) => ({
      name,
      table: this.resolve(full.then.allOf[index].then),
    }));
    return { tag, variants };
  }

  /** A value that the schema accepts. */
  sample(schema) {
    const full = this.resolve(schema);
    if (full.default !== undefined) return full.default;
    if (full.enum) return full.enum[0];
    if (full.anyOf) return this.sample(full.anyOf[0]);
    switch (Array.isArray(full.type) ? full.type[0] : full.type) {
      case "boolean":
        return true;
      case "integer":
      case "number":
        return number(full);
      case "array":
        return this.list(full);
      case "object":
        return this.table(full);
      default:
        return text(full);
    }
  }

  list(full) {
    if (Array.isArray(full.items)) return full.items.map((item) => this.sample(item));
    const count = Math.max(full.minItems ?? 1, 1);
    return Array.from({ length: count }, () => (full.items ? this.sample(full.items) : "x"));
  }

  table(full) {
    const tagged = this.tagged(full);
    const inner = tagged ? tagged.variants[0].table : full;
    const names = this.needed(inner);
    const all = Object.keys(inner.properties ?? {});
    if (all.length > 0 && names.length < (inner.minProperties ?? 0)) names.push(all[0]);
    const out = {};
    for (const name of names) {
      const isTag = tagged && name === tagged.tag;
      out[name] = isTag ? tagged.variants[0].name : this.sample(inner.properties[name]);
    }
    if (all.length === 0 && typeof full.additionalProperties === "object" && full.minProperties) {
      out.a = this.sample(full.additionalProperties);
    }
    return out;
  }

  /** Groups of fields of which exactly one has to be given. */
  groups(table) {
    const rules = [table, ...(table.then?.allOf ?? [])].filter((rule) => rule.else?.required);
    return rules.map((rule) => [
      ...rule.else.required,
      ...[rule.if, ...(rule.if.anyOf ?? [])].flatMap((one) => one.required ?? []),
    ]);
  }

  /** Names of fields that have to be given: the required ones, and one of each group. */
  needed(table, given = []) {
    const open = this.groups(table).filter((group) => !group.some((name) => given.includes(name)));
    return [...(table.required ?? []), ...open.map((group) => group[0])].filter((name) => !given.includes(name));
  }

  /** The fields that a node of a type has to have, with values; `given` ones are left out. */
  required(type, given = []) {
    const names = this.needed(type.table, given).filter((name) => name !== "type");
    return names.map((name) => [name, this.sample(type.table.properties[name])]);
  }
}

function number(full) {
  const step = full.type === "integer" ? 1 : 0.5;
  const least = full.minimum ?? (full.exclusiveMinimum !== undefined ? full.exclusiveMinimum + step : undefined);
  const value = least ?? full.maximum ?? (full.exclusiveMaximum ?? 1) - step;
  return full.maximum !== undefined && value > full.maximum ? full.maximum : value;
}

function text(full) {
  const candidates = ["x", "auto", "run", "a.b", "a/b", "1", "${env:NAME}", "x".repeat(full.minLength ?? 1)];
  const pattern = new RegExp(full.pattern ?? "", "u");
  const fits = (value) => pattern.test(value) && value.length >= (full.minLength ?? 0);
  const value = candidates.find(fits);
  if (value === undefined) throw new Error(`no text is known that fits ${full.pattern}; give the field a default`);
  return value;
}
