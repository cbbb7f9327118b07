// Connections that are lost, silent or cut in the middle of typing: nothing is shown twice, and nothing is typed twice or not at all.

import assert from "node:assert/strict";

import { DEADLINE_MS, enter, leave, picture, run, says, screen, shows, until } from "../browser.mjs";

export async function losses(browser) {
  await browser.check("a lost connection is said, keeps what is typed, and comes back", async () => {
    const road = new Road();
    const page = await browser.open("lost", { prepare: (context) => road.lead(context) });
    await run(page, "kept=$((40 + 2)); echo keeping $kept", "keeping 42");
    road.close();
    await says(page, "reconnecting");
    await page.keyboard.type("echo typed away with $kept");
    await says(page, "what you type is kept");
    await picture(page, "reconnecting");
    road.open();
    await page.keyboard.press("Enter");
    await shows(page, /^typed away with 42$/m);
    await page.locator("#status").waitFor({ state: "hidden", timeout: DEADLINE_MS });
    await leave(page);
  });

  await browser.check("typing over connections that swallow and break arrives exactly once", async () => {
    const road = new Road();
    const page = await browser.open("cut", { prepare: (context) => road.lead(context) });
    await enter(page, "stty -echo; cat > typed.txt; stty echo; echo written $((1 + 1))");
    let typed = "";
    for (let n = 0; n < 60; n += 1) {
      const word = `${n}-word `;
      await page.keyboard.type(word);
      typed += word;
      // What is swallowed there was never typed; what is swallowed back was, and the page doesn't know.
      if (n % 10 === 3) road.swallow({ there: true });
      if (n % 10 === 8) road.swallow({ back: true });
      if (n % 5 === 4) road.cut();
      if (n % 5 === 1 && n > 1) await back(page, road, 1 + Math.floor(n / 5));
    }
    await back(page, road, 13);
    await page.keyboard.press("Enter");
    await page.keyboard.press("Control+d");
    await shows(page, "written 2");
    await run(page, "echo $(cksum < typed.txt | cut -d ' ' -f 2)-bytes", `${typed.length + 1}-bytes`);
    await run(page, "clear; cat typed.txt", "59-word");
    assert.equal((await screen(page)).replaceAll("\n", " ").replace(/ +/g, " ").includes(typed.trim().slice(0, 60)), true);
    await run(page, "rm typed.txt");
    await leave(page);
  });

  await browser.check("output over a cut connection is shown once and in order", async () => {
    const road = new Road();
    const page = await browser.open("count", { prepare: (context) => road.lead(context) });
    await enter(page, "for n in $(seq 1 60); do echo out-$n; sleep 0.05; done; echo end $((1 + 1))");
    for (let n = 0; n < 4; n += 1) {
      await shows(page, `out-${n * 10 + 5}`);
      road.cut();
    }
    await shows(page, "end 2");
    const shown = (await screen(page)).match(/^out-\d+$/gm).map((line) => Number(line.slice(4)));
    assert.deepEqual(shown, Array.from(shown, (_, at) => 61 - shown.length + at));
    await leave(page);
  });

  await browser.check("a network that goes away without a word is noticed", async () => {
    const page = await browser.open("silent");
    await run(page, "echo here $((1 + 1))", "here 2");
    await page.context().setOffline(true);
    await says(page, "reconnecting");
    await page.keyboard.type("echo back $((1 + 1))\n");
    await page.context().setOffline(false);
    await shows(page, /^back 2$/m);
    await leave(page);
  });

  await browser.check("a session that ends is said, and Enter starts anew", async () => {
    const page = await browser.open("short");
    await run(page, "kept=1; echo begun $((1 + 1))", "begun 2");
    await enter(page, "exit 3");
    await says(page, "exited with status 3");
    await picture(page, "ended");
    await page.keyboard.press("Enter");
    await page.locator("#status").waitFor({ state: "hidden", timeout: DEADLINE_MS });
    await run(page, "echo anew ${kept:-2}", "anew 2");
    await leave(page);
  });

  await browser.check("a session that ended while away isn't started unasked", async () => {
    const road = new Road();
    const page = await browser.open("gone", { prepare: (context) => road.lead(context) });
    // Long enough for another page to be there by then.
    await enter(page, "sleep 8; exit 4");
    await shows(page, "exit 4");
    road.close();
    const other = await browser.open("gone");
    await says(other, "exited with status 4");
    await other.context().close();
    road.open();
    await says(page, "ended while away");
    await page.keyboard.press("Enter");
    await run(page, "echo anew $((1 + 1))", "anew 2");
    await leave(page);
  });
}

// Waits for a connection, and not for long: the browser says that there is a network.
async function back(page, road, count) {
  await until(async () => {
    await page.evaluate(() => dispatchEvent(new Event("online")));
    return road.count >= count;
  }, `connection ${count}`);
}

/** The way of a page's sockets to the server, which a test closes, cuts, and makes swallow. */
class Road {
  /** How many connections were made. */
  count = 0;
  #closed = false;
  #socket;
  #swallows = {};

  lead(context) {
    return context.routeWebSocket(/\/ws\/terminal\//, (socket) => {
      if (this.#closed) return void socket.close({ code: 1013 });
      const server = socket.connectToServer();
      const swallows = (this.#swallows = {});
      socket.onMessage((message) => swallows.there || server.send(message));
      server.onMessage((message) => swallows.back || socket.send(message));
      this.#socket = socket;
      this.count += 1;
    });
  }

  /** From now on messages in a direction are lost. */
  swallow(which) {
    Object.assign(this.#swallows, which);
  }

  /** The present connection ends. */
  cut() {
    this.swallow({ there: true, back: true });
    this.#socket.close({ code: 1012 }).catch(() => undefined);
  }

  /** It ends, and there is no other. */
  close() {
    this.#closed = true;
    this.cut();
  }

  open() {
    this.#closed = false;
  }
}
