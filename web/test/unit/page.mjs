// The page's small pure parts, each checked against what is expected of it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "../load.mjs";

const { bytesText, clockText } = await load("amounts");
const { isGlance } = await load("answers");
const { backoffMs, BACKOFF_MS_MAX, BACKOFF_MS_MIN } = await load("backoff");
const { textOf } = await load("clipboard");
const { companyOf, peopleOf } = await load("company");
const { addressFor, placeOf } = await load("place");
const { beganAt, lengthS } = await load("recordings");
const { sayingOf } = await load("saying");
const { read } = await load("settings");
const { actionOf } = await load("shortcuts");
const { nameBeside } = await load("names");
const { THEMES, themeFor } = await load("themes");
const { controlled } = await load("touch");

test("an address names a place", () => {
  const cases = [
    ["/", "demo", "main", false],
    ["/?project=a-b", "a-b", "main", false],
    ["/p/x1", "x1", "main", false],
    ["/p/x1/?session=two&view=1", "x1", "two", true],
    ["/p/x1?project=other&view=0", "x1", "main", false],
    ["/?project=&session=", "demo", "main", false],
  ];
  for (const [address, project, session, view] of cases) {
    assert.deepEqual(placeOf(new URL(address, "http://host")), { project, session, view }, address);
  }
});

test("what is no project id names no place", () => {
  for (const address of ["/?project=A", "/?project=-a", "/?project=a-", "/?project=a%2Fb", "/?project=..", `/p/${"a".repeat(41)}`, "/p/a%2e", "/?session=.."]) {
    assert.equal(placeOf(new URL(address, "http://host")), undefined, address);
  }
});

test("the address follows the session and keeps the rest", () => {
  assert.equal(addressFor(new URL("http://host/?project=a&session=two"), "main"), "/?project=a");
  assert.equal(addressFor(new URL("http://host/p/a?view=1"), "two"), "/p/a?view=1&session=two");
});

test("waits double up to a bound, and jitter only shortens them", () => {
  assert.equal(backoffMs(0, 0), BACKOFF_MS_MIN);
  assert.equal(backoffMs(2, 0), 4 * BACKOFF_MS_MIN);
  assert.equal(backoffMs(1000, 0), BACKOFF_MS_MAX);
  assert.equal(backoffMs(1000, 1), BACKOFF_MS_MAX / 2);
});

test("looking is told from typing", () => {
  for (const glance of ["\x1b[I", "\x1b[O", "\x1b[<35;3;4M", "\x1b[<51;3;4M"]) assert.equal(isGlance(glance), true, JSON.stringify(glance));
  for (const key of ["a", "\x1b[A", "\x1bOP", "\x1b[<0;3;4M", "\x1b[<32;3;4M", "\x1b[<35;3;4m", "\x1b[<64;3;4M"]) assert.equal(isGlance(key), false, JSON.stringify(key));
});

test("a program sets the clipboard, and doesn't read it", () => {
  assert.equal(textOf(`c;${Buffer.from("å→日").toString("base64")}`), "å→日");
  assert.equal(textOf("c;?"), undefined);
  assert.equal(textOf("c;***"), undefined);
  assert.equal(textOf(`c;${"A".repeat(300_000)}`), undefined);
});

test("keys of the page are none of the program's", () => {
  const key = (code, held = "", printed = "") => ({
    code, key: printed, ctrlKey: held.includes("c"), shiftKey: held.includes("s"), altKey: held.includes("a"), metaKey: held.includes("m"),
  });
  const cases = [
    [key("KeyF", "cs", "F"), { kind: "search" }],
    [key("KeyF", "c", "f"), undefined],
    [key("KeyC", "c", "c"), undefined],
    [key("KeyC", "cs", "C"), { kind: "copy" }],
    [key("Minus", "c", "-"), { kind: "zoom", steps: -1 }],
    [key("Minus", "cs", "_"), undefined],
    [key("Equal", "cs", "+"), { kind: "zoom", steps: 1 }],
    [key("Digit0", "c", "0"), { kind: "zoom", steps: 0 }],
    [key("Digit3", "a", "3"), { kind: "tab", index: 2 }],
    [key("Digit3", "as", "#"), undefined],
    [key("Digit3", "ca", "³"), undefined],
    [key("PageUp", "a"), { kind: "previous" }],
    [key("PageUp"), undefined],
    [key("Enter", "", "Enter"), undefined],
    [key("Enter", "cs", "Enter"), { kind: "add" }],
    [key("KeyF", "m", "f"), undefined],
  ];
  for (const [pressed, action] of cases) assert.deepEqual(actionOf(pressed, 2, false), action, JSON.stringify(pressed));
  assert.equal(actionOf(key("Digit3", "a", "3"), 1, false), undefined);
  assert.deepEqual(actionOf(key("KeyF", "m", "f"), 1, true), { kind: "search" });
});

test("held Ctrl makes control characters", () => {
  for (const [given, made] of [["c", "\x03"], ["C", "\x03"], ["[", "\x1b"], [" ", "\x00"], ["?", "\x7f"], ["é", "é"], ["ab", "ab"]]) {
    assert.equal(controlled(given), made, given);
  }
});

test("settings that make no sense are as if never set", () => {
  const usual = read(null);
  assert.deepEqual(read("{"), usual);
  assert.deepEqual(read('{"theme":"toString","fontSize":"big","copyOnSelect":1}'), usual);
  assert.deepEqual(read('{"theme":"light","fontSize":1000,"copyOnSelect":true}'), { ...usual, theme: "light", fontSize: 32, copyOnSelect: true });
});

test("the system's theme is followed unless another is chosen", () => {
  assert.equal(themeFor("system", true), THEMES.light);
  assert.equal(themeFor("system", false), THEMES.dark);
  assert.equal(themeFor("contrast", true), THEMES.contrast);
});

test("text is told from its ground in every theme", () => {
  for (const { name, terminal, page } of Object.values(THEMES)) {
    for (const colour of [terminal.foreground, terminal.cursor, page.quiet]) {
      assert.ok(contrast(colour, terminal.background) >= 3.9, `${name}: ${colour} on ${terminal.background}`);
    }
    assert.ok(contrast(page.quiet, page.raised) >= 3.9, `${name}: ${page.quiet} on ${page.raised}`);
  }
});

test("a recording's name says when it began", () => {
  const cases = [
    ["main-20261124T121005Z.cast", "2026-11-24T12:10:05.000Z"],
    ["a-b_c-20261124T121005Z-99.cast", "2026-11-24T12:10:05.000Z"],
    ["a-20261124T120000Z-20261124T120001Z.cast", "2026-11-24T12:00:01.000Z"],
    ["main-20269924T121005Z.cast", undefined],
    ["main.cast", undefined],
  ];
  for (const [name, began] of cases) assert.equal(beganAt(name)?.toISOString(), began, name);
  const written = Date.UTC(2026, 10, 24, 12, 11) / 1000;
  assert.equal(lengthS({ name: "main-20261124T121005Z.cast", written }), 55);
  assert.equal(lengthS({ name: "main-20261124T121105Z.cast", written }), 0);
  assert.equal(lengthS({ name: "main.cast", written }), 0);
});

test("amounts are told as people read them", () => {
  assert.deepEqual([0, 59.9, 61, 3599, 3600, 36_061].map(clockText), ["0:00", "0:59", "1:01", "59:59", "1:00:00", "10:01:01"]);
  assert.deepEqual([0, 1023, 10 * 1024, 64 * 1024 * 1024, 2 ** 31, 2 ** 50].map(bytesText), ["0 B", "1,023 B", "10 KiB", "64 MiB", "2 GiB", `${(2 ** 20).toLocaleString()} GiB`].map((text) => text.replace("1,023", (1023).toLocaleString())));
});

test("a new session has a name of its own", () => {
  assert.equal(nameBeside([]), "main");
  assert.equal(nameBeside(["main"]), "shell-2");
  assert.equal(nameBeside(["main", "shell-2", "shell-4"]), "shell-3");
});

test("the status says what is wrong, and nothing while nothing is", () => {
  const said = (link, hold, waiting = 0, rest = { kind: "awake" }) => sayingOf(link, hold, waiting, rest).text;
  const [online, there, frozen] = [{ kind: "online" }, { kind: "there" }, { kind: "frozen" }];
  const ended = { kind: "ended", reason: "exited with status 3" };
  assert.equal(said(online, there), undefined);
  assert.match(said({ kind: "waiting", reason: "connection lost", untilMs: 9 }, { kind: "coming" }, 3), /lost.*kept.*reconnecting/);
  assert.match(said(online, ended), /status 3/);
  assert.match(said(online, there, 0, frozen), /^frozen/);
  assert.equal(said({ kind: "halted", reason: "gone" }, there, 0, frozen), "gone");
  assert.equal(said(online, ended, 0, { kind: "stopped", idleS: 14_400 }), "the project was stopped: nothing happened in it for 4 h");
});

test("people are told apart", () => {
  const clients = [{ id: 1, role: "writer", cols: 80, rows: 24 }, { id: 2, role: "viewer" }];
  assert.equal(companyOf({ you: 1, leader: 1, clients }, false), "2 here · you lead");
  assert.equal(companyOf(undefined, false), "");
  assert.deepEqual(peopleOf({ you: 1, leader: 1, clients }), ["Client 1 80 × 24 (you, leads)", "Client 2 (views)"]);
});

// The ratio of WCAG 2.
function contrast(one, other) {
  const light = (colour) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
}
