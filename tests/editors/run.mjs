// Drives yaml-language-server and Taplo over the generated schema, with the modeline alone.
//
//   node tests/editors/run.mjs --schema schema/pipeline.schema.json --pipelines pipelines
//
// `--only yaml|toml` runs one server's checks.

import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { pathToFileURL } from "node:url";

import { finish } from "./lib/harness.mjs";
import { Schema } from "./lib/schema.mjs";
import { TaploServer } from "./lib/taplo_server.mjs";
import { YamlServer } from "./lib/yaml_server.mjs";
import * as toml from "./checks/toml.mjs";
import * as yaml from "./checks/yaml.mjs";
import * as yamlFaults from "./checks/yaml_faults.mjs";

const { values } = parseArgs({
  options: { schema: { type: "string" }, pipelines: { type: "string" }, only: { type: "string" } },
});
if (!values.schema || !existsSync(values.schema)) {
  console.error("usage: node run.mjs --schema PATH [--pipelines DIR] [--only yaml|toml]");
  process.exit(2);
}

const schemaPath = resolve(values.schema);
const folder = dirname(schemaPath);
let count = 0;

/** Everything the checks need of their surroundings. */
const place = {
  schema: new Schema(schemaPath),
  schemaPath,
  /** The schema as the modeline names it: relative to the document. */
  schemaName: basename(schemaPath),
  /** An address for a new document beside the schema; no file is written. */
  uri: (extension) => pathToFileURL(join(folder, `case-${++count}.${extension}`)).href,
  /** Ready pipelines of an extension. */
  pipelines: (...extensions) => {
    if (!values.pipelines) return [];
    const files = readdirSync(values.pipelines, { recursive: true }).map((name) => join(values.pipelines, name));
    const shown = files.filter((file) => !basename(file).startsWith("."));
    return shown.filter((file) => extensions.some((extension) => file.endsWith(`.${extension}`))).sort();
  },
};

const root = pathToFileURL(folder).href;
if (values.only !== "toml") {
  const server = await YamlServer.start(root);
  await yaml.run(server, place);
  await yamlFaults.run(server, place);
  await server.stop();
}
if (values.only !== "yaml") {
  await toml.run(await TaploServer.start(root), place);
}
process.exit(finish());
