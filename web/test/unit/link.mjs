// The link: connections that are refused, lost, dead, and there again.

import assert from "node:assert/strict";
import { test } from "node:test";

import { clock } from "../clock.mjs";
import { load } from "../load.mjs";

const { Link } = await load("link");

test("a link is there once the server has said what runs", (t) => {
  const { link, sockets, states, events } = linked(t);
  assert.deepEqual(sockets[0].protocol, "cloister.v1");
  assert.match(sockets[0].url, /^ws:\/\/host\/ws\/terminal\/demo\/\?token=token$/);
  const rider = riding(link);
  open(sockets[0]);
  assert.deepEqual(states, ["connecting", "online"]);
  assert.deepEqual(events, [["main"]]);
  assert.deepEqual(rider.heard, [["opened"]]);
  assert.deepEqual(link.sessions, ["main"]);
});

test("frames find their rider, and those of channels that are over nobody", (t) => {
  const { link, sockets } = linked(t);
  const rider = riding(link);
  open(sockets[0]);
  const [one, two] = [link.channel(rider), link.channel(rider)];
  assert.notEqual(one, two);
  link.free(one);
  sockets[0].tell({ type: "bell", channel: one });
  sockets[0].tell({ type: "bell", channel: two });
  assert.deepEqual(rider.heard.slice(1), [["told", two]]);
  assert.notEqual(link.channel(rider), one);
});

test("a connection that is lost waits for a moment, or for the network", (t) => {
  const { link, sockets, states } = linked(t);
  const rider = riding(link);
  open(sockets[0]);
  sockets[0].onclose({ code: 1012, reason: "" });
  assert.deepEqual(rider.heard.at(-1), ["closed", false]);
  assert.equal(link.state.reason, "server restarting");
  link.now();
  open(sockets[1]);
  sockets[0].onclose({ code: 1006, reason: "" });
  assert.deepEqual(states, ["connecting", "online", "waiting", "connecting", "online"]);
});

test("a broken rule is told", (t) => {
  const { link, sockets } = linked(t);
  const rider = riding(link);
  open(sockets[0]);
  sockets[0].onclose({ code: 1008, reason: "a gap" });
  assert.deepEqual(rider.heard.at(-1), ["closed", true]);
});

test("a connection that is silent is dead, one that talks isn't", (t) => {
  const { link, sockets, states, pass } = linked(t);
  open(sockets[0]);
  pass(5000);
  sockets[0].tell({ type: "sessions", sessions: [] });
  pass(5000);
  assert.equal(states.at(-1), "online");
  pass(8000);
  assert.equal(sockets[0].closed, true);
  assert.equal(link.state.kind === "online", false);
});

test("a ping's answer tells the lag", (t) => {
  const { sockets, lags } = linked(t);
  open(sockets[0]);
  const { id } = JSON.parse(sockets[0].sent[0]);
  sockets[0].tell({ type: "pong", id });
  assert.equal(lags.length, 1);
});

test("a project's rest is told, and is over with each connection", (t) => {
  const { link, sockets, rests } = linked(t);
  open(sockets[0]);
  sockets[0].tell({ type: "frozen", since: 1795521700 });
  sockets[0].tell({ type: "thawed" });
  sockets[0].tell({ type: "idle_stop", idle_s: 60 });
  sockets[0].onclose({ code: 1006, reason: "" });
  link.now();
  open(sockets[1]);
  const awake = { kind: "awake" };
  assert.deepEqual(rests, [awake, { kind: "frozen" }, awake, { kind: "stopped", idleS: 60 }, awake]);
});

test("a doubted connection is given up soon", (t) => {
  const { link, sockets, pass } = linked(t);
  open(sockets[0]);
  link.now();
  pass(3000);
  assert.equal(sockets[0].closed, true);
});

// A link over sockets that do what a test says.
function linked(t) {
  const pass = clock(t);
  const [sockets, states, events, lags, rests] = [[], [], [], [], []];
  globalThis.location = { origin: "http://host" };
  globalThis.WebSocket = class {
    closed = false;
    sent = [];
    constructor(url, protocol) {
      Object.assign(this, { url, protocol });
      sockets.push(this);
    }
    send(message) {
      this.sent.push(message);
    }
    tell(tell) {
      this.onmessage({ data: JSON.stringify(tell) });
    }
    close() {
      this.closed = true;
    }
  };
  const link = new Link(
    { project: "demo", session: "main", view: false },
    { state: ({ kind }) => states.push(kind), sessions: (names) => events.push(names), lag: (ms) => lags.push(ms), rest: (rest) => rests.push(rest) },
  );
  link.start("token");
  return { link, sockets, states, events, lags, rests, pass };
}

function riding(link) {
  const heard = [];
  const rider = {
    heard,
    opened: () => heard.push(["opened"]),
    closed: (broken) => heard.push(["closed", broken]),
    told: (tell) => heard.push(["told", tell.channel]),
    frame: (frame) => heard.push(["frame", frame.channel]),
  };
  link.join(rider);
  return rider;
}

function open(socket) {
  socket.tell({ type: "hello", version: "0", project: "demo" });
  socket.tell({ type: "sessions", sessions: ["main"] });
}
