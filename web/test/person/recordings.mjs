// Recordings: a session is recorded, played, looked through and deleted, and what it printed does nothing but show.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { DEADLINE_MS, enter, leave, picture, rowsOf, run, shows, until } from "../browser.mjs";

const HEAD = '{"version":3,"term":{"cols":80,"rows":24}}\n';

/** `folder` is where the server keeps its projects. */
export async function recordings(browser, folder) {
  let page;
  const list = () => page.getByRole("dialog", { name: "Recordings" });
  const player = () => page.locator("#player");
  const items = () => list().locator("li");
  const place = () => player().getByRole("slider", { name: "Position" });
  const atS = async () => Number(await place().inputValue()) / 1000;
  const endS = async () => Number(await place().getAttribute("max")) / 1000;
  const seek = (toS) => place().fill(String(Math.round(toS * 1000)));
  const menu = async (name) => {
    await page.keyboard.press("Control+Shift+Comma");
    await page.locator("#menu").getByRole("button", { name }).click();
  };
  const film = async () => {
    const rows = await player().locator(".xterm-rows > div").allTextContents();
    return rows.map((row) => row.replaceAll("\u00a0", " ").trimEnd()).join("\n");
  };
  const filmShows = (what) => until(async () => what.test(await film()), `${what} in what is played`);

  await browser.check("a session is recorded from the menu on, and that is seen", async () => {
    page = await browser.open("filmed");
    await run(page, "PROMPT_COMMAND=; PS1='$ '; echo before $((1 + 1))", "before 2");
    assert.ok(await page.locator("#corner .recorded").isHidden());
    await menu("Start recording");
    await page.locator("#corner .recorded").waitFor({ timeout: DEADLINE_MS });
    const other = await browser.open("filmed");
    await other.locator("#corner .recorded").waitFor({ timeout: DEADLINE_MS });
    await other.context().close();
  });

  await browser.check("a recording that is being written is marked, and isn't deleted", async () => {
    await run(page, "clear; echo first $((1 + 1))", "first 2");
    await menu("Recordings");
    await list().getByText("recording now").waitFor({ timeout: DEADLINE_MS });
    await list().getByRole("button", { name: /^Delete filmed/ }).click();
    await page.getByRole("button", { name: "Delete it" }).click();
    await list().getByRole("alert").getByText("written").waitFor({ timeout: DEADLINE_MS });
    assert.equal(await items().count(), 1);
    await picture(page, "recordings");
    await page.keyboard.press("Escape");
  });

  await browser.check("it ends by request, and holds what was printed", async () => {
    // Seconds apart; then what asks, names, links and sets the clipboard; then another size.
    await run(page, "sleep 4; echo second $((1 + 1))", "second 2");
    await run(page, "printf '\\e]52;c;%s\\a\\e]2;renamed\\a\\e[c\\e]11;?\\a' $(printf stolen | base64); read -rs -t 1 -d x; echo http://example.invalid/$((1 + 1))", "invalid/2");
    const rows = await rowsOf(page);
    await page.setViewportSize({ width: 700, height: 420 });
    await until(async () => (await rowsOf(page)) < rows, "fewer rows");
    await run(page, "clear; echo third $((1 + 1)); stty size", "third 2");
    await page.setViewportSize({ width: 1100, height: 680 });
    await until(async () => (await rowsOf(page)) === rows, "the rows from before");
    await menu("Stop recording");
    await page.locator("#corner .recorded").waitFor({ state: "hidden", timeout: DEADLINE_MS });
    // A page that was never asked about the clipboard.
    await page.reload();
    await run(page, "clear; echo after $((1 + 1))", "after 2");
    await menu("Recordings");
    await list().getByRole("button", { name: /^Play filmed/ }).waitFor({ timeout: DEADLINE_MS });
    assert.ok(await list().getByText("recording now").isHidden());
  });

  await browser.check("it is played to its end, fast, and only shows", async () => {
    const popups = [];
    page.on("popup", (popup) => popups.push(popup.url()));
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.evaluate(() => navigator.clipboard.writeText("mine"));
    const title = await page.title();
    await list().getByRole("button", { name: /^Play filmed/ }).press("Enter");
    await player().getByLabel("Speed").selectOption("8");
    await filmShows(/^first 2$/m);
    await filmShows(/^third 2$/m);
    await player().getByText("the recording ends here").waitFor({ timeout: DEADLINE_MS });
    await picture(page, "played");
    assert.equal(await atS(), await endS());
    assert.equal(await page.title(), title);
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "mine");
    assert.ok(await page.locator("#consent").isHidden());
    assert.deepEqual(popups, []);
  });

  await browser.check("the slider and the arrow keys go to any place in it", async () => {
    const end = await endS();
    const third = await film();
    await seek(0);
    await filmShows(/^(?!.*(second|third) 2)/s);
    assert.doesNotMatch(await film(), /(second|third) 2/);
    await seek(end - 0.001);
    await filmShows(/^third 2$/m);
    await seek(end);
    await until(async () => (await film()) === third, "the screen of its end");
    await player().getByRole("button", { name: "Play" }).focus();
    await page.keyboard.press("ArrowLeft");
    await until(async () => Math.abs((await atS()) - (end - 5)) < 0.01, "five seconds before the end");
    await page.keyboard.press("ArrowRight");
    await until(async () => (await atS()) === end, "the end");
    await place().focus();
    await page.keyboard.press("Home");
    await until(async () => (await atS()) === 0, "the beginning");
  });

  await browser.check("the space bar plays and pauses, and idle time is skipped if wanted", async () => {
    await player().getByLabel("Speed").selectOption("1");
    const short = await endS();
    await player().getByLabel("Skip idle time").uncheck();
    await until(async () => (await endS()) > short + 1, "the time that nothing happened in");
    await player().getByLabel("Skip idle time").check();
    await until(async () => (await endS()) === short, "the time without it");
    await place().focus();
    await page.keyboard.press("Space");
    await until(async () => (await atS()) > 0.2, "time to pass");
    await page.keyboard.press("Space");
    const paused = await atS();
    await player().getByRole("button", { name: "Play" }).waitFor();
    assert.ok(paused < short);
    await new Promise((resume) => setTimeout(resume, 300));
    assert.equal(await atS(), paused);
  });

  await browser.check("a recording of a larger window is seen whole in a small one", async () => {
    await seek(0);
    const within = (inner, outer) =>
      page.evaluate((names) => {
        const [inner, outer] = names.map((name) => document.querySelector(name).getBoundingClientRect());
        return inner.right <= outer.right && inner.bottom <= outer.bottom;
      }, [inner, outer]);
    await page.setViewportSize({ width: 520, height: 400 });
    await until(() => within(".film .xterm-screen", ".film"), "the recording within the window");
    // A telephone's width, where the smallest font is too large for it: then it scrolls, and all else is there.
    await page.setViewportSize({ width: 390, height: 700 });
    for (const part of [".film", ".controls", ".clock", "label:last-of-type"]) await until(() => within(`#player ${part}`, "#player"), `${part} within the window`);
    for (const name of ["Play", "Close"]) assert.ok(await player().getByRole("button", { name }).isVisible());
    await picture(page, "player-narrow");
    await page.keyboard.press("Escape");
    await until(async () => !(await player().isVisible()), "the list");
    await picture(page, "recordings-narrow");
    await page.setViewportSize({ width: 1100, height: 680 });
  });

  await browser.check("it can be downloaded", async () => {
    const [download] = await Promise.all([page.waitForEvent("download"), list().getByRole("button", { name: /^Download filmed/ }).click()]);
    const [name] = /^filmed-.*\.cast$/.exec(download.suggestedFilename());
    const kept = await readFile(join(folder, browser.project, "recordings", name), "utf8");
    assert.equal(await readFile(await download.path(), "utf8"), kept);
    assert.ok(kept.includes("first 2") && kept.includes("\\u001b]52;c;"));
  });

  await browser.check("what is no recording is refused with its line, and its exit is told of one that has it", async () => {
    const put = (name, text) => writeFile(join(folder, browser.project, "recordings", name), text, { mode: 0o644 });
    await put("broken-20200101T000000Z.cast", `${HEAD}[0.1,"o","fine"]\n[0.1,"o","<img src=x>"\n`);
    await put("status-20200101T000000Z.cast", `${HEAD}[0.1,"o","\\u001b]8;;http://example.invalid/\\u0007bye\\u001b]8;;\\u0007"]\n[0.1,"x","7"]\n`);
    await page.keyboard.press("Escape");
    await menu("Recordings");
    await list().getByRole("button", { name: /^Play broken/ }).click();
    await player().getByText("can’t be played: line 3 is no JSON").waitFor({ timeout: DEADLINE_MS });
    await page.keyboard.press("Escape");
    await list().getByRole("button", { name: /^Play status/ }).click();
    await player().getByText("exited with status 7").waitFor({ timeout: DEADLINE_MS });
    await filmShows(/^bye$/m);
    // Its link asks nothing and opens nothing.
    const opened = [];
    page.on("dialog", (dialog) => opened.push(dialog.message()) && dialog.dismiss());
    page.on("popup", (popup) => opened.push(popup.url()));
    const { x, y } = await player().locator(".xterm-screen").boundingBox();
    for (const step of [4, 8, 12]) await page.mouse.move(x + step, y + 8);
    await page.mouse.click(x + 12, y + 8);
    await page.evaluate(() => new Promise((resume) => requestAnimationFrame(() => requestAnimationFrame(resume))));
    assert.deepEqual(opened, []);
    await page.keyboard.press("Escape");
  });

  await browser.check("deleting asks first", async () => {
    for (const name of ["broken", "status", "filmed"]) {
      const before = await items().count();
      await list().getByRole("button", { name: new RegExp(`^Delete ${name}`) }).click();
      if (name === "broken") {
        await page.getByRole("button", { name: "Cancel" }).click();
        assert.equal(await items().count(), before);
        await list().getByRole("button", { name: /^Delete broken/ }).click();
      }
      await page.getByRole("button", { name: "Delete it" }).click();
      await until(async () => (await items().count()) === before - 1, "one fewer");
    }
    await list().getByText("Nothing is recorded yet").waitFor({ timeout: DEADLINE_MS });
    await page.keyboard.press("Escape");
    await run(page, "echo typed $((1 + 1))", "typed 2");
    await leave(page);
  });

  await browser.check("who only looks sees what is recorded, and neither records nor deletes", async () => {
    page = await browser.open("looked-at");
    await shows(page, /\S/);
    await menu("Start recording");
    await page.locator("#corner .recorded").waitFor({ timeout: DEADLINE_MS });
    const marked = page.getByRole("tab", { name: /, recorded$/ });
    await page.keyboard.press("Control+Shift+Enter");
    await marked.waitFor({ timeout: DEADLINE_MS });
    assert.ok(await page.locator("#corner .recorded").isHidden(), "the session that is shown isn't recorded");
    await picture(page, "marked");
    await marked.click();
    await page.locator("#corner .recorded").waitFor({ timeout: DEADLINE_MS });
    const writer = page;
    page = await browser.open("looked-at", { view: true });
    await page.locator("#corner .recorded").waitFor({ timeout: DEADLINE_MS });
    await page.keyboard.press("Control+Shift+Comma");
    assert.ok(await page.locator("#menu .record").isHidden());
    await page.locator("#menu").getByRole("button", { name: "Recordings" }).click();
    await list().getByRole("button", { name: /^Play looked-at/ }).waitFor({ timeout: DEADLINE_MS });
    assert.equal(await list().getByRole("button", { name: /^(Delete|Start|Stop)/ }).count(), 0);
    await page.context().close();
    page = writer;
    await enter(page, "exec true");
    await until(async () => !(await page.locator("#corner .recorded").isVisible()), "no mark");
    await page.context().close();
  });
}
