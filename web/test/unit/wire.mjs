// The frames, byte by byte as docs/protocol.md has them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesOf, load } from "../load.mjs";

const { ackFrame, answerFrame, inputFrame, readFrame } = await load("wire");

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const message = (text) => Uint8Array.from(Buffer.from(text, "hex")).buffer;

test("frames to the server", () => {
  assert.equal(hex(inputFrame(0x1234, 1, bytesOf("ls"))), "013412" + "0100000000000000" + "6c73");
  assert.equal(hex(answerFrame(1, bytesOf("\x1b"))), "020100" + "1b");
  assert.equal(hex(ackFrame(1, 2 ** 40)), "030100" + "0000000000010000");
});

test("frames from the server", () => {
  const output = readFrame(message("813412" + "0700000000000000" + "78"));
  assert.deepEqual([output.kind, output.channel, output.offset, hex(output.bytes)], ["output", 0x1234, 7, "78"]);
  const picture = readFrame(message("820100"));
  assert.deepEqual([picture.kind, picture.bytes.length], ["picture", 0]);
  assert.deepEqual(readFrame(message("830100" + "0000000000010000")), { kind: "typed", channel: 1, seq: 2 ** 40 });
  assert.equal(readFrame(message("8f0100")), undefined);
});
