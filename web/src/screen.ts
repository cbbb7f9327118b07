// A terminal that shows what is played: all of it, in the room that there is. Knows no recording.

import type { Terminal } from "@xterm/xterm";

import { cellOf, fits, roomFor, shrinkToFit, type Room } from "./fit";
import type { Settings } from "./settings";
import { accelerate, makeScreen } from "./terminal";
import type { Theme } from "./themes";
import type { Size } from "./wire";

/** One terminal to look at, in one element. */
export class Screen {
  readonly terminal: Terminal;
  readonly #host: HTMLElement;
  readonly #watch = new ResizeObserver(() => this.#fit());
  readonly #slow: () => void;
  #fontPx: number;
  // A cell at the font size that was chosen.
  #cell: Room;

  /** The element must be on the page. */
  constructor(host: HTMLElement, size: Size, theme: Theme, settings: Settings) {
    this.#host = host;
    this.#fontPx = settings.fontSize;
    this.terminal = makeScreen(size, settings.fontSize);
    this.terminal.open(host);
    // Reached by a mouse that selects text, not by Tab: there is nothing to type.
    this.terminal.textarea!.tabIndex = -1;
    this.#cell = cellOf(this.terminal);
    this.dress(theme, settings);
    this.terminal.onResize(() => this.#fit());
    this.#watch.observe(host);
    this.#slow = accelerate(this.terminal, () => this.#measure());
  }

  /** Takes another theme, and settings. */
  dress(theme: Theme, { fontSize, screenReader }: Settings): void {
    const { options } = this.terminal;
    options.theme = theme.terminal;
    options.minimumContrastRatio = theme.contrast;
    options.screenReaderMode = screenReader;
    this.#fontPx = fontSize;
    this.#measure();
  }

  /** Takes the terminal from the page. */
  close(): void {
    this.#watch.disconnect();
    this.#slow();
    this.terminal.dispose();
  }

  // Renderers differ in what a cell takes.
  #measure(): void {
    this.terminal.options.fontSize = this.#fontPx;
    this.#cell = cellOf(this.terminal);
    this.#fit();
  }

  #fit(): void {
    if (this.#host.clientWidth === 0) return;
    const room = roomFor(this.terminal, this.#host);
    shrinkToFit(this.terminal, room, this.#cell, this.#fontPx);
    this.#host.classList.toggle("vast", !fits(this.terminal, room));
  }
}
