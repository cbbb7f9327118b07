// Loads a module of src/ as the bundler sees it, for tests of the page's parts without a browser.

import { build } from "esbuild";
import { webcrypto } from "node:crypto";
import { fileURLToPath } from "node:url";

// Node 18 has it, but not where browsers do.
globalThis.crypto ??= webcrypto;

export async function load(name) {
  const entry = fileURLToPath(new URL(`../src/${name}.ts`, import.meta.url));
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, format: "esm", write: false });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
}

/** Bytes of a text. */
export function bytesOf(text) {
  return new TextEncoder().encode(text);
}
