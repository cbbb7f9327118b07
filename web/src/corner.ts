// The corner with the menu's button, and who and what is worth a glance: company, a slow link. Knows no session.

import type { Company } from "./hold";

// A lag that one feels while typing, in ms.
const SLOW_MS = 150;

/** The upper right corner. */
export class Corner {
  readonly #people: HTMLElement;
  readonly #lag: HTMLElement;
  #lastMs = 0;

  constructor(corner: HTMLElement) {
    this.#people = corner.querySelector(".people")!;
    this.#lag = corner.querySelector(".lag")!;
  }

  /** Shows who is there, if that is more than oneself. */
  people(company: Company | undefined, view: boolean): void {
    const count = company?.clients.length ?? 1;
    const role = view ? "view only" : company?.leader === company?.you ? "you lead" : "you watch";
    const shown = count > 1 ? `${count} here · ${role}` : view ? role : "";
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

/** Who is there, one line each. */
export function peopleOf(company: Company | undefined): string[] {
  if (company === undefined) return [];
  return company.clients.map(({ id, role, cols, rows }) => {
    const marks = [id === company.you && "you", id === company.leader && "leads", role === "viewer" && "views"].filter(Boolean);
    const size = cols === undefined || rows === undefined ? "" : ` ${cols} × ${rows}`;
    return `Client ${id}${size}${marks.length > 0 ? ` (${marks.join(", ")})` : ""}`;
  });
}
