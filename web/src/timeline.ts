// What a recording holds, in the order in which it is played, and where in it a time is. Knows neither file nor terminal.
//
// There are two ways to count time: all of it as it passed, and without most of what passed idly.

import type { Size } from "./wire";

/** What happens at a moment: the terminal prints, or has another size. */
export type Happening = string | Size;

/** A place from which on nothing need be known of what was before, but the size. */
export interface Fresh {
  readonly index: number;
  readonly size: Size;
}

/** How time is counted: whole, or with idle time cut short. */
export type Time = "whole" | "short";

// How long nothing may happen before the rest of it is left out, in seconds.
const IDLE_S_MAX = 2;

// What is printed within this is one moment: less than a screen shows apart, in seconds.
const MOMENT_S = 0.01;

// A moment prints no more than a terminal parses at one go, in characters.
const MOMENT_CHARS_MAX = 64 * 1024;

// What a recorder prints before a snapshot: it ends what was cut, empties the terminal and its history.
const FRESH = "\x18\x1bc\x1b[3J";

/** A recording's moments. Filled from the beginning to the end, then only read. */
export class Timeline {
  /** The size at the beginning. */
  readonly size: Size;
  /** The status with which the program ended, if it did. */
  exit: number | undefined;
  // Parallel lists, one entry a moment: there may be millions.
  readonly #at: Record<Time, number[]> = { whole: [], short: [] };
  readonly #what: Happening[] = [];
  readonly #fresh: Fresh[];
  #end: Record<Time, number> = { whole: 0, short: 0 };
  #sizeNow: Size;

  constructor(size: Size) {
    this.size = this.#sizeNow = size;
    this.#fresh = [{ index: 0, size }];
  }

  /** Time passes. */
  pass(intervalS: number): void {
    const { whole, short } = this.#end;
    this.#end = { whole: whole + intervalS, short: short + Math.min(intervalS, IDLE_S_MAX) };
  }

  /** The terminal prints. */
  print(text: string): void {
    const last = this.#what.length - 1;
    const before = this.#what[last];
    const fresh = text.startsWith(FRESH);
    if (fresh) this.#fresh.push({ index: this.#what.length, size: this.#sizeNow });
    const one = typeof before === "string" && !fresh && before.length + text.length <= MOMENT_CHARS_MAX;
    if (one && this.#end.whole - this.#at.whole[last]! < MOMENT_S) this.#what[last] = before + text;
    else this.#add(text);
  }

  /** The terminal has another size. */
  resize(size: Size): void {
    this.#sizeNow = size;
    this.#add(size);
  }

  /** How many moments there are. */
  get length(): number {
    return this.#what.length;
  }

  /** What happens at a moment. */
  what(index: number): Happening | undefined {
    return this.#what[index];
  }

  /** When all is over, in seconds. */
  endS(time: Time): number {
    return this.#end[time];
  }

  /** How many moments have come at a time. */
  count(time: Time, atS: number): number {
    const at = this.#at[time];
    let [from, to] = [0, at.length];
    while (from < to) {
      const middle = (from + to) >>> 1;
      if (at[middle]! <= atS) from = middle + 1;
      else to = middle;
    }
    return from;
  }

  /** The last place before a moment at which one can begin as well as at the beginning. */
  freshBefore(index: number): Fresh {
    let at = this.#fresh.length - 1;
    while (at > 0 && this.#fresh[at]!.index >= index) at -= 1;
    return this.#fresh[at]!;
  }

  /** The same place in the other time. */
  convert(atS: number, from: Time, to: Time): number {
    const next = this.count(from, atS);
    const place = (time: Time, index: number) => (index < 0 ? 0 : (this.#at[time][index] ?? this.#end[time]));
    const [begin, end] = [place(from, next - 1), place(from, next)];
    const share = end > begin ? Math.min(1, (atS - begin) / (end - begin)) : 0;
    return place(to, next - 1) + share * (place(to, next) - place(to, next - 1));
  }

  #add(what: Happening): void {
    this.#at.whole.push(this.#end.whole);
    this.#at.short.push(this.#end.short);
    this.#what.push(what);
  }
}
