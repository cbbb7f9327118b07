// The theme that is in force: chosen, or the system's; the page takes its colours from it. Knows no terminal.

import type { Choice } from "./settings";
import { themeFor, type Theme } from "./themes";

/** The page's look. */
export class Look {
  readonly #choice: Choice;
  readonly #light = matchMedia("(prefers-color-scheme: light)");

  /** `changed` is called when terminals must take another look. */
  constructor(choice: Choice, changed: () => void) {
    this.#choice = choice;
    const dress = () => {
      this.#paint();
      changed();
    };
    choice.follow(dress);
    this.#light.addEventListener("change", dress);
    this.#paint();
  }

  /** The theme in force. */
  get theme(): Theme {
    return themeFor(this.#choice.now.theme, this.#light.matches);
  }

  #paint(): void {
    const { terminal, page, light } = this.theme;
    const { style } = document.documentElement;
    const ground = terminal.background!;
    const colours = { ground, text: terminal.foreground!, ...page };
    for (const [name, colour] of Object.entries(colours)) style.setProperty(`--${name}`, colour);
    style.colorScheme = light ? "light" : "dark";
    document.querySelector<HTMLMetaElement>("meta[name=theme-color]")!.content = ground;
  }
}
