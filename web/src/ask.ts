// The form that asks for the owner's token. Knows not what it opens.

/** A form that is there only while a token is missing. */
export class Ask {
  readonly #form: HTMLFormElement;
  readonly #input: HTMLInputElement;
  readonly #reason: HTMLElement;

  /** `given` is called with what was typed. */
  constructor(form: HTMLFormElement, given: (token: string) => void) {
    this.#form = form;
    this.#input = form.querySelector<HTMLInputElement>("#token")!;
    this.#reason = form.querySelector(".reason")!;
    form.onsubmit = (event) => {
      event.preventDefault();
      const token = this.#input.value.trim();
      if (token !== "") given(token);
    };
  }

  /** Asks, and says whether the last token was refused. */
  open(refused: boolean): void {
    this.#reason.hidden = !refused;
    this.#input.value = "";
    this.#form.hidden = false;
    this.#input.focus();
  }

  /** Puts the form away. Says whether it was there. */
  close(): boolean {
    const open = !this.#form.hidden;
    this.#form.hidden = true;
    this.#input.value = "";
    return open;
  }
}
