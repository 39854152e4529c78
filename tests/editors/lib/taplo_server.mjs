// Taplo's language server: WebAssembly, run in this process.

import { readFile } from "node:fs/promises";
import { isAbsolute } from "node:path";
import { fileURLToPath } from "node:url";

import lsp from "@taplo/lsp";

import { CAPABILITIES, Server, sleep } from "./server.mjs";

// It would ask the online schema catalogue before anything else.
globalThis.fetch = () => Promise.reject(new Error("offline"));

const ENVIRONMENT = {
  now: () => new Date(),
  envVar: () => undefined,
  envVars: () => [],
  stdErrAtty: () => false,
  stdin: async () => new Uint8Array(),
  stdout: async (bytes) => bytes.length,
  stderr: async (bytes) => bytes.length,
  glob: () => [],
  readFile: (path) => readFile(path),
  writeFile: async () => {},
  // Also called with addresses that are no files, and must not throw.
  urlToFilePath: (url) => (url.startsWith("file:") ? fileURLToPath(url) : ""),
  isAbsolute,
  cwd: () => process.cwd(),
  findConfigFile: () => undefined,
};

const SETTINGS = { schema: { enabled: true, catalogs: [] } };

export class TaploServer extends Server {
  static async start(rootUri) {
    const server = new TaploServer("toml", { evenBetterToml: SETTINGS });
    const onMessage = (message) => server.receive(message);
    const inner = await lsp.TaploLsp.initialize(ENVIRONMENT, { onMessage });
    server.transport = { send: (message) => inner.send(message) };
    server.patience = 1500;
    const initializationOptions = { configurationSection: "evenBetterToml" };
    await server.request("initialize", { processId: null, rootUri, capabilities: CAPABILITIES, initializationOptions });
    server.notify("initialized", {});
    await sleep(300);
    return server;
  }

  /** Opens a document and takes the last of its publishes: two empty ones come first. */
  async diagnose(uri, text) {
    let last = [];
    let changed = Date.now();
    this.listeners.set(uri, (diagnostics) => {
      last = diagnostics;
      changed = Date.now();
    });
    this.open(uri, text);
    // Reading the schema takes a while the first time.
    while (Date.now() - changed < this.patience) await sleep(20);
    this.patience = 300;
    return last;
  }
}
