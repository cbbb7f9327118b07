// The row of keys that a touch screen's keyboard lacks. Knows no session.

import type { Terminal } from "@xterm/xterm";

const ARROWS: Readonly<Record<string, string>> = { up: "A", down: "B", right: "C", left: "D", home: "H", end: "F" };

/** The keys row, there on devices that are used with fingers. */
export class Touch {
  readonly #row: HTMLElement;
  readonly #terminal: () => Terminal | undefined;
  readonly #held = new Set<"ctrl" | "alt">();

  /** What is pressed is typed into the terminal that is shown. */
  constructor(row: HTMLElement, terminal: () => Terminal | undefined) {
    this.#row = row;
    this.#terminal = terminal;
    const coarse = matchMedia("(pointer: coarse)");
    const fit = () => (row.hidden = !coarse.matches);
    coarse.addEventListener("change", fit);
    fit();
    // Pressing must not take the focus from the terminal: the screen's keyboard would go away.
    row.onpointerdown = (event) => event.preventDefault();
    row.onclick = (event) => this.#press((event.target as HTMLElement).closest("button")?.dataset["key"]);
  }

  /** Applies the modifiers that are held to what is typed next, and lets go of them. */
  modified(data: string): string {
    if (this.#held.size === 0) return data;
    const [ctrl, alt] = [this.#held.has("ctrl"), this.#held.has("alt")];
    this.#held.clear();
    this.#draw();
    const code = ctrl ? controlled(data) : data;
    return alt ? `\x1b${code}` : code;
  }

  #press(key: string | undefined): void {
    const terminal = this.#terminal();
    if (key === undefined || terminal === undefined) return;
    if (key === "ctrl" || key === "alt") {
      if (!this.#held.delete(key)) this.#held.add(key);
      return this.#draw();
    }
    terminal.input(this.#codeOf(key, terminal));
    terminal.focus();
  }

  // Arrows take modifiers as a parameter (CSI 1;5A), so they are used up here.
  #codeOf(key: string, terminal: Terminal): string {
    const arrow = ARROWS[key];
    if (arrow === undefined) return { esc: "\x1b", tab: "\t" }[key] ?? key;
    const modifier = 1 + (this.#held.has("alt") ? 2 : 0) + (this.#held.has("ctrl") ? 4 : 0);
    this.#held.clear();
    this.#draw();
    if (modifier > 1) return `\x1b[1;${modifier}${arrow}`;
    return terminal.modes.applicationCursorKeysMode ? `\x1bO${arrow}` : `\x1b[${arrow}`;
  }

  #draw(): void {
    for (const key of ["ctrl", "alt"] as const) {
      this.#row.querySelector(`[data-key=${key}]`)?.setAttribute("aria-pressed", String(this.#held.has(key)));
    }
  }
}

/** What a character is with Ctrl held: `c` becomes ^C, a space NUL. */
export function controlled(data: string): string {
  if (data.length !== 1) return data;
  const code = data.toUpperCase().charCodeAt(0);
  if (data === " ") return "\x00";
  if (data === "?") return "\x7f";
  return code >= 0x40 && code <= 0x5f ? String.fromCharCode(code & 0x1f) : data;
}
