// A terminal's place on the page: how many cells fit it, and how a session of another size is shown in it whole. Knows no session.

import type { Terminal } from "@xterm/xterm";

import { cellOf, fits, roomFor, shrinkToFit } from "./fit";
import type { Settings } from "./settings";
import { accelerate, makeTerminal } from "./terminal";
import type { Theme } from "./themes";
import { CELLS_MAX, type Size } from "./wire";

// Dragging a window's edge makes a size every frame; programs redraw for each they are told.
const CALM_MS = 80;

// How long a session may have another size before it is shown smaller: one that follows this window has it sooner.
const FOLLOW_MS = 300;

// The least a shell can be used with.
const COLS_MIN = 2;

/** One terminal in one element. */
export class Pane {
  readonly terminal: Terminal;
  readonly #host = document.createElement("div");
  readonly #fitted: (size: Size) => void;
  #fontPx: number;
  // A cell at the font size that was chosen.
  #cell = { width: 0, height: 0 };
  #own: Size = { cols: 80, rows: 24 };
  #calm: ReturnType<typeof setTimeout> | undefined;
  #follow: ReturnType<typeof setTimeout> | undefined;
  #slow: (() => void) | undefined;

  /** `fitted` is called with the size that fits, whenever it changed. */
  constructor(stage: HTMLElement, theme: Theme, settings: Settings, fitted: (size: Size) => void) {
    this.#fitted = fitted;
    this.#fontPx = settings.fontSize;
    this.terminal = makeTerminal(this.#own, settings.fontSize);
    this.#host.className = "pane";
    stage.append(this.#host);
    this.terminal.open(this.#host);
    this.dress(theme, settings);
    this.#measure();
    this.terminal.resize(this.#own.cols, this.#own.rows);
    this.terminal.onResize(() => this.#settle());
    new ResizeObserver(() => this.#measure()).observe(this.#host);
    this.show();
  }

  /** The size that fits. */
  get own(): Size {
    return this.#own;
  }

  /** Shows the terminal. Browsers have few WebGL contexts, so only what is shown has one. */
  show(): void {
    this.#host.hidden = false;
    this.#slow ??= accelerate(this.terminal, () => this.#measure());
    this.#measure();
  }

  /** Hides it; it goes on taking output. */
  hide(): void {
    this.#host.hidden = true;
    this.#slow?.();
    this.#slow = undefined;
  }

  /** Takes another theme, and settings. */
  dress(theme: Theme, { fontSize, screenReader }: Settings): void {
    this.terminal.options.theme = theme.terminal;
    this.terminal.options.minimumContrastRatio = theme.contrast;
    this.terminal.options.screenReaderMode = screenReader;
    if (fontSize === this.#fontPx) return;
    this.#fontPx = fontSize;
    this.terminal.options.fontSize = fontSize;
    this.#measure();
  }

  /** Fits at once: what is around the pane changed. */
  fit(): void {
    this.#measure();
    clearTimeout(this.#calm);
    this.#fitted(this.#own);
  }

  /** Shows that the program wants to be looked at. */
  flash(): void {
    this.#host.classList.remove("bell");
    // A class that comes back at once starts no animation; one that comes back after a layout does.
    void this.#host.offsetWidth;
    this.#host.classList.add("bell");
  }

  /** Takes the terminal from the page. */
  close(): void {
    clearTimeout(this.#calm);
    clearTimeout(this.#follow);
    this.#slow?.();
    this.terminal.dispose();
    this.#host.remove();
  }

  #measure(): void {
    if (this.#host.hidden || this.#host.clientWidth === 0) return;
    if (this.terminal.options.fontSize === this.#fontPx) this.#cell = cellOf(this.terminal);
    const room = roomFor(this.terminal, this.#host);
    const cols = Math.min(CELLS_MAX, Math.max(COLS_MIN, Math.floor(room.width / this.#cell.width)));
    const rows = Math.min(CELLS_MAX, Math.max(1, Math.floor(room.height / this.#cell.height)));
    if (cols !== this.#own.cols || rows !== this.#own.rows) {
      this.#own = { cols, rows };
      clearTimeout(this.#calm);
      this.#calm = setTimeout(() => this.#fitted(this.#own), CALM_MS);
    }
    this.#settle();
  }

  // The chosen font while the session has this window's size; else, after a moment, one with which all of it is seen.
  #settle(): void {
    clearTimeout(this.#follow);
    const { cols, rows } = this.terminal;
    if (cols !== this.#own.cols || rows !== this.#own.rows) this.#follow = setTimeout(() => this.#scale(), FOLLOW_MS);
    else this.#scale();
  }

  #scale(): void {
    const { terminal } = this;
    const room = roomFor(terminal, this.#host);
    const foreign = terminal.cols !== this.#own.cols || terminal.rows !== this.#own.rows;
    this.#host.classList.toggle("foreign", foreign);
    this.#host.classList.remove("vast");
    if (foreign) shrinkToFit(terminal, room, this.#cell, this.#fontPx);
    else terminal.options.fontSize = this.#fontPx;
    this.#host.classList.toggle("vast", foreign && !fits(terminal, room));
  }
}
