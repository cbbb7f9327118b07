// One person, one page, one session: typing, sizes, vim, a reload, a flood, a program that takes too much memory.

import assert from "node:assert/strict";

import { enter, leave, picture, rowsOf, run, says, screen, shows, size, until } from "../browser.mjs";

// What a flood must have brought before it counts as one: many times what may be under way unacknowledged.
const FLOOD_BYTES = 4 * 1024 * 1024;

// What may come after ^C: what was under way, and a snapshot.
const REST_BYTES_MAX = 1024 * 1024;

export async function work(browser) {
  let page;

  await browser.check("the prompt comes, and the token leaves the address bar", async () => {
    page = await browser.open();
    await run(page, "true");
    assert.doesNotMatch(page.url(), /token/);
    assert.match(await page.title(), /Cloister$/);
  });

  await browser.check("what is typed runs, and its output shows", async () => {
    await run(page, "echo $((6 * 7))-is-it", "42-is-it");
  });

  await browser.check("text beyond ASCII goes there and back", async () => {
    await run(page, "echo 'å→日本'$((1 + 1))", "å→日本2");
  });

  await browser.check("the terminal's size follows the window's", async () => {
    const before = await size(page, "before");
    await page.setViewportSize({ width: 640, height: 360 });
    await until(async () => (await rowsOf(page)) < before.rows, "fewer rows");
    const after = await size(page, "after");
    assert.ok(after.cols < before.cols && after.rows < before.rows, `${JSON.stringify(before)} to ${JSON.stringify(after)}`);
    await page.setViewportSize({ width: 1100, height: 680 });
    await until(async () => (await rowsOf(page)) === before.rows, "the rows from before");
  });

  await browser.check("the font's size can be changed, and is remembered", async () => {
    const before = await rowsOf(page);
    for (let n = 0; n < 4; n += 1) await page.keyboard.press("Control+=");
    await until(async () => (await rowsOf(page)) < before, "fewer rows");
    const larger = await size(page, "larger");
    await page.reload();
    await until(async () => (await rowsOf(page)) === larger.rows, "the same rows");
    await page.keyboard.press("Control+0");
    await until(async () => (await rowsOf(page)) === before, "the rows from before");
  });

  await browser.check("vim edits a file", async () => {
    await run(page, "cd /workspace 2>/dev/null || cd; rm -f note.txt; echo in $((1 + 1))", "in 2");
    await enter(page, "vim note.txt; echo left $((1 + 1))");
    await shows(page, /^~$/m);
    await page.keyboard.type("iwritten in vim");
    await shows(page, "written in vim");
    await picture(page, "vim");
  });

  await browser.check("a reload comes back to the same screen, with nothing typed by itself", async () => {
    const before = await screen(page);
    await page.reload();
    await until(async () => (await screen(page)) === before, "the same screen");
    await page.keyboard.press("Escape");
    await enter(page, ":wq");
    // What is typed while it leaves is still vim's.
    await shows(page, "left 2");
    await run(page, "cat note.txt; rm note.txt", "written in vim");
    assert.doesNotMatch(await screen(page), /not found/);
  });

  await browser.check("a program's question is answered, once", async () => {
    await run(page, "printf '\\e[c'; read -rs -t 10 -d c answer; kept=${#answer}; echo keeping $kept", "keeping 6");
    await run(page, "printf '\\e]11;?\\e\\\\'; read -rs -t 10 -d '\\' colour; echo coloured ${#colour}", "coloured 24");
    await page.reload();
    await shows(page, "coloured 24");
    await run(page, "clear; echo still $kept", "still 6");
    assert.doesNotMatch(await screen(page), /not found/);
  });

  await browser.check("what a program calls itself is the title", async () => {
    await run(page, "PROMPT_COMMAND=; PS1='$ '; printf '\\e]2;named %s\\a' here");
    await until(async () => (await page.title()) === "named here · Cloister", "the title");
  });

  await browser.check("a search finds what has scrolled away", async () => {
    await run(page, "for n in $(seq 300); do echo line-$((n * 7)); done", "line-2100");
    // Who types fast has typed before the page has loaded what searches.
    let type;
    const typed = new Promise((resolve) => (type = resolve));
    await page.route("**/assets/addon-search-*", (route) => typed.then(() => route.continue()));
    await page.keyboard.press("Control+Shift+F");
    await page.getByRole("searchbox").fill("line-77");
    type();
    await page.locator("#search").getByText("3 of 3").waitFor();
    await shows(page, "line-777");
    await page.keyboard.press("Enter");
    await page.locator("#search").getByText("2 of 3").waitFor();
    await picture(page, "search");
    await page.keyboard.press("Enter");
    await shows(page, /^line-77$/m);
    await page.keyboard.press("Escape");
    await run(page, "echo found $((1 + 1))", "found 2");
  });

  await browser.check("a program sets the clipboard once it is let, and never reads it", async () => {
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    const copied = () => page.evaluate(() => navigator.clipboard.readText());
    await page.evaluate(() => navigator.clipboard.writeText("mine"));
    await enter(page, "printf '\\e]52;c;%s\\a' $(printf theirs | base64)");
    await page.getByText("set the clipboard?").waitFor();
    assert.equal(await copied(), "mine");
    await picture(page, "consent");
    await page.keyboard.press("Control+Shift+Period");
    await page.keyboard.press("Enter");
    await until(async () => (await copied()) === "theirs", "the program's text");
    await run(page, "printf '\\e]52;c;?\\a'; read -rs -t 1 -d x told; echo told ${#told}", "told 0");
  });

  await browser.check("colours and links show", async () => {
    await run(page, "clear; for c in 1 2 3 4 5 6; do printf \"\\e[3${c}mcolour $c \\e[9${c}mbright $c\\e[0m  \"; done; echo; echo https://example.invalid/x", "colour 6");
    await picture(page, "colours");
    await page.context().close();
  });

  await browser.check("a flood doesn't keep ^C from the program, nor what it does from the eye", async () => {
    let [bytes, stopped] = [0, undefined];
    const count = (socket) => {
      socket.on("framereceived", ({ payload }) => (bytes += payload.length));
      // Input frames have eleven bytes before what was typed.
      socket.on("framesent", ({ payload }) => payload[0] === 1 && payload[11] === 3 && (stopped = bytes));
    };
    page = await browser.open("flood", { prepare: (context) => context.on("page", (page) => page.on("websocket", count)) });
    await enter(page, "yes");
    await until(async () => bytes > FLOOD_BYTES, "the flood");
    await page.keyboard.press("Control+c");
    await run(page, "echo dry $((1 + 1))", "dry 2");
    assert.ok(bytes - stopped < REST_BYTES_MAX, `${bytes - stopped} bytes after ^C`);
    await leave(page);
  });

  await browser.check("a program that takes more memory than the project may have ends, and the page says why", async () => {
    page = await browser.open("hog");
    await enter(page, "python3 -c 'x = b\"x\" * (4 << 30)'");
    await says(page, "out of memory: python3 was killed (limit 512 MiB)");
    await picture(page, "out-of-memory");
    await run(page, "echo still $((1 + 1))", "still 2");
    await leave(page);
  });
}
