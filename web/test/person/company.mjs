// Two pages at one session: who types leads, and who doesn't sees all of it.

import assert from "node:assert/strict";

import { leave, picture, rowsOf, run, screen, shows, size, until } from "../browser.mjs";

export async function company(browser) {
  let [large, small, large0, small0] = [];

  await browser.check("a second page sees the same session, in the first one's size", async () => {
    large = await browser.open("shared");
    large0 = await size(large, "large");
    small = await browser.open("shared", { viewport: { width: 700, height: 420 } });
    await shows(small, "large=");
    await until(async () => (await rowsOf(small)) === large0.rows, "the first one's rows");
    await small.locator("#corner").getByText("2 here · you watch").waitFor();
    await large.locator("#corner").getByText("2 here · you lead").waitFor();
  });

  await browser.check("all of it is seen in a smaller window", async () => {
    await until(() => fits(small), "the session within the window");
    await picture(small, "smaller");
  });

  await browser.check("who types leads, and the other one follows", async () => {
    small0 = await size(small, "small");
    assert.ok(small0.rows < large0.rows && small0.cols < large0.cols);
    await until(async () => (await rowsOf(large)) === small0.rows, "the second one's rows");
    await large.locator("#corner").getByText("you watch").waitFor();
    await picture(large, "letterbox");
    assert.deepEqual(await size(large, "again"), large0);
  });

  await browser.check("only the leader's terminal answers", async () => {
    await run(large, "printf '\\e[c'; read -rs -t 10 -d c answer; read -rs -t 1 -d c more; echo once ${#answer} ${#more}", "once 6 0");
  });

  await browser.check("a viewer sees, and neither types nor sizes", async () => {
    const viewer = await browser.open("shared", { view: true, viewport: { width: 500, height: 300 } });
    await shows(viewer, "once 6 0");
    await viewer.locator("#corner").getByText("3 here · view only").waitFor();
    await viewer.keyboard.type("nothing of this");
    await run(large, "echo still $((1 + 1))", "still 2");
    await shows(viewer, "still 2");
    assert.doesNotMatch(await screen(viewer), /nothing of this/);
    assert.deepEqual(await size(large, "unchanged"), large0);
    await viewer.context().close();
  });

  await browser.check("who stays leads", async () => {
    await large.context().close();
    await until(async () => (await rowsOf(small)) === small0.rows, "its own rows");
    assert.deepEqual(await size(small, "alone"), small0);
    await leave(small);
  });
}

function fits(page) {
  return page.evaluate(() => {
    const { right, bottom } = document.querySelector(".pane:not([hidden]) .xterm-screen").getBoundingClientRect();
    return right <= innerWidth && bottom <= innerHeight;
  });
}
