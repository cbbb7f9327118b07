// The hold on a session, over links that come and go.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesOf, load } from "../load.mjs";

const { Hold } = await load("hold");
const LIFE = "00000000000000aa";

test("a hold attaches, types, and comes back where it was", () => {
  const { hold, asked, sent, states } = held();
  hold.opened(["main"]);
  const { client, ...attach } = asked[0];
  assert.match(client, /^[0-9a-f]{16}$/);
  assert.deepEqual(attach, { type: "attach", channel: 1, session: "main", role: "writer", cols: 80, rows: 24 });
  attached(hold);
  hold.type(bytesOf("ls"));
  assert.deepEqual(sent.at(-1), "1:1:0:ls");
  output(hold, 0, "out");
  hold.closed(false);
  hold.type(bytesOf("\r"));
  hold.opened(["main"]);
  assert.deepEqual(asked[1].resume, { life: LIFE, offset: 3 });
  assert.equal(asked[1].client, client);
  attached(hold, { typed: 1 });
  assert.deepEqual(sent.slice(-2), ["1:2:1:s", "1:2:2:\r"]);
  assert.deepEqual(states, ["there", "coming", "there"]);
});

test("what was typed before the first attach is typed then", () => {
  const { hold, sent } = held();
  hold.type(bytesOf("early"));
  hold.opened([]);
  attached(hold);
  assert.deepEqual(sent, ["1:1:0:early"]);
});

test("what was typed for a shell that is gone isn't typed into the next", () => {
  const { hold, sent, doubts } = held();
  hold.opened(["main"]);
  attached(hold);
  hold.closed(false);
  hold.type(bytesOf("rm x\r"));
  hold.opened(["main"]);
  attached(hold, { life: "00000000000000bb" });
  assert.deepEqual(sent, []);
  assert.equal(doubts(), 1);
});

test("a session that ended meanwhile isn't started unasked", () => {
  const { hold, asked, states } = held();
  hold.opened(["main"]);
  attached(hold);
  hold.closed(false);
  hold.opened([]);
  assert.equal(asked.length, 1);
  assert.equal(states.at(-1), "ended");
  assert.equal(hold.again(), true);
  assert.equal(asked.length, 2);
  assert.equal(asked[1].resume, undefined);
});

test("a gap in the output is made good by a snapshot", () => {
  const { hold, asked } = held();
  hold.opened(["main"]);
  attached(hold);
  output(hold, 0, "abc");
  output(hold, 4, "e");
  assert.deepEqual(asked.slice(1).map(({ type, channel, resume }) => [type, channel, resume]), [["detach", 1, undefined], ["attach", 2, undefined]]);
});

test("a broken rule makes the client begin from nothing", () => {
  const { hold, asked, doubts } = held();
  hold.opened(["main"]);
  attached(hold);
  hold.type(bytesOf("x"));
  hold.closed(true);
  hold.opened(["main"]);
  assert.notEqual(asked[1].client, asked[0].client);
  assert.equal(asked[1].resume, undefined);
  assert.equal(doubts(), 1);
});

test("only the leader's terminal answers", () => {
  const { hold, sent } = held();
  hold.opened(["main"]);
  attached(hold);
  hold.answer(bytesOf("no"));
  hold.told({ type: "clients", you: 3, leader: 4, clients: [] });
  hold.answer(bytesOf("no"));
  hold.told({ type: "clients", you: 3, leader: 3, clients: [] });
  hold.answer(bytesOf("yes"));
  assert.deepEqual(sent, ["2:1:yes"]);
});

test("a viewer types nothing", () => {
  const { hold, asked, sent } = held("viewer");
  hold.opened(["main"]);
  attached(hold);
  assert.equal(asked[0].role, "viewer");
  assert.equal(hold.type(bytesOf("x")), false);
  assert.deepEqual(sent, []);
});

test("an end frees the channel, and the next attach is the person's", () => {
  const { hold, freed, asked, states } = held();
  hold.opened(["main"]);
  attached(hold);
  hold.told({ type: "exited", code: 0 });
  assert.deepEqual([freed, states.at(-1), hold.type(bytesOf("x"))], [[1], "ended", false]);
  hold.closed(false);
  hold.opened([]);
  assert.equal(asked.length, 1);
  hold.again();
  assert.equal(asked.length, 2);
});

test("a size is told when it changes", () => {
  const { hold, asked } = held();
  hold.resize({ cols: 100, rows: 30 });
  hold.opened([]);
  attached(hold);
  hold.resize({ cols: 100, rows: 30 });
  hold.resize({ cols: 100, rows: 31 });
  assert.deepEqual([asked[0].cols, asked[0].rows], [100, 30]);
  assert.deepEqual(asked.slice(1), [{ type: "resize", channel: 1, cols: 100, rows: 31 }]);
});

// A hold over a link that notes what is said, and a terminal that parses at once.
function held(role = "writer") {
  const [asked, sent, freed, states] = [[], [], [], []];
  let [channel, doubts] = [0, 0];
  const link = {
    join() {},
    leave() {},
    channel: () => (channel += 1),
    free: (channel) => freed.push(channel),
    ask: (ask) => asked.push(ask),
    send(frame) {
      const view = new DataView(frame.buffer);
      const kind = view.getUint8(0);
      if (kind === 3) return;
      const seq = kind === 1 ? `${view.getBigUint64(3, true)}:` : "";
      sent.push(`${kind}:${view.getUint16(1, true)}:${seq}${new TextDecoder().decode(frame.subarray(kind === 1 ? 11 : 3))}`);
    },
  };
  const terminal = { write: (_bytes, parsed) => parsed(), resize() {} };
  const nothing = () => undefined;
  const events = { seen: () => true, company: nothing, title: nothing, cwd: nothing, bell: nothing, output: nothing };
  const hold = new Hold("main", role, { cols: 80, rows: 24 }, link, terminal, { ...events, state: ({ kind }) => states.push(kind), doubt: () => (doubts += 1) });
  hold.open();
  return { hold, asked, sent, freed, states, doubts: () => doubts };
}

function attached(hold, more = {}) {
  hold.told({ type: "attached", life: LIFE, typed: 0, started: false, cols: 80, rows: 24, ...more });
}

function output(hold, offset, text) {
  hold.frame({ kind: "output", channel: 1, offset, bytes: bytesOf(text) });
}
