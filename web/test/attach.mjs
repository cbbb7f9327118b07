// xterm.js with its own AttachAddon, as its documentation has it, in a real browser against a running server: plain mode.
//
//   CLOISTER_TOKEN=… node test/attach.mjs <address of the server> <project>
//
// The script is put into a document of the server's own, which says nothing but that it is well: the server lets no other
// origin in, and the browser no page from nowhere.

import assert from "node:assert/strict";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";

import { DEADLINE_MS } from "./browser.mjs";

const [base, project] = process.argv.slice(2);
const token = process.env.CLOISTER_TOKEN;
if (!base || !project || !token) throw new Error("usage: CLOISTER_TOKEN=… node test/attach.mjs <address> <project>");

const address = `${base.replace("http", "ws")}/ws/terminal/${project}/?cols=80&rows=24&token=${token}`;
const page = `
  import { Terminal } from "@xterm/xterm";
  import { AttachAddon } from "@xterm/addon-attach";

  const socket = new WebSocket(${JSON.stringify(address)});
  const terminal = new Terminal({ cols: 80, rows: 24 });
  terminal.loadAddon(new AttachAddon(socket));
  terminal.open(document.body);
  terminal.focus();
  socket.addEventListener("close", ({ code, reason }) => Object.assign(window, { ended: { code, reason } }));
  window.lines = () => {
    const { active } = terminal.buffer;
    return Array.from({ length: active.length }, (_, y) => active.getLine(y).translateToString(true)).join("\\n");
  };
`;

const resolveDir = dirname(dirname(fileURLToPath(import.meta.url)));
const bundle = await build({ stdin: { contents: page, resolveDir }, bundle: true, write: false, format: "iife", logLevel: "warning" });

const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
try {
  const tab = await browser.newPage();
  tab.on("pageerror", (error) => console.error(String(error)));
  tab.on("console", (message) => message.type() === "error" && console.error(message.text()));
  await tab.goto(`${base}/healthz`);
  await tab.evaluate(bundle.outputFiles[0].text);
  const shows = (text) => tab.waitForFunction((text) => window.lines().includes(text), text, { timeout: DEADLINE_MS });

  await shows("$");
  await tab.keyboard.type("printf 'gr\\303\\274\\303\\237e 世界 %s.\\n' do''ne");
  await tab.keyboard.press("Enter");
  await shows("grüße 世界 done.");
  console.log("ok: what is typed runs, and text beyond ASCII shows");

  await tab.keyboard.type("seq -f %05g 1 900; echo al''l");
  await tab.keyboard.press("Enter");
  await shows("\nall\n");
  const numbers = Array.from({ length: 900 }, (_, n) => String(n + 1).padStart(5, "0")).join("\n");
  assert.ok((await tab.evaluate(() => window.lines())).includes(`\n${numbers}\nall\n`));
  console.log("ok: all of a long output shows");

  // It says so itself once it is in the foreground: a ^C before that is the shell's.
  await tab.keyboard.type("sh -c 'echo asleep; exec sleep 1000'");
  await tab.keyboard.press("Enter");
  await shows("\nasleep\n");
  await tab.keyboard.press("Control+c");
  await shows("^C");
  await tab.keyboard.type("exit 3");
  await tab.keyboard.press("Enter");
  await tab.waitForFunction(() => window.ended, undefined, { timeout: DEADLINE_MS });
  assert.deepEqual(await tab.evaluate(() => window.ended), { code: 1000, reason: "exited with status 3" });
  console.log("ok: the end is told with its reason");
} finally {
  await browser.close();
}
