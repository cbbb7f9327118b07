// The hold on a session, over links that come and go.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesOf, load } from "../load.mjs";

const { Hold } = await load("hold");
const LIFE = "00000000000000aa";

test("a hold attaches, types, and comes back where it was", () => {
  const { hold, link, asked, sent, states } = held();
  opened(hold, link, ["main"]);
  const { client, ...attach } = asked[0];
  assert.match(client, /^[0-9a-f]{16}$/);
  assert.deepEqual(attach, { type: "attach", channel: 1, session: "main", role: "writer", cols: 80, rows: 24 });
  attached(hold);
  hold.type(bytesOf("ls"));
  assert.deepEqual(sent.at(-1), "1:1:0:ls");
  output(hold, 0, "out");
  hold.closed(false);
  hold.type(bytesOf("\r"));
  opened(hold, link, ["main"]);
  assert.deepEqual(asked[1].resume, { life: LIFE, offset: 3 });
  assert.equal(asked[1].client, client);
  attached(hold, { typed: 1 });
  assert.deepEqual(sent.slice(-2), ["1:2:1:s", "1:2:2:\r"]);
  assert.deepEqual(states, ["there", "coming", "there"]);
});

test("what was typed before the first attach is typed then", () => {
  const { hold, link, sent } = held();
  hold.type(bytesOf("early"));
  opened(hold, link, []);
  attached(hold);
  assert.deepEqual(sent, ["1:1:0:early"]);
});

test("what was typed for a shell that is gone isn't typed into the next", () => {
  const { hold, link, sent, doubts } = held();
  opened(hold, link, ["main"]);
  attached(hold);
  hold.closed(false);
  hold.type(bytesOf("rm x\r"));
  opened(hold, link, ["main"]);
  attached(hold, { life: "00000000000000bb" });
  assert.deepEqual(sent, []);
  assert.equal(doubts(), 1);
});

test("a session that ended meanwhile isn't started unasked", () => {
  const { hold, link, asked, states } = held();
  opened(hold, link, ["main"]);
  attached(hold);
  hold.closed(false);
  opened(hold, link, []);
  assert.equal(asked.length, 1);
  assert.equal(states.at(-1), "ended");
  assert.equal(hold.again(), true);
  assert.equal(asked.length, 2);
  assert.equal(asked[1].resume, undefined);
});

test("a hold that slept comes back when someone looks, and not to a session that is gone", () => {
  const { hold, link, asked, states, look } = held();
  opened(hold, link, ["main"]);
  attached(hold);
  look(false);
  for (let at = 0; at < 5 * 1024 * 1024; at += 1024 * 1024) hold.frame({ kind: "output", channel: 1, offset: at, bytes: new Uint8Array(1024 * 1024) });
  assert.equal(asked.at(-1).type, "detach");
  link.sessions = [];
  look(true);
  hold.look();
  assert.equal(states.at(-1), "ended");
  assert.equal(asked.at(-1).type, "detach");
});

test("a gap in the output is made good by a snapshot", () => {
  const { hold, link, asked } = held();
  opened(hold, link, ["main"]);
  attached(hold);
  output(hold, 0, "abc");
  output(hold, 4, "e");
  assert.deepEqual(asked.slice(1).map(({ type, channel, resume }) => [type, channel, resume]), [["detach", 1, undefined], ["attach", 2, undefined]]);
});

test("a broken rule makes the client begin from nothing", () => {
  const { hold, link, asked, doubts } = held();
  opened(hold, link, ["main"]);
  attached(hold);
  hold.type(bytesOf("x"));
  hold.closed(true);
  opened(hold, link, ["main"]);
  assert.notEqual(asked[1].client, asked[0].client);
  assert.equal(asked[1].resume, undefined);
  assert.equal(doubts(), 1);
});

test("only the leader's terminal answers", () => {
  const { hold, link, sent } = held();
  opened(hold, link, ["main"]);
  attached(hold);
  hold.answer(bytesOf("no"));
  hold.told({ type: "clients", you: 3, leader: 4, clients: [] });
  hold.answer(bytesOf("no"));
  hold.told({ type: "clients", you: 3, leader: 3, clients: [] });
  hold.answer(bytesOf("yes"));
  assert.deepEqual(sent, ["2:1:yes"]);
});

test("a viewer types nothing", () => {
  const { hold, link, asked, sent } = held("viewer");
  opened(hold, link, ["main"]);
  attached(hold);
  assert.equal(asked[0].role, "viewer");
  assert.equal(hold.type(bytesOf("x")), false);
  assert.deepEqual(sent, []);
});

test("an end frees the channel, and the next attach is the person's", () => {
  const { hold, link, freed, asked, states } = held();
  opened(hold, link, ["main"]);
  attached(hold);
  hold.told({ type: "exited", code: 0 });
  assert.deepEqual([freed, states.at(-1), hold.type(bytesOf("x"))], [[1], "ended", false]);
  hold.closed(false);
  opened(hold, link, []);
  assert.equal(asked.length, 1);
  hold.again();
  assert.equal(asked.length, 2);
});

test("a size is told when it changes", () => {
  const { hold, link, asked } = held();
  hold.resize({ cols: 100, rows: 30 });
  opened(hold, link, []);
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
    sessions: [],
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
  // Parses at once, as long as someone looks.
  let seen = true;
  const terminal = { write: (_bytes, parsed) => seen && parsed(), resize() {} };
  const nothing = () => undefined;
  const events = { seen: () => seen, company: nothing, title: nothing, cwd: nothing, bell: nothing, output: nothing };
  const hold = new Hold("main", role, { cols: 80, rows: 24 }, link, terminal, { ...events, state: ({ kind }) => states.push(kind), doubt: () => (doubts += 1) });
  hold.open();
  return { hold, link, asked, sent, freed, states, doubts: () => doubts, look: (does) => (seen = does) };
}

function opened(hold, link, sessions) {
  link.sessions = sessions;
  hold.opened();
}

function attached(hold, more = {}) {
  hold.told({ type: "attached", life: LIFE, typed: 0, started: false, cols: 80, rows: 24, ...more });
}

function output(hold, offset, text) {
  hold.frame({ kind: "output", channel: 1, offset, bytes: bytesOf(text) });
}
