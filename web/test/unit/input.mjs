// Input: whatever is lost on the way, everything is typed once and in order.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesOf, load } from "../load.mjs";

const { Input } = await load("input");

const take = (input) => [...input.take()].map(({ seq, bytes }) => [seq, bytes.length]);

test("what is typed is sent once, and kept until it has arrived", () => {
  const input = new Input();
  input.push(bytesOf("ls"));
  input.push(bytesOf("\r"));
  assert.deepEqual(take(input), [[0, 2], [2, 1]]);
  assert.deepEqual(take(input), []);
  input.arrived(1);
  assert.equal(input.waiting, 2);
  input.arrived(3);
  assert.equal(input.waiting, 0);
});

test("a large paste goes in pieces, and only so much at a time", () => {
  const input = new Input();
  input.push(new Uint8Array(100_000));
  assert.deepEqual(take(input), [[0, 16384], [16384, 16384]]);
  input.arrived(16384);
  assert.deepEqual(take(input), [[32768, 16384]]);
});

test("what is too much is not taken at all", () => {
  const input = new Input();
  assert.equal(input.push(new Uint8Array(1024 * 1024)), true);
  assert.equal(input.push(new Uint8Array(1)), false);
  assert.equal(input.waiting, 1024 * 1024);
});

test("after a loss what hasn't arrived goes again", () => {
  const input = new Input();
  input.push(bytesOf("hello"));
  take(input);
  input.push(bytesOf("x"));
  assert.equal(input.again(2), true);
  assert.deepEqual(take(input), [[2, 3], [5, 1]]);
});

test("a server that counts otherwise gets only what was never sent", () => {
  const input = new Input();
  input.push(bytesOf("sent"));
  take(input);
  input.arrived(2);
  input.push(bytesOf("new"));
  assert.equal(input.again(0), false);
  assert.deepEqual(take(input), [[0, 3]]);
});

test("an early arrival is believed only as far as was sent", () => {
  const input = new Input();
  input.push(bytesOf("abc"));
  input.arrived(2);
  assert.equal(input.waiting, 3);
});

test("any losses, and the program gets what was typed", () => {
  let state = 7;
  const random = (below) => (state = (state * 48271) % 2147483647) % below;
  const input = new Input();
  const [typed, got] = [[], []];
  for (let n = 0; n < 5000; n += 1) {
    if (random(3) > 0) {
      const bytes = Uint8Array.from({ length: 1 + random(9) }, () => random(256));
      input.push(bytes);
      typed.push(...bytes);
    }
    // Of what is on its way the program gets all, and the page learns it or not; or a part, for the connection is lost.
    const lost = random(4) === 0;
    for (const { seq, bytes } of input.take()) {
      if (lost && random(2) === 0) break;
      assert.ok(seq <= got.length, "no gap");
      got.push(...bytes.subarray(got.length - seq));
    }
    if (lost) assert.equal(input.again(got.length), true);
    else if (random(2) === 0) input.arrived(got.length);
  }
  input.again(got.length);
  while (input.waiting > 0) {
    for (const { seq, bytes } of input.take()) got.push(...bytes.subarray(got.length - seq));
    input.arrived(got.length);
  }
  assert.deepEqual(got, typed);
});
