// Drives the page's recordings in a real browser against a running server.
//
//   CLOISTER_TOKEN=… CLOISTER_PROJECTS=… node test/recordings.mjs <address of the server> <project>
//
// CLOISTER_PROJECTS is the server's folder of projects, where recordings lie. All else is as in terminal.mjs, beside which it
// runs: it takes its time, because what is recorded must.

import assert from "node:assert/strict";

import { Browser, endWithin } from "./browser.mjs";
import { recordings } from "./person/recordings.mjs";

const [base, project] = process.argv.slice(2);
const { CLOISTER_TOKEN: token, CLOISTER_PROJECTS: projects } = process.env;
if (!base || !project || !token || !projects) {
  throw new Error("usage: CLOISTER_TOKEN=… CLOISTER_PROJECTS=… node test/recordings.mjs <address> <project>");
}

endWithin(150);
const browser = new Browser(base, project, token);
try {
  await browser.start();
  await recordings(browser, projects);
  await browser.check("the page keeps to its content security policy", async () => assert.deepEqual(browser.complaints, []));
} finally {
  await browser.stop();
}
