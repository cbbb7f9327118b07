// The corner with the menu's button, and who and what is worth a glance: company, a recorder, a slow link. Knows no session.

import { companyOf, type Company } from "./company";

// A lag that one feels while typing, in ms.
const SLOW_MS = 150;

/** The upper right corner. */
export class Corner {
  readonly #people: HTMLElement;
  readonly #lag: HTMLElement;
  readonly #recorded: HTMLElement;
  #lastMs = 0;

  constructor(corner: HTMLElement) {
    this.#people = corner.querySelector(".people")!;
    this.#lag = corner.querySelector(".lag")!;
    this.#recorded = corner.querySelector(".recorded")!;
  }

  /** Whether the session is being recorded. */
  recorded(is: boolean): void {
    this.#recorded.hidden = !is;
  }

  /** Shows who is there, if that is more than oneself. */
  people(company: Company | undefined, view: boolean): void {
    const shown = companyOf(company, view);
    this.#people.hidden = shown === "";
    if (this.#people.textContent !== shown) this.#people.textContent = shown;
  }

  /** How long a message took there and back: shown if that is felt, and was so the last time too, since one alone may have met a busy page. */
  lag(ms: number): void {
    const steadyMs = Math.min(ms, this.#lastMs);
    this.#lastMs = ms;
    this.#lag.hidden = steadyMs < SLOW_MS;
    this.#lag.textContent = `${Math.round(steadyMs)} ms`;
  }
}
