// A recording being played into xterm.js (without a page): wherever one goes, the terminal is as if all had been played up to there.

import assert from "node:assert/strict";
import { test } from "node:test";
import headless from "@xterm/headless";

import { load } from "../load.mjs";

const { Playback } = await load("playback");
const { Timeline } = await load("timeline");

const SIZE = { cols: 40, rows: 10 };
const FRESH = "\x18\x1bc\x1b[3J";

function timelineOf(events) {
  const timeline = new Timeline(SIZE);
  for (const [intervalS, what] of events) {
    timeline.pass(intervalS);
    if (typeof what === "string") timeline.print(what);
    else timeline.resize(what);
  }
  return timeline;
}

function terminal() {
  return new headless.Terminal({ ...SIZE, scrollback: 1000, allowProposedApi: true, logLevel: "off" });
}

/** All that is seen of a terminal. */
function seen(terminal) {
  const buffer = terminal.buffer.active;
  const lines = Array.from({ length: buffer.length }, (_, y) => {
    const line = buffer.getLine(y);
    const cells = Array.from({ length: terminal.cols }, (_, x) => line.getCell(x));
    return cells.map((cell) => `${cell.getChars() || " "}${cell.getFgColor()}${cell.isBold()}`).join();
  });
  return JSON.stringify([terminal.cols, terminal.rows, terminal.modes, buffer.type, buffer.cursorX, buffer.cursorY, lines]);
}

/** Waits until the terminal shows where the playback is. */
async function caughtUp(playback) {
  while (playback.behind) await new Promise((resume) => setTimeout(resume));
}

/** A terminal that was fed from the beginning, with nothing in between. */
async function straight(timeline, count) {
  const fed = terminal();
  for (let index = 0; index < count; index += 1) {
    const what = timeline.what(index);
    if (typeof what === "string") fed.write(what);
    else fed.write("", () => fed.resize(what.cols, what.rows));
  }
  await new Promise((parsed) => fed.write("", parsed));
  return fed;
}

/** A terminal that notes what is written. */
class Noted {
  chars = 0;
  unparsed = [];
  write(text, parsed) {
    this.chars += text.length;
    this.unparsed.push(parsed);
  }
  resize() {}
  parse(count = Infinity) {
    for (let n = 0; n < count && this.unparsed.length > 0; n += 1) this.unparsed.shift()();
  }
}

test("wherever one goes, the screen is that of who saw all before", async () => {
  let state = 4711;
  const below = (end) => (state = (state * 48271) % 2147483647) % end;
  const pieces = [
    () => `line ${below(1000)}\r\n`, () => `\x1b[${1 + below(9)};${1 + below(30)}Hat`, () => `\x1b[3${below(8)}m`, () => "\x1b[1m", () => "\x1b[m",
    () => "\x1b[2;5r", () => "\x1b[r", () => "\x1b[?1049h", () => "\x1b[?1049l", () => "\x1b7", () => "\x1b8", () => "\x1b(0", () => "\x1b(B",
    () => "\x1b[?7l", () => "\x1b[4h", () => "\x1b[4l", () => "\x1b[3g", () => "\x1b]2;ti", () => "tle\x07", () => "\x1b[3", () => "日本",
    () => ({ cols: 20 + below(40), rows: 5 + below(10) }), () => `${FRESH}snapshot ${below(1000)}\r\n`, () => "x".repeat(below(90)),
  ];
  const timeline = timelineOf(Array.from({ length: 600 }, () => [below(400) / 100, pieces[below(pieces.length)]()]));
  const shown = terminal();
  const playback = new Playback(timeline, shown);
  for (let turn = 0; turn < 60; turn += 1) {
    playback.seek((below(1000) / 1000) * playback.endS);
    // Now and then a newer wish comes before the older one is fulfilled.
    if (below(3) === 0) playback.seek((below(1000) / 1000) * playback.endS);
    await caughtUp(playback);
    assert.equal(seen(shown), seen(await straight(timeline, timeline.count("short", playback.atS))), `at ${playback.atS} s`);
  }
});

test("time passes at the speed that is set, idle time aside, and ends", () => {
  const noted = new Noted();
  const playback = new Playback(timelineOf([[1, "a"], [100, "b"], [1, "c"]]), noted);
  noted.parse();
  let nowMs = 5000;
  const pass = (ms) => {
    for (let passed = 0; passed < ms; passed += 50) playback.frame((nowMs += 50));
    noted.parse();
    return Math.round(playback.atS * 1000) / 1000;
  };
  playback.toggle();
  playback.frame(nowMs);
  assert.equal(playback.atS, 0);
  playback.toggle();
  assert.equal(pass(1000), 0);
  playback.toggle();
  assert.equal(pass(1000), 1);
  playback.speed = 2;
  assert.equal(pass(500), 2);
  playback.toggle();
  assert.equal(pass(1000), 2);
  playback.count("whole");
  assert.deepEqual([Math.round(playback.atS), playback.endS], [51, 102]);
  playback.count("short");
  playback.speed = 8;
  playback.toggle();
  assert.equal(pass(500), 4);
  assert.deepEqual([playback.playing, playback.over], [false, true]);
  playback.toggle();
  assert.deepEqual([playback.playing, playback.atS], [true, 0]);
  playback.frame((nowMs += 3_600_000));
  assert.ok(playback.atS < 3, "who comes back finds it where it was left");
});

test("what the terminal hasn't parsed is bounded, and waited for", () => {
  const noted = new Noted();
  const playback = new Playback(timelineOf(Array.from({ length: 500 }, () => [0.02, "x".repeat(10_000)])), noted);
  noted.parse();
  const before = noted.chars;
  playback.seek(5);
  assert.ok(playback.behind && noted.chars - before < 400_000, `${noted.chars - before} characters at once`);
  playback.toggle();
  playback.frame(1000);
  playback.frame(1100);
  assert.equal(playback.atS, 5);
  noted.parse();
  assert.equal(noted.chars - before, 250 * 10_000);
  assert.ok(!playback.behind);
  playback.frame(1200);
  assert.ok(playback.atS > 5);
});

test("one goes back to the last new beginning, not to the first", () => {
  const noted = new Noted();
  const long = "x".repeat(50_000);
  const timeline = timelineOf([[1, long], [1, long], [1, `${FRESH}snapshot`], [1, "a"], [1, "b"]]);
  const playback = new Playback(timeline, noted);
  const fed = (atS) => {
    noted.parse();
    const before = noted.chars;
    playback.seek(atS);
    noted.parse();
    return noted.chars - before;
  };
  assert.ok(fed(5) < 200, "forth it is skipped to as well");
  assert.ok(fed(4) < 200);
  assert.ok(fed(2.5) > 100_000);
  assert.ok(fed(9) < 200);
});
