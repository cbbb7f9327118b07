// A real browser for tests, and what a person does in it: opens pages, types, looks. Knows no test.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

/** For each wait. Nothing here takes a second by itself; a laden machine may take many. */
export const DEADLINE_MS = 30_000;

const SOFTWARE = ["--disable-gpu", "--disable-3d-apis"];
const WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"];
const QUIET = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/** Ends the script as failed after so long: nobody waits for a browser that hangs. */
export function endWithin(seconds) {
  setTimeout(() => {
    console.error(`FAILED: not done after ${seconds} s`);
    process.exit(1);
  }, seconds * 1000).unref();
}

/** A browser at one project's page. */
export class Browser {
  /** Complaints of the page: errors, and breaches of its content security policy. */
  complaints = [];
  #base;
  #project;
  #token;
  #chromium;
  #watched;

  constructor(base, project, token) {
    Object.assign(this, { project, token });
    this.#base = base;
    this.#project = project;
    this.#token = token;
  }

  /** Starts. Without WebGL the terminal is drawn as elements, whose text can be read. */
  async start({ webgl = false } = {}) {
    await this.#chromium?.close();
    const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
    this.#chromium = await chromium.launch({ executablePath, args: ["--no-sandbox", ...QUIET, ...(webgl ? WEBGL : SOFTWARE)] });
  }

  async stop() {
    await this.#chromium?.close();
  }

  /** Tries one thing; says that it works, or ends with the screen as it was. */
  async check(what, body) {
    try {
      await body();
    } catch (error) {
      console.error(`FAILED: ${what}\n${error.message}`);
      for (const page of this.#chromium.contexts().flatMap((context) => context.pages())) {
        console.error(`the screen of ${page.url()}:\n${await screen(page).catch(() => "none")}`);
      }
      await picture(this.#watched, "failed").catch(() => undefined);
      await this.stop();
      process.exit(1);
    }
    console.log(`ok: ${what}`);
  }

  /** A page of a person who was never here, at a session of the project. */
  async open(session = "main", options = {}) {
    return this.openAt(`/?project=${this.#project}&session=${session}${options.view ? "&view=1" : ""}#token=${this.#token}`, options);
  }

  /** The same at any address. */
  async openAt(path, { prepare = () => undefined, ...options } = {}) {
    const context = await this.#chromium.newContext({ viewport: { width: 1100, height: 680 }, colorScheme: "dark", ...options });
    await prepare(context);
    const page = await context.newPage();
    page.on("console", (message) => /content security policy|trusted/i.test(message.text()) && this.complaints.push(message.text()));
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    await page.goto(this.#base + path);
    this.#watched = page;
    return page;
  }
}

/** Types a command and waits for its output, which must differ from the command itself. */
export async function run(page, command, output = "") {
  const marker = `[${Math.random().toString(36).slice(2, 8)}]`;
  await enter(page, `${command}; echo "${marker.slice(0, 3)}""${marker.slice(3)}"`);
  await shows(page, marker);
  if (output !== "") await shows(page, output);
}

/** Types a line once there is a prompt, or whatever a program shows. */
export async function enter(page, line) {
  await shows(page, /\S/);
  await page.keyboard.type(line);
  await page.keyboard.press("Enter");
}

/** Ends the session that a page shows, and the page. Another session's tab may come in its place. */
export async function leave(page) {
  const session = () => new URL(page.url()).searchParams.get("session");
  const before = session();
  await enter(page, "exit 0");
  await until(async () => session() !== before || (await page.locator("#status").getByText("exited").isVisible()), "the end");
  await page.context().close();
}

/** The size that programs have, which must be the one that is shown. */
export async function size(page, name) {
  await run(page, `clear; echo ${name}=$(stty size)`, `${name}=`);
  const [, rows, cols] = new RegExp(`${name}=(\\d+) (\\d+)`).exec(await screen(page)).map(Number);
  assert.equal(rows, await rowsOf(page));
  return { rows, cols };
}

/** How many rows the terminal has. */
export function rowsOf(page) {
  return page.locator(".pane:not([hidden]) .xterm-rows > div").count();
}

/** Waits until the screen shows something. */
export async function shows(page, what) {
  const found = (text) => (what instanceof RegExp ? what.test(text) : text.includes(what));
  await until(async () => found(await screen(page)), JSON.stringify(String(what)));
}

/** Waits until the status line says something. */
export async function says(page, text) {
  await page.locator("#status").getByText(text).waitFor({ timeout: DEADLINE_MS });
}

export async function until(condition, what) {
  const end = Date.now() + DEADLINE_MS;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`waited ${DEADLINE_MS / 1000} s for ${what}`);
    await new Promise((resume) => setTimeout(resume, 20));
  }
}

/** The rows of the terminal that is shown, as text. */
export async function screen(page) {
  const rows = await page.locator(".pane:not([hidden]) .xterm-rows > div").allTextContents();
  return rows.map((row) => row.replaceAll("\u00a0", " ").trimEnd()).join("\n");
}

/** Keeps a picture of what is looked at, if anybody wants it. */
export async function picture(page, name) {
  if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png`, animations: "disabled" });
}
