// A page over a server's restart: the shell goes on, and what is typed meanwhile is typed once.
//
//   CLOISTER_TOKEN=… node test/restart.mjs <address of the server> <project>
//
// Prints `restart` when the server may be killed, and reads the next one's address from its input. The page's address stays
// the same, as it does for people: a forwarder here stands for the port that a server has again.

import assert from "node:assert/strict";
import { connect, createServer } from "node:net";
import { createInterface } from "node:readline";

import { Browser, endWithin, enter, run, says, screen, shows } from "./browser.mjs";

let [address, project] = process.argv.slice(2);

endWithin(120);

const forwarder = createServer((socket) => {
  const { hostname, port } = new URL(address);
  const server = connect(Number(port), hostname);
  for (const [one, other] of [[socket, server], [server, socket]]) {
    one.on("error", () => other.destroy());
    one.pipe(other);
  }
});
await new Promise((listening) => forwarder.listen(0, "127.0.0.1", listening));

const browser = new Browser(`http://127.0.0.1:${forwarder.address().port}`, project, process.env.CLOISTER_TOKEN);
await browser.start();
await browser.check("a page survives its server, and types once what was typed meanwhile", async () => {
  const page = await browser.open();
  await run(page, "kept=over-restarts; clear; echo kept $((1 + 1))", "kept 2");
  const before = await screen(page);
  console.log("restart");
  await says(page, "reconnecting");
  assert.equal(await screen(page), before);
  await page.keyboard.type("echo once: $kept");
  const [line] = await new Promise((read) => createInterface({ input: process.stdin }).once("line", (line) => read([line])));
  address = line;
  await page.keyboard.press("Enter");
  await shows(page, /^once: over-restarts$/m);
  assert.equal((await screen(page)).match(/^once: over-restarts$/gm).length, 1);
  await enter(page, "exit");
});
assert.deepEqual(browser.complaints, []);
await browser.stop();
process.exit();
