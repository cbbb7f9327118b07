// Recordings as they are read: what is taken, what is refused and by which words, and where in time things are.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesOf, load } from "../load.mjs";

const { Cast, CastError, readCast } = await load("cast");
const { Timeline } = await load("timeline");

const HEAD = '{"version":3,"term":{"cols":80,"rows":24,"type":"xterm-256color"},"timestamp":1795522205,"title":"demo/main"}\n';

/** Reads a whole text at once. */
function read(text) {
  const cast = new Cast();
  cast.push(bytesOf(text));
  return cast.end();
}

/** All that happens. */
function moments(timeline) {
  return Array.from({ length: timeline.length }, (_, index) => timeline.what(index));
}

test("a recording is read whole", () => {
  const timeline = read(`${HEAD}[0.5,"o","a\\u001b[1m"]\n# a remark\n\n[1.25,"r","90x20"]\n[0.25,"i","typed"]\n[0.0,"m","mark"]\n[1.0,"o","b"]\n[2.5,"x","130"]\n`);
  assert.deepEqual(timeline.size, { cols: 80, rows: 24 });
  assert.deepEqual(moments(timeline), ["a\x1b[1m", { cols: 90, rows: 20 }, "b"]);
  assert.equal(timeline.exit, 130);
  assert.deepEqual([timeline.endS("whole"), timeline.endS("short")], [5.5, 5]);
  assert.deepEqual([0, 0.4, 0.5, 1.74, 1.75, 2.9, 3, 9].map((at) => timeline.count("whole", at)), [0, 0, 1, 1, 2, 2, 3, 3]);
});

test("it may come in any pieces, which may cut characters", () => {
  const text = `${HEAD}[0.5,"o","å→日本 😀"]\n[1,"o","\\ud83d\\ude00"]\n[1,"x","0"]\n`;
  const whole = moments(read(text));
  for (const size of [1, 2, 3, 7, 50]) {
    const [cast, bytes] = [new Cast(), bytesOf(text)];
    for (let from = 0; from < bytes.length; from += size) cast.push(bytes.subarray(from, from + size));
    assert.deepEqual(moments(cast.end()), whole, `pieces of ${size}`);
  }
  assert.deepEqual(whole, ["å→日本 😀", "😀"]);
});

test("what is just being written may end anywhere behind its head", () => {
  for (const cut of ["", "[", '[1.5,"o","be', '[1.5,"o","b"]']) {
    assert.deepEqual(moments(read(`${HEAD}[0.5,"o","a"]\n${cut}`)), ["a"], cut);
  }
});

test("what is no recording is refused with its line", () => {
  const after = (line) => `${HEAD}[0.5,"o","a"]\n# remark\n${line}\n[1,"o","b"]\n`;
  const cases = [
    ["", /^it is empty$/],
    [HEAD.trim(), /^line 1 is cut$/],
    ["<!doctype html>\n", /^line 1 is no JSON$/],
    ["[]\n", /^line 1 is no head/],
    ["null\n", /^line 1 is no head/],
    ['{"version":2,"width":80,"height":24}\n', /^line 1 says version 2 where 3 is read$/],
    ['{"term":{"cols":80,"rows":24}}\n', /^line 1 says version nothing/],
    ['{"version":3}\n', /^line 1 has a size/],
    ['{"version":3,"term":{"cols":0,"rows":24}}\n', /^line 1 has a size/],
    ['{"version":3,"term":{"cols":"80","rows":24}}\n', /^line 1 has a size/],
    ['{"version":3,"term":{"cols":2000,"rows":2000}}\n', /^line 1 has a size/],
    ['{"version":3,"term":{"cols":80.5,"rows":24}}\n', /^line 1 has a size/],
    [after('[1,"o","a"'), /^line 4 is no JSON$/],
    [after('{"time":1}'), /^line 4 is no event/],
    [after('[1,"o"]'), /^line 4 is no event/],
    [after('[1,"o","a","b"]'), /^line 4 is no event/],
    [after('[1,"o",{"toString":1}]'), /^line 4 is no event/],
    [after('[1,2,"a"]'), /^line 4 is no event/],
    [after('[-1,"o","a"]'), /^line 4 has a time that can’t be: -1$/],
    [after('[1e999,"o","a"]'), /^line 4 has a time that can’t be/],
    [after('["1","o","a"]'), /^line 4 has a time that can’t be: "1"$/],
    [after('[1,"r","90x"]'), /^line 4 has a size/],
    [after('[1,"r","0x20"]'), /^line 4 has a size/],
    [after('[1,"r","1000000000x1"]'), /^line 4 has a size/],
    [after('[1,"r","2000x2000"]'), /^line 4 has a size/],
    [after('[1,"x","gone"]'), /^line 4 has a status/],
    [after(`[1,"o","${"a".repeat(1024 * 1024)}"]`), /^line 4 is too long$/],
  ];
  for (const [text, message] of cases) {
    assert.throws(() => read(text), (error) => error instanceof CastError && message.test(error.message), `${text.slice(0, 200)}: ${message}`);
  }
});

test("a line without an end isn't kept for ever", () => {
  const cast = new Cast();
  cast.push(bytesOf(HEAD));
  assert.throws(() => {
    for (let n = 0; n < 100; n += 1) cast.push(bytesOf("x".repeat(64 * 1024)));
  }, { message: "line 2 is too long" });
});

test("a file is read as it comes, and told about", async () => {
  const told = [];
  const stream = new Blob([HEAD, '[0.5,"o","a"]\n', '[1,"x","0"]\n']).stream();
  const timeline = await readCast(stream, (bytes) => told.push(bytes));
  assert.deepEqual([moments(timeline), timeline.exit, told.at(-1)], [["a"], 0, HEAD.length + 26]);
  await assert.rejects(readCast(new Blob([HEAD, "nonsense\n"]).stream(), () => undefined), { message: "line 2 is no JSON" });
});

test("the page does other things while a large file is read", async () => {
  const line = `[0.02,"o",${JSON.stringify("some output\r\n".repeat(20))}]\n`;
  const stream = new Blob([HEAD, line.repeat(60_000)]).stream();
  let [turns, longestMs, lastMs] = [0, 0, performance.now()];
  const other = setInterval(() => {
    turns += 1;
    longestMs = Math.max(longestMs, performance.now() - lastMs);
    lastMs = performance.now();
  }, 1);
  const beganMs = performance.now();
  const timeline = await readCast(stream, () => undefined);
  const tookMs = performance.now() - beganMs;
  clearInterval(other);
  assert.equal(timeline.length, 60_000);
  // Of what it took, nothing else had to wait for more than a part.
  assert.ok(turns > 3 && longestMs < Math.max(100, tookMs / 2), `${turns} turns in ${tookMs} ms, the longest ${longestMs} ms`);
});

test("what is printed at once is one moment, and a new beginning is its own", () => {
  const timeline = new Timeline({ cols: 80, rows: 24 });
  for (const [intervalS, text] of [[1, "a"], [0.004, "b"], [0.005, "c"], [0.005, "d"], [0, "\x18\x1bc\x1b[3Je"], [0, "f"]]) {
    timeline.pass(intervalS);
    timeline.print(text);
  }
  timeline.resize({ cols: 90, rows: 20 });
  timeline.print("g");
  timeline.print("\x18\x1bc\x1b[3J");
  timeline.print("x".repeat(64 * 1024));
  assert.deepEqual(moments(timeline).map((what) => (typeof what === "string" ? what.slice(0, 9) : what)), [
    "abc", "d", "\x18\x1bc\x1b[3Jef", { cols: 90, rows: 20 }, "g", "\x18\x1bc\x1b[3J", "xxxxxxxxx",
  ]);
  const fresh = [0, 1, 2, 3, 5, 6, 7].map((index) => timeline.freshBefore(index));
  assert.deepEqual(fresh.map(({ index }) => index), [0, 0, 0, 2, 2, 5, 5]);
  assert.deepEqual([fresh[3].size.cols, fresh[6].size.cols], [80, 90]);
});

test("a place is the same one however time is counted", () => {
  const timeline = new Timeline({ cols: 80, rows: 24 });
  for (const [intervalS, text] of [[1, "a"], [100, "b"], [0.5, "c"], [10, "d"]]) {
    timeline.pass(intervalS);
    timeline.print(text);
  }
  timeline.pass(50);
  assert.deepEqual([timeline.endS("whole"), timeline.endS("short")], [161.5, 7.5]);
  for (const [whole, short] of [[0, 0], [0.5, 0.5], [1, 1], [51, 2], [101, 3], [101.25, 3.25], [111.5, 5.5], [136.5, 6.5], [161.5, 7.5]]) {
    assert.equal(timeline.convert(whole, "whole", "short"), short, `${whole}`);
    assert.equal(timeline.convert(short, "short", "whole"), whole, `${short}`);
    assert.equal(timeline.count("whole", whole), timeline.count("short", short), `${whole}`);
  }
});
