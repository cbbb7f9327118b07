// The link to a session: a WebSocket that comes back. Knows no terminal and no picture of its state.

import { backoffMs } from "./backoff";
import type { Place } from "./place";
import { askWhy, CLOSE_NORMAL, CLOSE_RESTART, oneLine, terminalUrl, type Size } from "./wire";

/** What a link does just now. */
export type LinkState =
  | { readonly kind: "connecting" }
  | { readonly kind: "online" }
  | { readonly kind: "waiting"; readonly reason: string }
  /** The session is over, or can't be had: nothing happens until someone asks for it. */
  | { readonly kind: "halted"; readonly reason: string; readonly ended: boolean }
  | { readonly kind: "locked"; readonly refused: boolean };

/** What a link tells and asks. */
export interface LinkEvents {
  /** The state changed. */
  state(state: LinkState): void;
  /** A connection was made: the recent output comes once more, from a clean screen on. */
  attached(): void;
  /** Output of the terminal, in order. */
  output(bytes: Uint8Array<ArrayBuffer>): void;
  /** The terminal's size, asked for each connection. */
  size(): Size;
}

// A connection that takes longer to open won't: a server accepts in milliseconds.
const OPEN_MS_MAX = 10_000;

// A connection that lived this long proves that the server is well again; one that dies sooner counts as a failed attempt.
const WELL_MS = 5000;

// Small enough for any server's limit on a message.
const MESSAGE_BYTES_MAX = 16 * 1024;

// Input the browser may hold for a program that doesn't read: a large paste, not a runaway key.
const UNSENT_BYTES_MAX = 1024 * 1024;

/** One page's link to one session. */
export class Link {
  readonly #place: Place;
  readonly #events: LinkEvents;
  #token = "";
  #state: LinkState = { kind: "locked", refused: false };
  #current: WebSocket | undefined;
  #opening: WebSocket | undefined;
  #timer: number | undefined;
  #attempt = 0;
  #openedMs = 0;

  constructor(place: Place, events: LinkEvents) {
    this.#place = place;
    this.#events = events;
  }

  /** What the link does just now. */
  get state(): LinkState {
    return this.#state;
  }

  /** Connects with a token; undefined waits for one. */
  start(token: string | undefined): void {
    this.#drop();
    this.#attempt = 0;
    if (token === undefined) return this.#become({ kind: "locked", refused: false });
    this.#token = token;
    this.#connect();
  }

  /** Doesn't wait any longer: the network is back, or someone looks. */
  now(): void {
    if (this.#state.kind === "waiting") this.again();
  }

  /** Tries once more, also what was at its end: someone asks for it. Says whether there was anything to try. */
  again(): boolean {
    if (this.#state.kind !== "waiting" && this.#state.kind !== "halted") return false;
    clearTimeout(this.#timer);
    this.#connect();
    return true;
  }

  /** Attaches anew and lets go of the present connection only then, so that input has a way all the time. */
  reattach(): void {
    if (this.#state.kind === "online" && this.#opening === undefined) this.#open();
  }

  /** Types into the terminal; false if these bytes were refused. */
  send(bytes: Uint8Array<ArrayBuffer>): boolean {
    const socket = this.#current;
    if (socket?.readyState !== WebSocket.OPEN) return false;
    if (socket.bufferedAmount + bytes.length > UNSENT_BYTES_MAX) return false;
    for (let at = 0; at < bytes.length; at += MESSAGE_BYTES_MAX) socket.send(bytes.subarray(at, at + MESSAGE_BYTES_MAX));
    return true;
  }

  #connect(): void {
    this.#become({ kind: "connecting" });
    this.#open();
  }

  #open(): void {
    const socket = new WebSocket(terminalUrl(this.#place, this.#events.size(), this.#token));
    const late = setTimeout(() => socket.close(), OPEN_MS_MAX);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      clearTimeout(late);
      if (socket === this.#opening) this.#opened(socket);
    };
    socket.onmessage = (message: MessageEvent<ArrayBuffer>) => {
      if (socket === this.#current) this.#events.output(new Uint8Array(message.data));
    };
    socket.onclose = (event) => {
      clearTimeout(late);
      if (socket === this.#opening) void this.#failed();
      if (socket === this.#current) this.#lost(event);
    };
    this.#opening = socket;
  }

  #opened(socket: WebSocket): void {
    this.#current?.close(CLOSE_NORMAL);
    this.#current = socket;
    this.#opening = undefined;
    this.#openedMs = performance.now();
    this.#events.attached();
    this.#become({ kind: "online" });
  }

  #lost(event: CloseEvent): void {
    this.#drop();
    const reason = oneLine(event.reason);
    if (event.code === CLOSE_NORMAL) return this.#become({ kind: "halted", reason: reason || "the session ended", ended: true });
    if (performance.now() - this.#openedMs > WELL_MS) this.#attempt = 0;
    if (event.code === CLOSE_RESTART) return this.#wait("server restarting");
    this.#wait(reason || "connection lost");
  }

  async #failed(): Promise<void> {
    this.#drop();
    const token = this.#token;
    this.#become({ kind: "connecting" });
    const refusal = await askWhy(this.#place, token);
    // Meanwhile the owner may have come with another token.
    if (this.#opening !== undefined || this.#state.kind !== "connecting" || token !== this.#token) return;
    if (refusal.kind === "token") return this.#become({ kind: "locked", refused: true });
    if (refusal.kind === "no") return this.#become({ kind: "halted", reason: refusal.reason, ended: false });
    this.#wait(refusal.reason);
  }

  #wait(reason: string): void {
    this.#timer = setTimeout(() => this.#connect(), backoffMs(this.#attempt, Math.random()));
    this.#attempt += 1;
    this.#become({ kind: "waiting", reason });
  }

  #drop(): void {
    clearTimeout(this.#timer);
    const sockets = [this.#current, this.#opening];
    this.#current = undefined;
    this.#opening = undefined;
    for (const socket of sockets) socket?.close();
  }

  #become(state: LinkState): void {
    this.#state = state;
    this.#events.state(state);
  }
}
