// Checks: one line each, a count at the end. A failing check does not stop the others.

let passed = 0;
let failed = 0;

/** Runs a check: `body` throws when something is wrong. */
export async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    const text = String(error?.message ?? error).split("\n").join("\n     ");
    console.log(`FAIL ${name}\n     ${text}`);
  }
}

/** Prints the count; the exit code is 0 when nothing failed. */
export function finish() {
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

export function assert(condition, message) {
  if (!condition) throw new Error(message);
}

/** Equal as sets, with what is missing and what is too much in the message. */
export function assertSame(found, wanted, what) {
  const missing = wanted.filter((item) => !found.includes(item));
  const extra = found.filter((item) => !wanted.includes(item));
  assert(missing.length === 0 && extra.length === 0, `${what}: missing [${missing}], not wanted [${extra}]`);
  assert(found.length === new Set(found).size, `${what}: something is offered twice: [${found}]`);
}
