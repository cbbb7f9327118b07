// The menu: settings, what a mouse needs that has no keys, and what there is to know. Knows no session.

import { FONT_PX_MAX, FONT_PX_MIN, type Choice, type Settings } from "./settings";
import { SHORTCUTS } from "./shortcuts";
import { THEMES, type ThemeKey } from "./themes";

/** What the menu does besides settings, and what it tells. */
export interface MenuEvents {
  add(): void;
  search(): void;
  recordings(): void;
  /** Records the session that is shown, or ends that. */
  record(): void;
  /** The menu is gone. */
  closed(): void;
  /** Who is there, and how the link is: a line each; and whether the session is recorded. */
  facts(): { readonly people: readonly string[]; readonly link: string; readonly recorded: boolean };
}

/** The menu behind the corner's button. */
export class Menu {
  readonly #box: HTMLElement;
  readonly #choice: Choice;
  readonly #events: MenuEvents;

  constructor(box: HTMLElement, choice: Choice, view: boolean, events: MenuEvents) {
    this.#box = box;
    this.#choice = choice;
    this.#events = events;
    const theme = this.#field<HTMLSelectElement>("theme");
    theme.append(new Option("System", "system"), ...Object.entries(THEMES).map(([key, { name }]) => new Option(name, key)));
    theme.onchange = () => choice.set({ theme: theme.value as ThemeKey });
    const font = this.#field<HTMLInputElement>("fontSize");
    [font.min, font.max] = [String(FONT_PX_MIN), String(FONT_PX_MAX)];
    font.onchange = () => choice.set({ fontSize: Number(font.value) });
    this.#toggle("copyOnSelect");
    this.#toggle("bellSound");
    this.#toggle("screenReader");
    this.#button("add", events.add).hidden = view;
    this.#button("search", events.search);
    this.#button("recordings", events.recordings);
    this.#button("record", events.record).hidden = view;
    box.querySelector(".shortcuts")!.replaceChildren(...SHORTCUTS.flatMap(([keys, what]) => [line("dt", keys), line("dd", what)]));
    box.addEventListener("toggle", () => (this.open ? this.#opened() : events.closed()));
    choice.follow(() => this.#draw());
    this.#draw();
  }

  /** Whether it is there. */
  get open(): boolean {
    return this.#box.matches(":popover-open");
  }

  /** Opens or closes it. */
  toggle(): void {
    this.#box.togglePopover();
  }

  /** Draws anew what it tells. */
  tell(): void {
    if (!this.open) return;
    const { people, link, recorded } = this.#events.facts();
    this.#box.querySelector(".record")!.textContent = recorded ? "Stop recording" : "Start recording";
    this.#box.querySelector(".people")!.replaceChildren(...people.map((text) => line("li", text)));
    this.#box.querySelector(".link")!.textContent = link;
  }

  #opened(): void {
    this.tell();
    this.#box.querySelector<HTMLElement>("button:not([hidden])")!.focus();
  }

  #draw(): void {
    const { theme, fontSize, copyOnSelect, bellSound, screenReader } = this.#choice.now;
    this.#field<HTMLSelectElement>("theme").value = theme;
    this.#field<HTMLInputElement>("fontSize").value = String(fontSize);
    this.#field<HTMLInputElement>("copyOnSelect").checked = copyOnSelect;
    this.#field<HTMLInputElement>("bellSound").checked = bellSound;
    this.#field<HTMLInputElement>("screenReader").checked = screenReader;
  }

  #toggle(name: "copyOnSelect" | "bellSound" | "screenReader"): void {
    const box = this.#field<HTMLInputElement>(name);
    box.onchange = () => this.#choice.set({ [name]: box.checked });
  }

  #button(name: string, pressed: () => void): HTMLButtonElement {
    const button = this.#box.querySelector<HTMLButtonElement>(`button.${name}`)!;
    button.onclick = () => {
      this.#box.hidePopover();
      pressed();
    };
    return button;
  }

  #field<Element extends HTMLElement>(name: keyof Settings): Element {
    return this.#box.querySelector<Element>(`[name=${name}]`)!;
  }
}

function line(name: string, text: string): HTMLElement {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
