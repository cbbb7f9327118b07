// Reads recordings: asciicast v3 (https://docs.asciinema.org/manual/asciicast/v3), a line of head and then one an event.
// What it reads is a stranger's: whatever isn't as it should be is refused with the number of its line. Knows no terminal.

import { Timeline } from "./timeline";
import { CELLS_MAX, type Size } from "./wire";

const VERSION = 3;

// The server ends a file at 64 MiB. All that is read is held in memory, so that there is an end to it.
const FILE_BYTES_MAX = 128 * 1024 * 1024;

// The server's recorder writes a fifth of this at most.
const LINE_CHARS_MAX = 1024 * 1024;

// No session lasts thirty years; sums of less than that stay exact to the microsecond for longer than anybody plays.
const INTERVAL_S_MAX = 1e9;

// What the server lets a terminal have.
const SIZE_CELLS_MAX = 200_000;

// How much is read at one go, and how long before the page may do something else.
const PIECE_BYTES = 64 * 1024;
const WORK_MS_MAX = 12;

/** Why a recording can't be played: a phrase that names the line. */
export class CastError extends Error {}

/** Reads a recording piece by piece, and lets the page breathe in between. `read` is told how many bytes there are so far. */
export async function readCast(stream: ReadableStream<Uint8Array>, read: (bytes: number) => void): Promise<Timeline> {
  const cast = new Cast();
  const reader = stream.getReader();
  let [bytes, restedMs] = [0, performance.now()];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return cast.end();
      for (let from = 0; from < value.length; from += PIECE_BYTES) {
        cast.push(value.subarray(from, from + PIECE_BYTES));
        if (performance.now() - restedMs < WORK_MS_MAX) continue;
        await new Promise((resume) => setTimeout(resume));
        restedMs = performance.now();
      }
      bytes += value.length;
      if (bytes > FILE_BYTES_MAX) throw new CastError(`it has more than ${FILE_BYTES_MAX / 1024 / 1024} MiB`);
      read(bytes);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** A recording that is being read. */
export class Cast {
  readonly #decoder = new TextDecoder();
  #timeline: Timeline | undefined;
  #number = 1;
  // The beginning of a line whose end hasn't come.
  #begun = "";

  /** The next bytes. */
  push(bytes: Uint8Array): void {
    const text = this.#decoder.decode(bytes, { stream: true });
    let from = 0;
    for (let to = text.indexOf("\n"); to >= 0; to = text.indexOf("\n", from)) {
      this.#line(this.#begun + text.slice(from, to));
      this.#begun = "";
      from = to + 1;
    }
    this.#begun += text.slice(from);
    if (this.#begun.length > LINE_CHARS_MAX) throw this.#wrong("is too long");
  }

  /** Nothing follows. A last line without an end is one that is just being written: what isn't there yet isn't missing. */
  end(): Timeline {
    if (this.#timeline === undefined) throw new CastError(this.#begun === "" ? "it is empty" : "line 1 is cut");
    return this.#timeline;
  }

  #line(line: string): void {
    if (line.length > LINE_CHARS_MAX) throw this.#wrong("is too long");
    if (this.#timeline === undefined) this.#timeline = new Timeline(this.#head(line));
    else if (!line.startsWith("#") && line.trim() !== "") this.#event(line, this.#timeline);
    this.#number += 1;
  }

  #head(line: string): Size {
    const head = this.#json(line);
    if (!isObject(head)) throw this.#wrong("is no head of a recording");
    if (head["version"] !== VERSION) throw this.#wrong(`says version ${word(head["version"])} where ${VERSION} is read`);
    const term = head["term"];
    return this.#size(isObject(term) ? term["cols"] : undefined, isObject(term) ? term["rows"] : undefined);
  }

  #event(line: string, timeline: Timeline): void {
    const event = this.#json(line);
    if (!Array.isArray(event) || event.length !== 3) throw this.#wrong("is no event: it must be a list of three");
    const [intervalS, code, data] = event as unknown[];
    const past = typeof intervalS === "number" && intervalS >= 0 && intervalS <= INTERVAL_S_MAX;
    if (!past) throw this.#wrong(`has a time that can’t be: ${word(intervalS)}`);
    if (typeof code !== "string" || typeof data !== "string") throw this.#wrong("is no event: it must say what, and be text");
    timeline.pass(intervalS);
    switch (code) {
      case "o":
        return timeline.print(data);
      case "r": {
        const [, cols, rows] = /^(\d{1,6})x(\d{1,6})$/.exec(data) ?? [];
        return timeline.resize(this.#size(Number(cols), Number(rows)));
      }
      case "x":
        if (!/^\d{1,10}$/.test(data)) throw this.#wrong(`has a status that can’t be: ${word(data)}`);
        timeline.exit = Number(data);
        return;
      // Input, markers, and whatever comes to be: nothing that is seen.
    }
  }

  #json(line: string): unknown {
    try {
      return JSON.parse(line);
    } catch {
      throw this.#wrong("is no JSON");
    }
  }

  #size(cols: unknown, rows: unknown): Size {
    const fits = (cells: unknown): cells is number => Number.isInteger(cells) && Number(cells) >= 1 && Number(cells) <= CELLS_MAX;
    if (!fits(cols) || !fits(rows) || cols * rows > SIZE_CELLS_MAX) throw this.#wrong("has a size that no terminal has");
    return { cols, rows };
  }

  #wrong(what: string): CastError {
    return new CastError(`line ${this.#number} ${what}`);
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// A few characters of a stranger's, for a message.
function word(value: unknown): string {
  return (JSON.stringify(value) ?? "nothing").slice(0, 40);
}
