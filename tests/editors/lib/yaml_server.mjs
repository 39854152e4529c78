// yaml-language-server over its standard input and output.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

import { CAPABILITIES, Server, sleep } from "./server.mjs";

const BIN = fileURLToPath(new URL("../node_modules/yaml-language-server/bin/yaml-language-server", import.meta.url));

// What every editor sends, with the schema catalogue off: the modeline alone must do.
const OFF = { enable: false };
const YAML = { validate: true, hover: true, completion: true, schemaStore: OFF, kubernetesCRDStore: OFF };

export class YamlServer extends Server {
  static async start(rootUri) {
    const server = new YamlServer("yaml", { yaml: YAML });
    server.child = spawn(process.execPath, [BIN, "--stdio"], { stdio: ["pipe", "pipe", "ignore"] });
    server.transport = { send: (message) => server.child.stdin.write(frame(message)) };
    server.child.stdout.on("data", reader((message) => server.receive(message)));
    await server.request("initialize", { processId: process.pid, rootUri, capabilities: CAPABILITIES });
    server.notify("initialized", {});
    // It asks for its settings now; a document opened before the answer would be read without.
    await sleep(300);
    return server;
  }

  /** Opens a document and waits for its diagnostics: one publish each time. */
  diagnose(uri, text) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("no diagnostics came")), 60000);
      this.listeners.set(uri, (diagnostics) => {
        clearTimeout(late);
        resolve(diagnostics);
      });
      this.open(uri, text);
    });
  }

  async stop() {
    await this.request("shutdown", null);
    this.notify("exit", null);
    this.child.kill();
  }
}

function frame(message) {
  const body = Buffer.from(JSON.stringify(message));
  return Buffer.concat([Buffer.from(`Content-Length: ${body.length}\r\n\r\n`), body]);
}

function reader(receive) {
  let rest = Buffer.alloc(0);
  return (data) => {
    rest = Buffer.concat([rest, data]);
    for (;;) {
      const head = rest.indexOf("\r\n\r\n");
      if (head < 0) return;
      const length = Number(/Content-Length: (\d+)/i.exec(rest.subarray(0, head).toString())?.[1]);
      const end = head + 4 + length;
      if (rest.length < end) return;
      const message = JSON.parse(rest.subarray(head + 4, end).toString());
      rest = rest.subarray(end);
      receive(message);
    }
  };
}
