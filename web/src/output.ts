// Feeds a session's output to the terminal at the terminal's pace. Knows no socket.
//
// The plain protocol has no flow control. A program that writes faster than the terminal parses would fill memory and put
// ^C seconds behind; so what is too much is skipped, and when the terminal has caught up the page attaches anew and sees
// the recent output.

import type { Terminal } from "@xterm/xterm";

// Bytes waiting to be parsed. A terminal parses some 20 MB/s, so a key's effect shows within half a second; and it is many
// times a replay.
const UNPARSED_BYTES_MAX = 8 * 1024 * 1024;

// The server's messages have this length while it has more to send; the first that is shorter ends a replay.
const FULL_MESSAGE_BYTES = 32 * 1024;

// The end of a replay that counts as new: a program whose question is the last thing there waits for its answer still. The
// terminal answers at a question's last byte, or at the last but one (ESC \).
const OPEN_QUESTION_BYTES = 2;

// ESC c, a full reset, in the stream itself: it takes effect after what was written before and ends a sequence cut short.
const RESET = new Uint8Array([0x1b, 0x63]);

/** The way of output into one terminal. */
export class Output {
  readonly #terminal: Pick<Terminal, "write">;
  readonly #caughtUp: () => void;
  #unparsed = 0;
  #skipping = false;
  // Whether the replay's end is still to come, and whether the terminal has parsed up to it.
  #replayComes = false;
  #replayShows = false;

  /** `caughtUp` is called when something was skipped and the terminal has parsed all the rest. */
  constructor(terminal: Pick<Terminal, "write">, caughtUp: () => void) {
    this.#terminal = terminal;
    this.#caughtUp = caughtUp;
  }

  /** Whether the terminal just shows what was written before this page came. */
  get replaying(): boolean {
    return this.#replayShows;
  }

  /** A new connection: the recent output comes first. */
  attached(): void {
    this.#skipping = false;
    this.#replayComes = true;
    this.#terminal.write(RESET, () => (this.#replayShows = true));
  }

  /** Shows bytes. */
  write(bytes: Uint8Array): void {
    if (this.#skipping) return;
    if (!this.#replayComes || bytes.length >= FULL_MESSAGE_BYTES) return this.#parse(bytes);
    this.#replayComes = false;
    const end = Math.max(0, bytes.length - OPEN_QUESTION_BYTES);
    this.#parse(bytes.subarray(0, end), () => (this.#replayShows = false));
    this.#parse(bytes.subarray(end));
  }

  #parse(bytes: Uint8Array, parsed?: () => void): void {
    this.#unparsed += bytes.length;
    this.#skipping = this.#unparsed > UNPARSED_BYTES_MAX;
    this.#terminal.write(bytes, () => {
      this.#unparsed -= bytes.length;
      parsed?.();
      if (this.#skipping && this.#unparsed === 0) this.#caughtUp();
    });
  }
}
