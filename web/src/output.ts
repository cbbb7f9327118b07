// Feeds a session's output to its terminal and acknowledges what is parsed. Knows no socket.
//
// A browser slows the timers of a page that nobody looks at, and with them the terminal: such a page must not pace the
// program, so there output is acknowledged when it comes, and let go of when too much of it is left unparsed.

import type { Terminal } from "@xterm/xterm";

import type { Bytes, Size } from "./wire";

// The protocol asks for an acknowledgement at least this often.
const ACK_BYTES = 16 * 1024;

// How long after the last output the rest is acknowledged. An echo's acknowledgement can wait for the next key's.
const IDLE_MS = 40;

// What a page out of sight may hold unparsed: far below what the terminal itself would throw away.
const UNSEEN_BYTES_MAX = 4 * 1024 * 1024;

// ESC c, a full reset, in the stream itself: it takes effect after what was written before and ends a sequence cut short.
const RESET = new Uint8Array([0x1b, 0x63]);
const NOTHING = new Uint8Array(0);

/** What output asks and tells. */
export interface OutputEvents {
  /** Everything before this offset is parsed. */
  ack(offset: number): void;
  /** Whether someone looks. */
  seen(): boolean;
  /** Too much is left unparsed. */
  overrun(): void;
}

/** The way of one session's output into one terminal. */
export class Output {
  readonly #terminal: Pick<Terminal, "write" | "resize">;
  readonly #events: OutputEvents;
  // Offset behind everything handed to the terminal; undefined while a snapshot comes.
  #next: number | undefined = 0;
  #parsed = 0;
  #acked = 0;
  #unparsed = 0;
  // Counts beginnings: what was written before one says nothing about offsets after it.
  #era = 0;
  #painting = false;
  #idle: ReturnType<typeof setTimeout> | undefined;

  constructor(terminal: Pick<Terminal, "write" | "resize">, events: OutputEvents) {
    this.#terminal = terminal;
    this.#events = events;
  }

  /** Offset up to which the terminal has, or will have, everything; undefined if that can't be said. */
  get offset(): number | undefined {
    return this.#next;
  }

  /** Whether the terminal just parses a snapshot, and nothing in it is said to it now. */
  get painting(): boolean {
    return this.#painting;
  }

  /** A connection goes on where the last one ended. */
  resume(): void {
    this.#acked = Math.max(this.#acked, this.#next ?? 0);
  }

  /** What the terminal has can't be relied on. */
  forget(): void {
    this.#era += 1;
    this.#next = undefined;
  }

  /** Another life of the session: its screen is empty and its output begins at 0. */
  begin(size: Size): void {
    this.reset(size);
    this.painted(0);
  }

  /** A snapshot begins, for a terminal of this size. */
  reset(size: Size): void {
    this.#era += 1;
    this.#next = undefined;
    this.#write(RESET, () => {
      this.#painting = true;
      this.#terminal.resize(size.cols, size.rows);
    });
  }

  /** A part of a snapshot. */
  picture(bytes: Bytes): void {
    this.#write(bytes, () => undefined);
  }

  /** The snapshot is complete: output goes on here. */
  painted(offset: number): void {
    this.#next = this.#parsed = this.#acked = offset;
    const era = this.#era;
    this.#write(NOTHING, () => {
      this.#painting = false;
      if (era === this.#era && offset > 0) this.#events.ack(offset);
    });
  }

  /** The session has this size from here on. */
  resized(size: Size): void {
    this.#write(NOTHING, () => this.#terminal.resize(size.cols, size.rows));
  }

  /** Shows output; false if it isn't what comes next. */
  write(offset: number, bytes: Bytes): boolean {
    if (offset !== this.#next) return false;
    const [end, era] = [offset + bytes.length, this.#era];
    this.#next = end;
    this.#write(bytes, () => {
      if (era === this.#era) this.#ack((this.#parsed = end));
    });
    if (this.#events.seen()) return true;
    if (this.#unparsed > UNSEEN_BYTES_MAX) this.#events.overrun();
    else this.#ack(end);
    return true;
  }

  #ack(offset: number): void {
    clearTimeout(this.#idle);
    if (offset - this.#acked >= ACK_BYTES) return this.#say(offset);
    const era = this.#era;
    if (offset > this.#acked) this.#idle = setTimeout(() => era === this.#era && this.#say(Math.max(offset, this.#parsed)), IDLE_MS);
  }

  #say(offset: number): void {
    if (offset <= this.#acked) return;
    this.#acked = offset;
    this.#events.ack(offset);
  }

  #write(bytes: Uint8Array, parsed: () => void): void {
    this.#unparsed += bytes.length;
    this.#terminal.write(bytes, () => {
      this.#unparsed -= bytes.length;
      parsed();
    });
  }
}
