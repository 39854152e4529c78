// What both language servers have in common: requests, open documents, diagnostics.
//
// `transport` has `send(message)` and calls back `receive(message)`.

export class Server {
  constructor(name, settings) {
    this.name = name;
    this.settings = settings;
    this.waiting = new Map();
    this.listeners = new Map();
    this.count = 0;
    this.transport = null;
  }

  receive(message) {
    if (message.id !== undefined && message.method === undefined) {
      const { resolve, reject } = this.waiting.get(message.id) ?? {};
      this.waiting.delete(message.id);
      return message.error ? reject?.(new Error(message.error.message)) : resolve?.(message.result);
    }
    if (message.method === "textDocument/publishDiagnostics") {
      return this.listeners.get(message.params.uri)?.(message.params.diagnostics);
    }
    if (message.id !== undefined) {
      // The settings in the order asked; everything else (registrations) is simply granted.
      const items = message.params?.items ?? [];
      const result = message.method === "workspace/configuration" ? items.map((item) => this.setting(item)) : null;
      this.transport.send({ jsonrpc: "2.0", id: message.id, result });
    }
  }

  setting(item) {
    return this.settings[item.section] ?? null;
  }

  request(method, params) {
    const id = ++this.count;
    const timeout = 60000;
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`${this.name} does not answer ${method}`)), timeout);
      const done = (then) => (value) => {
        clearTimeout(late);
        then(value);
      };
      this.waiting.set(id, { resolve: done(resolve), reject: done(reject) });
      this.transport.send({ jsonrpc: "2.0", id, method, params });
    });
  }

  notify(method, params) {
    this.transport.send({ jsonrpc: "2.0", method, params });
  }

  open(uri, text) {
    const textDocument = { uri, languageId: this.name, version: 1, text };
    this.notify("textDocument/didOpen", { textDocument });
  }

  close(uri) {
    this.listeners.delete(uri);
    this.notify("textDocument/didClose", { textDocument: { uri } });
  }

  completion(uri, position) {
    const params = { textDocument: { uri }, position, context: { triggerKind: 1 } };
    return this.request("textDocument/completion", params).then((result) => result?.items ?? result ?? []);
  }

  /** The text of a hover; empty when there is none. */
  async hover(uri, position) {
    const result = await this.request("textDocument/hover", { textDocument: { uri }, position });
    const contents = result?.contents ?? "";
    if (Array.isArray(contents)) return contents.map((part) => part.value ?? part).join("\n");
    return contents.value ?? contents;
  }
}

/** Text of a completion item's documentation. */
export function documentation(item) {
  return item.documentation?.value ?? item.documentation ?? "";
}

export const CAPABILITIES = {
  workspace: { configuration: true, didChangeConfiguration: { dynamicRegistration: true } },
  textDocument: {
    completion: { completionItem: { snippetSupport: true, documentationFormat: ["markdown"] } },
    hover: { contentFormat: ["markdown"] },
    publishDiagnostics: {},
  },
};

export function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
