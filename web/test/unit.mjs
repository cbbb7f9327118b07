// The page's pure parts, each checked against what is expected of it.

import { build } from "esbuild";
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

const { backoffMs, BACKOFF_MS_MAX, BACKOFF_MS_MIN } = await load("backoff");
const { Link } = await load("link");
const { Output } = await load("output");
const { placeOf } = await load("place");
const { isAnswer } = await load("replay");

test("an address names a place", () => {
  const cases = [
    ["/", "demo", "main"],
    ["/?project=a-b", "a-b", "main"],
    ["/p/x1", "x1", "main"],
    ["/p/x1/?session=two", "x1", "two"],
    ["/p/x1?project=other", "x1", "main"],
    ["/?project=&session=", "demo", "main"],
  ];
  for (const [address, project, session] of cases) {
    assert.deepEqual(placeOf(new URL(address, "http://host")), { project, session }, address);
  }
});

test("what is no project id names no place", () => {
  for (const address of ["/?project=A", "/?project=-a", "/?project=a-", "/?project=a%2Fb", "/?project=..", `/p/${"a".repeat(41)}`, "/p/a%2e", "/?session=.."]) {
    assert.equal(placeOf(new URL(address, "http://host")), undefined, address);
  }
});

test("waits double up to a bound, and jitter only shortens them", () => {
  assert.equal(backoffMs(0, 0), BACKOFF_MS_MIN);
  assert.equal(backoffMs(2, 0), 4 * BACKOFF_MS_MIN);
  assert.equal(backoffMs(1000, 0), BACKOFF_MS_MAX);
  assert.equal(backoffMs(1000, 1), BACKOFF_MS_MAX / 2);
});

test("a terminal's answers are told from keys", () => {
  const answers = [
    "\x1b[?1;2c", "\x1b[>0;276;0c", "\x1b[0n", "\x1b[12;40R", "\x1b[?12;40R", "\x1b[?2026;2$y", "\x1b[4;1$y", "\x1b[8;24;80t", "\x1b[I", "\x1b[O",
    "\x1b]11;rgb:1111/1515/1a1a\x1b\\", "\x1b]4;1;rgb:e2/7d/7d\x07", "\x1bP1$r0m\x1b\\", "\x1bP>|xterm.js(6.0.0)\x1b\\",
  ];
  const keys = ["a", "\r", "\x1b", "\x1b[A", "\x1b[1;5C", "\x1bOP", "\x1b[15~", "\x1b[Z", "\x1bc", "é", "\x1b[200~text\x1b[201~", "\x1b[<0;3;4M"];
  for (const answer of answers) assert.equal(isAnswer(answer), true, JSON.stringify(answer));
  for (const key of keys) assert.equal(isAnswer(key), false, JSON.stringify(key));
});

test("what a replay asks is old, but for its very end", () => {
  const { terminal, output, parse } = fed();
  output.attached();
  output.write(new Uint8Array(32 * 1024));
  output.write(new Uint8Array(1000));
  output.write(new Uint8Array(10));
  assert.deepEqual(parse(), [[2, false], [32 * 1024, true], [998, true], [2, false], [10, false]]);
  assert.equal(terminal.length, 0);
});

test("what a new session asks last is answered", () => {
  const { output, parse } = fed();
  output.attached();
  output.write(new Uint8Array(60));
  assert.deepEqual(parse(), [[2, false], [58, true], [2, false]]);
});

test("what is too much is skipped until the terminal has caught up", () => {
  const { terminal, output, parse, calls } = fed();
  output.attached();
  for (let n = 0; n < 1000; n += 1) output.write(new Uint8Array(32 * 1024));
  assert.equal(terminal.length, 1 + 257);
  assert.equal(calls(), 0);
  parse();
  assert.equal(calls(), 1);
  output.write(new Uint8Array(1));
  assert.equal(terminal.length, 0);
  output.attached();
  output.write(new Uint8Array(1));
  assert.equal(terminal.length, 3);
});

test("a session that ended waits for someone to ask", () => {
  const { link, sockets, states } = linked();
  sockets[0].onopen();
  sockets[0].onclose({ code: 1000, reason: "exited with status 0" });
  link.now();
  assert.deepEqual(states, ["connecting", "online", "halted"]);
  assert.equal(link.again(), true);
  sockets[1].onopen();
  assert.deepEqual(states.slice(3), ["connecting", "online"]);
});

test("a connection that is lost waits for a moment, or for the network", () => {
  const { link, sockets, states } = linked();
  sockets[0].onopen();
  sockets[0].onclose({ code: 1012, reason: "" });
  link.now();
  sockets[1].onopen();
  sockets[0].onclose({ code: 1006, reason: "" });
  assert.deepEqual(states, ["connecting", "online", "waiting", "connecting", "online"]);
});

test("the present connection is let go only when the next is there", () => {
  const { link, sockets, states } = linked();
  sockets[0].onopen();
  link.reattach();
  link.reattach();
  assert.equal(sockets.length, 2);
  assert.equal(link.send(new Uint8Array(1)), true);
  assert.equal(sockets[0].sent.length, 1);
  sockets[1].onopen();
  assert.equal(sockets[0].closed, true);
  assert.equal(link.send(new Uint8Array(1)), true);
  assert.equal(sockets[1].sent.length, 1);
  assert.deepEqual(new Set(states.slice(1)), new Set(["online"]));
});

test("input goes in pieces, whole or not at all", () => {
  const { link, sockets } = linked();
  assert.equal(link.send(new Uint8Array(1)), false);
  sockets[0].onopen();
  assert.equal(link.send(new Uint8Array(40_000)), true);
  assert.deepEqual(sockets[0].sent, [16384, 16384, 7232]);
  sockets[0].bufferedAmount = 1024 * 1024;
  assert.equal(link.send(new Uint8Array(1)), false);
  assert.equal(sockets[0].sent.length, 3);
});

// A link over sockets that do what a test says.
function linked() {
  const [sockets, states] = [[], []];
  globalThis.location = { origin: "http://host" };
  globalThis.WebSocket = class {
    static OPEN = 1;
    readyState = 1;
    bufferedAmount = 0;
    closed = false;
    sent = [];
    constructor() {
      sockets.push(this);
    }
    send(bytes) {
      this.sent.push(bytes.length);
    }
    close() {
      this.closed = true;
    }
  };
  const link = new Link(
    { project: "demo", session: "main" },
    { state: ({ kind }) => states.push(kind), attached() {}, output() {}, size: () => ({ cols: 80, rows: 24 }) },
  );
  link.start("token");
  return { link, sockets, states };
}

// A way of output into a terminal that parses when told to, and says of each piece whether it counted as replayed.
function fed() {
  const terminal = [];
  let count = 0;
  const output = new Output({ write: (bytes, parsed) => terminal.push([bytes, parsed]) }, () => (count += 1));
  const parse = () =>
    terminal.splice(0).map(([bytes, parsed]) => {
      const seen = [bytes.length, output.replaying];
      parsed?.();
      return seen;
    });
  return { terminal, output, parse, calls: () => count };
}

// A module of src/ as the bundler sees it.
async function load(name) {
  const entry = fileURLToPath(new URL(`../src/${name}.ts`, import.meta.url));
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, format: "esm", write: false });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
}
