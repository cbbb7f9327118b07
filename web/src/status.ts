// The small line in the corner that says what isn't as it should be. Knows not how that came about.

/** What the line says; `untilMs` counts down to a next attempt. */
export interface Saying {
  readonly kind: "fine" | "coming" | "waiting" | "halted";
  readonly text?: string;
  readonly untilMs?: number;
  readonly button?: string;
}

// What is over at once needs no notice.
const NOTICE_MS = 400;

// How long a remark shows.
const REMARK_MS = 4000;

/** The status line: a text, a remark, and one button. */
export class Status {
  readonly #box: HTMLElement;
  readonly #text: HTMLElement;
  readonly #count: HTMLElement;
  readonly #remark: HTMLElement;
  readonly #button: HTMLButtonElement;
  #noticeTimer: ReturnType<typeof setTimeout> | undefined;
  #remarkTimer: ReturnType<typeof setTimeout> | undefined;
  #countTimer: ReturnType<typeof setInterval> | undefined;
  #last = "";

  /** `again` is called when the button is pressed. */
  constructor(box: HTMLElement, again: () => void) {
    this.#box = box;
    this.#text = box.querySelector(".text")!;
    this.#count = box.querySelector(".count")!;
    this.#remark = box.querySelector(".remark")!;
    this.#button = box.querySelector("button")!;
    this.#button.onclick = again;
  }

  /** Shows how things are; all being well, nothing. */
  say(saying: Saying): void {
    // Said again it changes nothing, least of all a notice that is about to come.
    const key = JSON.stringify(saying);
    if (key === this.#last) return;
    this.#last = key;
    clearTimeout(this.#noticeTimer);
    clearInterval(this.#countTimer);
    this.#box.dataset["state"] = saying.kind;
    // After a loss the line is there already and stays as it is for the moment that an attempt takes.
    if (saying.kind === "coming") this.#noticeTimer = setTimeout(() => this.#put(saying), NOTICE_MS);
    else this.#put(saying);
  }

  /** Says something for a moment. */
  remark(text: string): void {
    clearTimeout(this.#remarkTimer);
    this.#remark.textContent = text;
    this.#update();
    if (text !== "") this.#remarkTimer = setTimeout(() => this.remark(""), REMARK_MS);
  }

  /** Takes the keyboard if there is a button. Says whether. */
  focus(): boolean {
    this.#button.focus();
    return !this.#box.hidden && !this.#button.hidden;
  }

  #put(saying: Saying): void {
    this.#text.textContent = saying.text ?? "";
    this.#button.textContent = saying.button ?? "";
    this.#button.hidden = saying.button === undefined;
    this.#countDown(saying.untilMs);
    if (saying.untilMs !== undefined) this.#countTimer = setInterval(() => this.#countDown(saying.untilMs), 250);
    this.#update();
  }

  #countDown(untilMs: number | undefined): void {
    const left = untilMs === undefined ? "" : `in ${Math.max(0, Math.ceil((untilMs - performance.now()) / 1000))} s`;
    if (this.#count.textContent !== left) this.#count.textContent = left;
  }

  #update(): void {
    this.#box.hidden = this.#text.textContent === "" && this.#remark.textContent === "";
  }
}
