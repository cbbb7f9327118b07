// Several sessions in one page.

import assert from "node:assert/strict";

import { enter, leave, picture, run, screen, shows, until } from "../browser.mjs";

export async function tabs(browser) {
  let page;
  const bar = () => page.getByRole("tablist");
  const tab = (name) => bar().getByRole("tab", { name });

  await browser.check("another session has a tab, and the shell beneath it goes on", async () => {
    page = await browser.open("first");
    await run(page, "PROMPT_COMMAND=; PS1='$ '; printf '\\e]2;\\a'; echo one $((1 + 1))", "one 2");
    await page.keyboard.press("Control+Shift+Enter");
    await until(() => bar().isVisible(), "the bar");
    await run(page, "PROMPT_COMMAND=; PS1='$ '; printf '\\e]2;\\a'; echo two $((1 + 1))", "two 2");
    assert.doesNotMatch(await screen(page), /one 2/);
    await picture(page, "tabs");
  });

  await browser.check("keys turn from one to the other", async () => {
    const order = await bar().getByRole("tab").allTextContents();
    const at = (name) => order.findIndex((label) => label === name) + 1;
    await page.keyboard.press(`Alt+${at("first")}`);
    await shows(page, "one 2");
    await page.keyboard.press(at("first") < at("main") || at("main") === 0 ? "Alt+PageDown" : "Alt+PageUp");
    await until(async () => !(await screen(page)).includes("one 2"), "another screen");
    await page.keyboard.press(`Alt+${at("first")}`);
    await shows(page, "one 2");
  });

  await browser.check("a bell elsewhere is marked until it is looked at", async () => {
    const other = await browser.open("second");
    await run(other, "PROMPT_COMMAND=; PS1='$ '; printf '\\e]2;\\a'");
    await tab("second").click();
    await shows(page, /\$/);
    await tab("first").click();
    await run(other, "printf '\\a'");
    await bar().getByRole("tab", { name: "second, bell" }).waitFor();
    assert.match(await page.title(), /^●/);
    await tab("second").click();
    await until(async () => (await bar().getByRole("tab", { name: ", bell" }).count()) === 0, "no mark");
    await other.context().close();
  });

  await browser.check("a tab can be named, for everybody", async () => {
    const other = await browser.open("first");
    await tab("second").dblclick();
    await page.keyboard.type("builds");
    await page.keyboard.press("Enter");
    await tab("builds").waitFor();
    await other.getByRole("tablist").getByRole("tab", { name: "builds" }).waitFor();
    await leave(other);
    await page.reload();
    await tab("builds").waitFor();
    assert.match(page.url(), /session=second/);
  });

  await browser.check("closing a tab asks, and ends its session", async () => {
    await tab("builds").waitFor();
    await page.getByRole("button", { name: "Close builds" }).click();
    await page.getByRole("dialog").getByText("End “builds”").waitFor();
    await picture(page, "confirm");
    await page.getByRole("button", { name: "End it" }).click();
    await until(async () => (await tab("builds").count()) === 0, "one tab fewer");
    await page.keyboard.press("Control+Shift+Enter");
    await run(page, "echo anew $((1 + 1))", "anew 2");
  });

  await browser.check("a session that ends well takes its tab along", async () => {
    const before = await bar().getByRole("tab").count();
    await enter(page, "exit");
    await until(async () => (await bar().getByRole("tab").count()) === before - 1, "one tab fewer");
    await page.context().close();
    await leave(await browser.open("first"));
  });

  await browser.check("the menu changes the theme, and the page remembers", async () => {
    page = await browser.open("dressed");
    await shows(page, /\S/);
    await page.keyboard.press("Control+Shift+Comma");
    await page.getByLabel("Theme").selectOption("light");
    await picture(page, "menu");
    await page.keyboard.press("Escape");
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await page.reload();
    assert.equal(await ground(), light);
    assert.notEqual(light, "rgb(17, 21, 26)");
    await run(page, "echo typed $((1 + 1))", "typed 2");
    await leave(page);
  });

  await browser.check("a touch screen has the keys that its keyboard lacks", async () => {
    page = await browser.open("touched", { hasTouch: true, isMobile: true, viewport: { width: 412, height: 800 } });
    await run(page, "echo ready $((1 + 1))", "ready 2");
    await enter(page, "cat");
    await page.locator("#keys").getByText("Ctrl").tap();
    await picture(page, "touch");
    await page.keyboard.type("c");
    await run(page, "echo interrupted $?", "interrupted 130");
    await page.keyboard.type("echo ac");
    await page.getByRole("button", { name: "Left" }).tap();
    await page.keyboard.type("b");
    await enter(page, "");
    await shows(page, /^abc$/m);
    await leave(page);
  });
}
