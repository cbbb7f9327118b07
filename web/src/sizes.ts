// Keeps the server informed of the terminal's size. Knows no layout.

import type { Place } from "./place";
import { tellSize, type Size } from "./wire";

// Dragging a window's edge makes a size every frame; programs redraw for each they are told.
const CALM_MS = 80;

/** Tells the latest size, one request at a time. */
export class Sizes {
  readonly #place: Place;
  readonly #token: () => string | undefined;
  #timer: number | undefined;
  #latest: Size | undefined;
  #telling = false;

  constructor(place: Place, token: () => string | undefined) {
    this.#place = place;
    this.#token = token;
  }

  /** The size is this now. */
  set(size: Size): void {
    this.#latest = size;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#tell(), CALM_MS);
  }

  async #tell(): Promise<void> {
    const [size, token] = [this.#latest, this.#token()];
    if (this.#telling || size === undefined || token === undefined) return;
    this.#latest = undefined;
    this.#telling = true;
    try {
      await tellSize(this.#place, size, token);
    } catch {
      // Without a server nobody needs the size; the next connection brings it along.
    }
    this.#telling = false;
    if (this.#latest !== undefined) void this.#tell();
  }
}
