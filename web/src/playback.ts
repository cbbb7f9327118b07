// Plays a recording into a terminal: forth at its pace, and to any place in it. Knows no clock of its own, and no element.
//
// A terminal knows only forth. To go back it is emptied and fed from the last place at which a recording begins anew, as
// fast as it parses; what it is given at a time is bounded, so that the page goes on and a newer wish is heard at once.

import type { Terminal } from "@xterm/xterm";

import type { Time, Timeline } from "./timeline";

// What the terminal may hold unparsed, in characters: more than it parses between two frames.
const UNPARSED_CHARS_MAX = 256 * 1024;

// What is written at once, in characters: many small moments cost more apart than together.
const WRITE_CHARS = 32 * 1024;

// A page that was out of sight, or busy, goes on where it was.
const FRAME_MS_MAX = 250;

// Ends what was cut, resets, empties the history, and takes back the colours that a reset leaves as they are.
const RESET = "\x18\x1bc\x1b[3J\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\";

/** One recording being played. */
export class Playback {
  /** How many times as fast as it was. */
  speed = 1;
  readonly #timeline: Timeline;
  readonly #terminal: Pick<Terminal, "write" | "resize">;
  #playing = false;
  #time: Time = "short";
  #atS = 0;
  // Before the first frame no time has passed.
  #lastMs = Infinity;
  // Moments given to the terminal, and those that belong to where we are.
  #given = 0;
  #due = 0;
  #unparsed = 0;

  /** Shows the beginning, in a terminal of whatever size and content. */
  constructor(timeline: Timeline, terminal: Pick<Terminal, "write" | "resize">) {
    this.#timeline = timeline;
    this.#terminal = terminal;
    this.#begin(0);
    this.seek(0);
  }

  get playing(): boolean {
    return this.#playing;
  }

  /** Where it is, in seconds of the time that is in force. */
  get atS(): number {
    return this.#atS;
  }

  /** Where it ends. */
  get endS(): number {
    return this.#timeline.endS(this.#time);
  }

  /** Whether all is played. */
  get over(): boolean {
    return this.#atS >= this.endS && !this.behind;
  }

  /** Whether the terminal doesn't show yet where it is. Until then time doesn't pass. */
  get behind(): boolean {
    return this.#given < this.#due || this.#unparsed > 0;
  }

  /** Plays, from the beginning if it was at the end, or pauses. */
  toggle(): void {
    this.#playing = !this.#playing;
    if (this.#playing && this.#atS >= this.endS) this.seek(0);
  }

  /** Goes to a time; what is no time of the recording is its beginning or its end. */
  seek(atS: number): void {
    this.#atS = Math.min(this.endS, Math.max(0, atS));
    this.#due = this.#timeline.count(this.#time, this.#atS);
    const { index } = this.#timeline.freshBefore(this.#due);
    if (this.#due < this.#given || this.#given < index) this.#begin(this.#due);
    this.#feed();
  }

  /** Counts time otherwise, and stays where it is. */
  count(time: Time): void {
    this.#atS = this.#timeline.convert(this.#atS, this.#time, time);
    this.#time = time;
  }

  /** A frame: time passes if it plays, and nothing is left to be shown. */
  frame(nowMs: number): void {
    const passedMs = Math.min(FRAME_MS_MAX, nowMs - this.#lastMs);
    this.#lastMs = nowMs;
    if (!this.#playing || this.#unparsed > UNPARSED_CHARS_MAX / 2 || this.#given < this.#due) return;
    this.#atS = Math.min(this.endS, this.#atS + (Math.max(0, passedMs) / 1000) * this.speed);
    this.#due = this.#timeline.count(this.#time, this.#atS);
    if (this.#atS >= this.endS) this.#playing = false;
    this.#feed();
  }

  #begin(due: number): void {
    const { index, size } = this.#timeline.freshBefore(due);
    this.#given = index;
    this.#write(RESET, () => this.#terminal.resize(size.cols, size.rows));
  }

  #feed(): void {
    while (this.#given < this.#due && this.#unparsed < UNPARSED_CHARS_MAX) {
      const what = this.#timeline.what(this.#given);
      if (typeof what === "object") {
        this.#given += 1;
        this.#write("", () => this.#terminal.resize(what.cols, what.rows));
      } else this.#write(this.#text(), () => undefined);
    }
  }

  // What is printed from here on until something else is due, or enough.
  #text(): string {
    let text = "";
    while (this.#given < this.#due && text.length < WRITE_CHARS) {
      const what = this.#timeline.what(this.#given);
      if (typeof what !== "string") break;
      text += what;
      this.#given += 1;
    }
    return text;
  }

  // An order of no characters counts as one: it is waited for as well.
  #write(text: string, parsed: () => void): void {
    const chars = text.length + 1;
    this.#unparsed += chars;
    this.#terminal.write(text, () => {
      this.#unparsed -= chars;
      parsed();
      this.#feed();
    });
  }
}
