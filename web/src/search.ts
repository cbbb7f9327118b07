// The search in what the terminal shows and has shown. Knows no session.

import type { SearchAddon } from "@xterm/addon-search";
import type { Terminal } from "@xterm/xterm";

import type { Look } from "./look";

// All that is found is marked, and where one is has a frame: text must stay legible on either ground.
const RULERS = { matchOverviewRuler: "#b58900", activeMatchColorOverviewRuler: "#e2b679" };
const MARKS_DARK = { ...RULERS, matchBackground: "#5c4a14", activeMatchBackground: "#8a4b12", activeMatchBorder: "#e2b679" };
const MARKS_LIGHT = { ...RULERS, matchBackground: "#ffe9a8", activeMatchBackground: "#ffc46b", activeMatchBorder: "#96600f" };

/** The search form, over whichever terminal is shown. */
export class Search {
  readonly #form: HTMLFormElement;
  readonly #input: HTMLInputElement;
  readonly #count: HTMLElement;
  readonly #look: Look;
  readonly #closed: () => void;
  readonly #addons = new WeakMap<Terminal, SearchAddon>();
  #terminal: Terminal | undefined;
  #asked = 0;

  /** `closed` is called when the search is over. */
  constructor(form: HTMLFormElement, look: Look, closed: () => void) {
    this.#form = form;
    this.#input = form.querySelector("input[type=search]")!;
    this.#count = form.querySelector(".count")!;
    this.#look = look;
    this.#closed = closed;
    form.onsubmit = (event) => {
      event.preventDefault();
      void this.#find((event.submitter as HTMLButtonElement | null)?.value === "next" ? "next" : "previous");
    };
    form.oninput = () => void this.#find("here");
    form.onkeydown = (event) => {
      if (event.key === "Escape") this.close();
      else if (event.key === "Enter" && event.target === this.#input) void this.#find(event.shiftKey ? "next" : "previous");
      else return;
      event.preventDefault();
    };
    form.querySelector<HTMLButtonElement>(".close")!.onclick = () => this.close();
  }

  /** Searches a terminal; what is selected there is searched for. */
  open(terminal: Terminal): void {
    this.#clear();
    this.#terminal = terminal;
    this.#form.hidden = false;
    const selected = terminal.getSelection();
    if (selected !== "" && !selected.includes("\n")) this.#input.value = selected;
    this.#input.select();
    this.#input.focus();
    void this.#find("here");
  }

  /** Ends the search, and the marks with it. */
  close(): void {
    if (this.#form.hidden) return;
    this.#clear();
    this.#form.hidden = true;
    this.#terminal = undefined;
    this.#closed();
  }

  // Upwards first: what one looks for was before what one sees. What was asked for while the addon was loading is asked for
  // once, by the last: the addon takes the same again for a wish to go on.
  async #find(where: "here" | "next" | "previous"): Promise<void> {
    const terminal = this.#terminal;
    if (terminal === undefined) return;
    const asked = ++this.#asked;
    const addon = await this.#addon(terminal);
    if (asked !== this.#asked || terminal !== this.#terminal) return;
    if (this.#input.value === "") {
      this.#clear();
      return;
    }
    const options = {
      caseSensitive: this.#checked("case"),
      regex: this.#checked("regex") && isPattern(this.#input.value),
      incremental: where === "here",
      decorations: this.#look.theme.light ? MARKS_LIGHT : MARKS_DARK,
    };
    if (where === "next") addon.findNext(this.#input.value, options);
    else addon.findPrevious(this.#input.value, options);
  }

  // Few search, so what searches is loaded when someone does.
  async #addon(terminal: Terminal): Promise<SearchAddon> {
    const { SearchAddon } = await import("@xterm/addon-search");
    const known = this.#addons.get(terminal);
    if (known !== undefined) return known;
    const addon = new SearchAddon();
    terminal.loadAddon(addon);
    this.#addons.set(terminal, addon);
    addon.onDidChangeResults(({ resultIndex, resultCount }) => {
      if (terminal !== this.#terminal || this.#input.value === "") return;
      if (resultCount === 0) this.#count.textContent = "nothing";
      else this.#count.textContent = resultIndex < 0 ? `${resultCount}` : `${resultIndex + 1} of ${resultCount}`;
    });
    return addon;
  }

  #checked(name: string): boolean {
    return this.#form.querySelector<HTMLInputElement>(`input[name=${name}]`)!.checked;
  }

  #clear(): void {
    this.#count.textContent = "";
    const terminal = this.#terminal;
    if (terminal === undefined) return;
    this.#addons.get(terminal)?.clearDecorations();
    terminal.clearSelection();
  }
}

function isPattern(text: string): boolean {
  try {
    new RegExp(text);
    return true;
  } catch {
    return false;
  }
}
