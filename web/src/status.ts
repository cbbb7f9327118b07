// The small line in the corner that says what the link does. Knows the link's states, not how they come about.

import type { LinkState } from "./link";

// A connection that opens at once needs no notice.
const NOTICE_MS = 400;

// How long a refused key shows.
const REFUSED_MS = 2000;

/** The status line: a text, a note about refused input, and one button. */
export class Status {
  readonly #box: HTMLElement;
  readonly #text: HTMLElement;
  readonly #note: HTMLElement;
  readonly #button: HTMLButtonElement;
  #noticeTimer: number | undefined;
  #noteTimer: number | undefined;

  /** `again` is called when the button is pressed. */
  constructor(box: HTMLElement, again: () => void) {
    this.#box = box;
    this.#text = box.querySelector(".text")!;
    this.#note = box.querySelector(".note")!;
    this.#button = box.querySelector("button")!;
    this.#button.onclick = again;
  }

  /** Shows a state; all being well, nothing. */
  show(state: LinkState): void {
    clearTimeout(this.#noticeTimer);
    this.#box.dataset["state"] = state.kind;
    switch (state.kind) {
      case "online":
      case "locked":
        this.refuse("");
        return this.#say("", "");
      case "connecting":
        // After a loss the line is there already and stays as it is.
        if (this.#box.hidden) this.#noticeTimer = setTimeout(() => this.#say("connecting…", ""), NOTICE_MS);
        return;
      case "waiting":
        return this.#say(`${state.reason} · reconnecting…`, "Try now");
      case "halted":
        return this.#say(state.reason, state.ended ? "Enter starts anew" : "Enter tries again");
    }
  }

  /** Says a message that stays: the page can do nothing more. */
  stop(message: string): void {
    this.#box.dataset["state"] = "halted";
    this.#say(message, "");
  }

  /** Something typed was not sent: says so for a moment. */
  refuse(note: string): void {
    this.#note.textContent = note;
    this.#update();
    clearTimeout(this.#noteTimer);
    if (note !== "") this.#noteTimer = setTimeout(() => this.refuse(""), REFUSED_MS);
  }

  #say(text: string, button: string): void {
    this.#text.textContent = text;
    this.#button.textContent = button;
    this.#button.hidden = button === "";
    this.#update();
  }

  #update(): void {
    this.#box.hidden = this.#text.textContent === "" && this.#note.textContent === "";
  }
}
