// Output: in order, acknowledged when parsed, and never a snapshot's questions answered.

import assert from "node:assert/strict";
import { test } from "node:test";

import { clock } from "../clock.mjs";
import { bytesOf, load } from "../load.mjs";

const { Output } = await load("output");

test("output is acknowledged when it is parsed: at once if it is much, else when all is quiet", (t) => {
  const pass = clock(t);
  const { output, parse, acks } = fed();
  output.begin({ cols: 80, rows: 24 });
  parse();
  assert.equal(output.write(0, new Uint8Array(20_000)), true);
  assert.deepEqual(acks, []);
  parse();
  assert.deepEqual(acks, [20_000]);
  output.write(20_000, new Uint8Array(5));
  output.write(20_005, new Uint8Array(5));
  parse();
  assert.deepEqual(acks, [20_000]);
  pass(100);
  assert.deepEqual(acks, [20_000, 20_010]);
});

test("output that isn't what comes next is refused", () => {
  const { output } = fed();
  output.begin({ cols: 80, rows: 24 });
  assert.equal(output.write(1, new Uint8Array(1)), false);
  assert.equal(output.offset, 0);
  output.forget();
  assert.equal(output.offset, undefined);
});

test("a snapshot resets, sizes and paints in order, and output goes on behind it", () => {
  const { output, parse, done, acks } = fed();
  output.begin({ cols: 80, rows: 24 });
  parse();
  done.length = 0;
  output.write(0, bytesOf("old"));
  output.reset({ cols: 100, rows: 30 });
  assert.equal(output.offset, undefined);
  output.picture(bytesOf("picture"));
  output.painted(5000);
  output.write(5000, bytesOf("new"));
  output.resized({ cols: 90, rows: 20 });
  assert.equal(output.painting, false);
  parse();
  assert.deepEqual(done, ["old false", "\x1bc false", "100x30", "picture true", " true", "new false", " false", "90x20"]);
  assert.deepEqual(acks, [5000]);
  assert.equal(output.offset, 5003);
});

test("what was written before a snapshot acknowledges nothing after it", () => {
  const { output, parse, acks } = fed();
  output.begin({ cols: 80, rows: 24 });
  output.write(0, new Uint8Array(20_000));
  output.reset({ cols: 80, rows: 24 });
  output.painted(90_000);
  parse();
  assert.deepEqual(acks, [90_000]);
});

test("a page that nobody looks at paces no program, and holds only so much", () => {
  const { output, acks, overruns, look } = fed();
  output.begin({ cols: 80, rows: 24 });
  look(false);
  let at = 0;
  while (overruns() === 0 && at < 64 * 1024 * 1024) {
    output.write(at, new Uint8Array(32 * 1024));
    at += 32 * 1024;
  }
  assert.ok(at >= 4 * 1024 * 1024 && at < 5 * 1024 * 1024, `${at}`);
  assert.equal(acks.at(-1), at - 32 * 1024);
});

// A way of output into a terminal that parses when told to, and notes what it does and whether that counted as a picture.
function fed() {
  const [queue, done, acks] = [[], [], []];
  let [seen, overran] = [true, 0];
  const terminal = {
    write: (bytes, parsed) => queue.push([bytes, parsed]),
    resize: (cols, rows) => done.push(`${cols}x${rows}`),
  };
  const output = new Output(terminal, { ack: (offset) => acks.push(offset), seen: () => seen, overrun: () => (overran += 1) });
  const parse = () => {
    for (const [bytes, parsed] of queue.splice(0)) {
      if (bytes.length < 100) done.push(`${new TextDecoder().decode(bytes)} ${output.painting}`);
      parsed();
    }
  };
  return { output, parse, done, acks, overruns: () => overran, look: (does) => (seen = does) };
}
