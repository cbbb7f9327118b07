// Drives the page in a real browser against a running server, as a person would.
//
//   CLOISTER_TOKEN=… node test/terminal.mjs <address of the server> <project>
//
// CHROMIUM names the browser's binary, SCREENSHOTS a folder that gets a picture of what is looked at. Each line it prints is
// one thing that works; the first that doesn't ends it with the screen as it was and status 1. Knows nothing of the server's inside.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [base, project] = process.argv.slice(2);
const token = process.env.CLOISTER_TOKEN;
if (!base || !project || !token) throw new Error("usage: CLOISTER_TOKEN=… node test/terminal.mjs <address> <project>");

// For each wait. Nothing here takes a second by itself; a laden machine may take many.
const DEADLINE_MS = 30_000;

// For all of it: nobody waits for a browser that hangs.
const END_MS = 300_000;

// What a flood must have brought before it counts as one: more than the page holds unparsed.
const FLOOD_BYTES = 24 * 1024 * 1024;

// Without WebGL the terminal is drawn as elements, whose text can be read.
let browser = await launch("--disable-gpu", "--disable-3d-apis");

setTimeout(() => {
  console.error(`FAILED: not done after ${END_MS / 1000} s`);
  process.exit(1);
}, END_MS).unref();

const complaints = [];
let watched;

try {
  await check("the prompt comes, and the token leaves the address bar", async () => {
    const page = await open(`/?project=${project}#token=${token}`);
    await run(page, "true", "");
    assert.equal(await page.evaluate(() => location.href), `${base}/?project=${project}`);
    assert.match(await page.title(), /Cloister$/);
  });

  await check("what is typed runs, and its output shows", async () => {
    await run(watched, "echo $((6 * 7))-is-it", "42-is-it");
  });

  await check("text beyond ASCII goes there and back", async () => {
    await run(watched, "echo 'å→日本'$((1 + 1))", "å→日本2");
  });

  await check("the terminal's size follows the window's", async () => {
    const before = await size(watched, "before");
    const told = watched.waitForResponse((answer) => answer.url().endsWith("/size"), { timeout: DEADLINE_MS });
    await watched.setViewportSize({ width: 640, height: 360 });
    assert.equal((await told).status(), 204);
    const after = await size(watched, "after");
    assert.ok(after.cols < before.cols && after.rows < before.rows, `${JSON.stringify(before)} to ${JSON.stringify(after)}`);
    await watched.setViewportSize({ width: 1100, height: 680 });
  });

  await check("vim edits a file", async () => {
    await run(watched, "cd /workspace 2>/dev/null || cd; rm -f note.txt; echo in $((1 + 1))", "in 2");
    await enter(watched, "vim note.txt; echo left $((1 + 1))");
    await shows(watched, /^~$/m);
    await watched.keyboard.type("iwritten in vim");
    await shows(watched, "written in vim");
    await picture(watched, "vim");
    await watched.keyboard.press("Escape");
    await enter(watched, ":wq");
    // What is typed while it leaves is still vim's.
    await shows(watched, "left 2");
    await run(watched, "cat note.txt; rm note.txt", "written in vim");
  });

  await check("a reload comes back to the same session, with nothing typed by itself", async () => {
    // A question to the terminal, answered once; asked again by what is shown again, its answer would end up at the prompt.
    await run(watched, "printf '\\e[c'; read -rs -t 10 -d c answer; kept=${#answer}; echo keeping $kept", "keeping 6");
    await watched.reload();
    await shows(watched, "keeping 6");
    await run(watched, "clear; echo still $kept", "still 6");
    assert.doesNotMatch(await screen(watched), /not found/);
  });

  await check("a second page of the project sees the same session", async () => {
    const [first, second] = [watched, await open(`/p/${project}#token=${token}`)];
    await run(first, "echo seen by $((1 + 1))", "seen by 2");
    await shows(second, "seen by 2");
    await second.close();
    watched = first;
  });

  await check("colours and links show", async () => {
    await run(watched, "clear; for c in 1 2 3 4 5 6; do printf \"\\e[3${c}mcolour $c \\e[9${c}mbright $c\\e[0m  \"; done; echo; echo https://example.invalid/x", "colour 6");
    await picture(watched, "colours");
    await watched.context().close();
  });

  await check("a flood doesn't keep ^C from the program", async () => {
    let bytes = 0;
    const page = await open(`/?project=${project}&session=flood#token=${token}`, (context) =>
      context.on("page", (page) => page.on("websocket", (socket) => socket.on("framereceived", ({ payload }) => (bytes += payload.length)))),
    );
    await enter(page, "yes");
    await until(async () => bytes > FLOOD_BYTES, "the flood");
    await page.keyboard.press("Control+c");
    await run(page, "echo dry $((1 + 1))", "dry 2");
    await enter(page, "exit");
    await page.context().close();
  });

  await check("a lost connection is said, refuses keys visibly, and comes back", async () => {
    const sockets = [];
    let away = false;
    const page = await open(`/?project=${project}&session=lost#token=${token}`, (context) =>
      context.routeWebSocket(/\/ws\/terminal\//, (socket) => {
        if (away) return void socket.close({ code: 1013 });
        socket.connectToServer();
        sockets.push(socket);
      }),
    );
    await run(page, "kept=$((40 + 2)); echo keeping $kept", "keeping 42");
    away = true;
    await sockets.at(-1).close({ code: 1012 });
    await page.getByRole("status").getByText("reconnecting").waitFor({ timeout: DEADLINE_MS });
    await page.keyboard.type("lost");
    await page.getByRole("status").getByText("not sent").waitFor({ timeout: DEADLINE_MS });
    await picture(page, "reconnecting");
    away = false;
    await page.getByRole("status").waitFor({ state: "hidden", timeout: DEADLINE_MS });
    await run(page, "echo back with $kept", "back with 42");
    await enter(page, "exit");
    await page.context().close();
  });

  await check("a session that ends is said, and Enter starts anew", async () => {
    const page = await open(`/?project=${project}&session=short#token=${token}`);
    await run(page, "kept=1; echo begun $((1 + 1))", "begun 2");
    await enter(page, "exit 3");
    await page.getByRole("status").getByText("exited with status 3").waitFor({ timeout: DEADLINE_MS });
    await picture(page, "ended");
    await page.keyboard.press("Enter");
    await page.getByRole("status").waitFor({ state: "hidden", timeout: DEADLINE_MS });
    await run(page, "echo anew ${kept:-2}", "anew 2");
    await enter(page, "exit");
    await page.context().close();
  });

  await check("a wrong token shows the form, and the right one opens", async () => {
    const page = await open(`/?project=${project}#token=wrong`);
    await page.getByText("refuses this token").waitFor({ timeout: DEADLINE_MS });
    await picture(page, "form");
    await page.getByLabel("Owner’s token").fill(token);
    await page.keyboard.press("Enter");
    await run(page, "echo let in $((1 + 1))", "let in 2");
    await page.context().close();
  });

  await check("without a token the form asks for one", async () => {
    const page = await open(`/?project=${project}`);
    await page.getByLabel("Owner’s token").waitFor({ timeout: DEADLINE_MS });
    await page.context().close();
  });

  await check("an address that names no project says so", async () => {
    const page = await open("/?project=..");
    await page.getByRole("status").getByText("names no project").waitFor({ timeout: DEADLINE_MS });
    await page.context().close();
  });

  await browser.close();
  browser = await launch("--use-angle=swiftshader", "--enable-unsafe-swiftshader");

  await check("with WebGL it is drawn on a canvas, and as elements when that is lost", async () => {
    const page = await open(`/?project=${project}&session=drawn#token=${token}`);
    const canvas = page.locator(".xterm-screen > canvas:not([class])");
    await canvas.waitFor({ timeout: DEADLINE_MS });
    assert.equal(await page.locator(".xterm-rows").count(), 0);
    await canvas.evaluate((canvas) => canvas.getContext("webgl2").getExtension("WEBGL_lose_context").loseContext());
    await run(page, "echo drawn $((1 + 1))", "drawn 2");
    await enter(page, "exit");
    await page.context().close();
  });

  await check("the page keeps to its content security policy", async () => assert.deepEqual(complaints, []));
} finally {
  await browser.close();
}

function launch(...more) {
  const quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  return chromium.launch({ executablePath, args: ["--no-sandbox", ...quiet, ...more] });
}

async function check(what, body) {
  try {
    await body();
  } catch (error) {
    console.error(`FAILED: ${what}\n${error.message}`);
    if (watched && !watched.isClosed()) console.error(`the screen:\n${await screen(watched).catch(() => "none")}`);
    process.exitCode = 1;
    await browser.close();
    process.exit();
  }
  console.log(`ok: ${what}`);
}

// A page of a person who was never here.
async function open(path, prepare = () => undefined) {
  const reuse = watched && !watched.isClosed() && path.startsWith("/p/");
  const context = reuse ? watched.context() : await browser.newContext({ viewport: { width: 1100, height: 680 } });
  await prepare(context);
  const page = await context.newPage();
  page.on("console", (message) => /content security policy|trusted/i.test(message.text()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(base + path);
  watched = page;
  return page;
}

// Types a command and waits for its output, which must differ from the command itself.
async function run(page, command, output) {
  const marker = `[${Math.random().toString(36).slice(2, 8)}]`;
  await enter(page, `${command}; echo "${marker.slice(0, 3)}""${marker.slice(3)}"`);
  await shows(page, marker);
  if (output !== "") await shows(page, output);
}

// Types a line once there is a prompt, or whatever a program shows.
async function enter(page, line) {
  await shows(page, /\S/);
  await page.keyboard.type(line);
  await page.keyboard.press("Enter");
}

async function size(page, name) {
  await run(page, `clear; echo ${name}=$(stty size)`, `${name}=`);
  const [, rows, cols] = new RegExp(`${name}=(\\d+) (\\d+)`).exec(await screen(page)).map(Number);
  assert.equal(rows, await page.locator(".xterm-rows > div").count());
  return { rows, cols };
}

async function shows(page, what) {
  const found = (text) => (what instanceof RegExp ? what.test(text) : text.includes(what));
  await until(async () => found(await screen(page)), JSON.stringify(String(what)));
}

async function until(condition, what) {
  const end = Date.now() + DEADLINE_MS;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`waited ${DEADLINE_MS / 1000} s for ${what}`);
    await new Promise((resume) => setTimeout(resume, 20));
  }
}

// The terminal's rows as text; a line that wraps is one line.
async function screen(page) {
  const rows = await page.locator(".xterm-rows > div").allTextContents();
  return rows.map((row) => row.replaceAll("\u00a0", " ").trimEnd()).join("\n");
}

async function picture(page, name) {
  if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png`, animations: "disabled" });
}
