// Drives the page in a real browser against a running server, as a person would.
//
//   CLOISTER_TOKEN=… node test/terminal.mjs <address of the server> <project>
//
// CHROMIUM names the browser's binary, SCREENSHOTS a folder that gets a picture of what is looked at. Each line it prints is
// one thing that works; the first that doesn't ends it with the screen as it was and status 1. Knows nothing of the server's inside.

import assert from "node:assert/strict";

import { Browser, endWithin } from "./browser.mjs";
import { company } from "./person/company.mjs";
import { doors } from "./person/doors.mjs";
import { drawing } from "./person/drawing.mjs";
import { losses } from "./person/losses.mjs";
import { tabs } from "./person/tabs.mjs";
import { work } from "./person/work.mjs";

const [base, project] = process.argv.slice(2);
const token = process.env.CLOISTER_TOKEN;
if (!base || !project || !token) throw new Error("usage: CLOISTER_TOKEN=… node test/terminal.mjs <address> <project>");

endWithin(300);
const browser = new Browser(base, project, token);
try {
  await browser.start();
  for (const part of [work, losses, company, tabs, doors]) await part(browser);
  await browser.start({ webgl: true });
  await drawing(browser);
  await browser.check("the page keeps to its content security policy", async () => assert.deepEqual(browser.complaints, []));
} finally {
  await browser.stop();
}
