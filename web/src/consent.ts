// Asks whether a session may set the clipboard, once for each while the page lives. Knows not what it sets it to for.

/** The question, and what was answered. */
export class Consent {
  readonly #box: HTMLElement;
  readonly #text: HTMLElement;
  readonly #answered: () => void;
  readonly #answers = new Map<string, boolean>();
  #asking: { readonly session: string; text: string } | undefined;

  /** `answered` is called when the question is gone. */
  constructor(box: HTMLElement, answered: () => void) {
    this.#box = box;
    this.#text = box.querySelector(".text")!;
    this.#answered = answered;
    box.querySelector<HTMLButtonElement>(".yes")!.onclick = () => this.#answer(true);
    box.querySelector<HTMLButtonElement>(".no")!.onclick = () => this.#answer(false);
    box.onkeydown = (event) => {
      if (event.key === "Escape") this.#answer(false);
    };
  }

  /** A session wants this text in the clipboard. */
  want(session: string, text: string): void {
    // Without the focus the browser refuses, and without a secure address there is none.
    if (navigator.clipboard === undefined || !document.hasFocus()) return;
    const answer = this.#answers.get(session);
    if (answer === true) return put(text);
    if (answer === false) return;
    // One question at a time; while it stands, its session's latest text counts.
    if (this.#asking !== undefined && this.#asking.session !== session) return;
    this.#asking = { session, text };
    this.#text.textContent = `Let programs in “${session}” set the clipboard?`;
    this.#box.hidden = false;
  }

  /** Takes the keyboard if there is a question. Says whether. */
  focus(): boolean {
    this.#box.querySelector<HTMLElement>(".yes")!.focus();
    return !this.#box.hidden;
  }

  #answer(yes: boolean): void {
    if (this.#asking === undefined) return;
    this.#answers.set(this.#asking.session, yes);
    if (yes) put(this.#asking.text);
    this.#asking = undefined;
    this.#box.hidden = true;
    this.#answered();
  }
}

function put(text: string): void {
  navigator.clipboard.writeText(text).catch(() => undefined);
}
