// The link to a project: a WebSocket that comes back, and the channels on it. Knows neither what a session is nor how one looks.

import { backoffMs } from "./backoff";
import { Channels } from "./channels";
import type { Place } from "./place";
import { Pulse } from "./pulse";
import { askWhy, oneLine, socketUrl } from "./server";
import { PROTOCOL, readFrame, type Ask, type Bytes, type ChannelTell, type Frame, type Tell } from "./wire";

/** What a link does just now. */
export type LinkState =
  | { readonly kind: "connecting" }
  | { readonly kind: "online" }
  /** Until the next attempt, by the page's clock. */
  | { readonly kind: "waiting"; readonly reason: string; readonly untilMs: number }
  /** The server says no: nothing happens until someone asks for it. */
  | { readonly kind: "halted"; readonly reason: string }
  | { readonly kind: "locked"; readonly refused: boolean };

/** How the project's cell is: frozen since nothing happened in it, or stopped for that after so many seconds. */
export type Rest =
  | { readonly kind: "awake" }
  | { readonly kind: "frozen" }
  | { readonly kind: "stopped"; readonly idleS: number };

/** What a link tells. */
export interface LinkEvents {
  /** The state changed. */
  state(state: LinkState): void;
  /** What runs in the project, and what it is called. */
  sessions(names: readonly string[], labels: Readonly<Record<string, string>>): void;
  /** The kernel killed programs, since the project used up its memory; the last one's name may be known. */
  outOfMemory(limitBytes: number, victim: string | undefined): void;
  /** The kernel refused the project more processes. */
  outOfPids(limit: number): void;
  /** The project has no room left on its disk. */
  outOfDisk(limitBytes: number): void;
  /** The cell was frozen, goes on, or is being stopped since nothing happens in it. */
  rest(rest: Rest): void;
  /** How long a message takes there and back. */
  lag(ms: number): void;
}

/** Who is on a link over all of its connections. */
export interface Rider {
  /** A connection is there, with no channel yet. */
  opened(): void;
  /** It is gone with all its channels; `broken` if the server says that a rule was broken. */
  closed(broken: boolean): void;
  /** Something about a channel of this rider's. */
  told(tell: ChannelTell): void;
  frame(frame: Frame): void;
}

// A connection that takes longer to open won't: a server accepts in milliseconds.
const OPEN_MS_MAX = 10_000;

// A connection that lived this long proves that the server is well again; one that dies sooner counts as a failed attempt.
const WELL_MS = 5000;

// Close codes with a meaning of their own: RFC 6455 §7.4.1 and the registry it opened.
const CLOSE_PROTOCOL = 1002;
const CLOSE_POLICY = 1008;
const CLOSE_RESTART = 1012;

/** One page's link to one project. */
export class Link {
  readonly #place: Place;
  readonly #events: LinkEvents;
  readonly #riders = new Set<Rider>();
  readonly #channels = new Channels<Rider>();
  #token = "";
  #state: LinkState = { kind: "locked", refused: false };
  #socket: WebSocket | undefined;
  #pulse: Pulse | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #attempt = 0;
  #openedMs = 0;
  #sessions: readonly string[] = [];

  constructor(place: Place, events: LinkEvents) {
    this.#place = place;
    this.#events = events;
  }

  /** What the link does just now. */
  get state(): LinkState {
    return this.#state;
  }

  /** What runs in the project, as far as was told. */
  get sessions(): readonly string[] {
    return this.#sessions;
  }

  /** Connects with a token; undefined waits for one. */
  start(token: string | undefined): void {
    this.#drop(false);
    this.#attempt = 0;
    if (token === undefined) return this.#become({ kind: "locked", refused: false });
    this.#token = token;
    this.#connect();
  }

  /** Something changed, the network or who looks: waits no longer, and doubts what is there. */
  now(): void {
    if (this.#state.kind === "waiting") this.again();
    else this.#pulse?.doubt();
  }

  /** Tries once more: someone asks for it. */
  again(): void {
    if (this.#state.kind !== "waiting" && this.#state.kind !== "halted") return;
    clearTimeout(this.#timer);
    this.#connect();
  }

  /** Takes a rider on; it is told at once if there is a connection. */
  join(rider: Rider): void {
    this.#riders.add(rider);
    if (this.#state.kind === "online") rider.opened();
  }

  /** Lets a rider go, with its channels. */
  leave(rider: Rider): void {
    this.#riders.delete(rider);
    this.#channels.freeAll(rider);
  }

  /** A channel for a rider, undefined if none is free. */
  channel(rider: Rider): number | undefined {
    return this.#channels.take(rider);
  }

  /** A channel is over. */
  free(channel: number): void {
    this.#channels.free(channel);
  }

  /** Says something, if there is a connection. */
  ask(ask: Ask): void {
    if (this.#state.kind === "online") this.#socket?.send(JSON.stringify(ask));
  }

  /** Sends a binary frame, if there is a connection. */
  send(frame: Bytes): void {
    if (this.#state.kind === "online") this.#socket?.send(frame);
  }

  #connect(): void {
    this.#become({ kind: "connecting" });
    const socket = new WebSocket(socketUrl(this.#place, this.#token), PROTOCOL);
    const late = setTimeout(() => this.#socket === socket && void this.#failed(), OPEN_MS_MAX);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (message: MessageEvent<ArrayBuffer | string>) => {
      clearTimeout(late);
      if (socket === this.#socket) this.#heard(message.data);
    };
    socket.onclose = (event) => {
      clearTimeout(late);
      if (socket !== this.#socket) return;
      if (this.#state.kind === "online") this.#lost(event.code, event.reason);
      else void this.#failed();
    };
    this.#socket = socket;
  }

  // The server says first what runs; before that nothing can be attached without starting by mistake what had ended.
  #opened(): void {
    this.#openedMs = performance.now();
    this.#become({ kind: "online" });
    this.#pulse = new Pulse({
      ping: (id) => this.ask({ type: "ping", id }),
      lag: (ms) => this.#events.lag(ms),
      dead: () => this.#lost(0, ""),
    });
    for (const rider of this.#riders) rider.opened();
  }

  #heard(data: ArrayBuffer | string): void {
    this.#pulse?.heard();
    if (typeof data !== "string") {
      const frame = readFrame(data);
      if (frame !== undefined) this.#channels.of(frame.channel)?.frame(frame);
      return;
    }
    const tell = JSON.parse(data) as Tell;
    if ("channel" in tell) this.#channels.of(tell.channel)?.told(tell);
    else if (tell.type === "pong") this.#pulse?.pong(tell.id);
    else if (tell.type === "out_of_memory") this.#events.outOfMemory(tell.limit_bytes, tell.victim);
    else if (tell.type === "out_of_pids") this.#events.outOfPids(tell.limit);
    else if (tell.type === "out_of_disk") this.#events.outOfDisk(tell.limit_bytes);
    else if (tell.type === "frozen") this.#events.rest({ kind: "frozen" });
    else if (tell.type === "idle_stop") this.#events.rest({ kind: "stopped", idleS: tell.idle_s });
    else if (tell.type === "thawed" || tell.type === "hello") this.#events.rest({ kind: "awake" });
    else if (tell.type === "sessions") {
      this.#sessions = tell.sessions;
      this.#events.sessions(tell.sessions, tell.labels ?? {});
      if (this.#state.kind !== "online") this.#opened();
    }
  }

  #lost(code: number, reason: string): void {
    this.#drop(code === CLOSE_POLICY || code === CLOSE_PROTOCOL);
    if (performance.now() - this.#openedMs > WELL_MS) this.#attempt = 0;
    this.#wait(code === CLOSE_RESTART ? "server restarting" : oneLine(reason) || "connection lost");
  }

  async #failed(): Promise<void> {
    this.#drop(false);
    const token = this.#token;
    this.#become({ kind: "connecting" });
    const refusal = await askWhy(this.#place, token);
    // Meanwhile the owner may have come with another token.
    if (this.#socket !== undefined || this.#state.kind !== "connecting" || token !== this.#token) return;
    if (refusal.kind === "token") return this.#become({ kind: "locked", refused: true });
    if (refusal.kind === "no") return this.#become({ kind: "halted", reason: refusal.reason });
    this.#wait(refusal.reason);
  }

  #wait(reason: string): void {
    const waitMs = backoffMs(this.#attempt, Math.random());
    this.#timer = setTimeout(() => this.#connect(), waitMs);
    this.#attempt += 1;
    this.#become({ kind: "waiting", reason, untilMs: performance.now() + waitMs });
  }

  // A dead connection isn't waited for: its socket is closed and no longer listened to.
  #drop(broken: boolean): void {
    clearTimeout(this.#timer);
    this.#pulse?.stop();
    this.#pulse = undefined;
    const [socket, wasOnline] = [this.#socket, this.#state.kind === "online"];
    this.#socket = undefined;
    this.#channels.clear();
    socket?.close();
    if (wasOnline) for (const rider of this.#riders) rider.closed(broken);
  }

  #become(state: LinkState): void {
    this.#state = state;
    this.#events.state(state);
  }
}
