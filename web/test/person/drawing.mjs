// How the terminal is drawn where there is WebGL.

import assert from "node:assert/strict";

import { DEADLINE_MS, leave, run } from "../browser.mjs";

export async function drawing(browser) {
  await browser.check("with WebGL it is drawn on a canvas, and as elements when that is lost", async () => {
    const page = await browser.open("drawn");
    const canvas = page.locator(".xterm-screen > canvas:not([class])");
    await canvas.waitFor({ timeout: DEADLINE_MS });
    assert.equal(await page.locator(".xterm-rows").count(), 0);
    await canvas.evaluate((canvas) => canvas.getContext("webgl2").getExtension("WEBGL_lose_context").loseContext());
    await run(page, "echo drawn $((1 + 1))", "drawn 2");
    await leave(page);
  });
}
