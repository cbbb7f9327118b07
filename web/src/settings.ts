// What a person set, remembered by the browser for all pages of this server. Knows not what it changes.

import { THEMES, type ThemeKey } from "./themes";

/** Everything that can be set. */
export interface Settings {
  readonly theme: ThemeKey;
  readonly fontSize: number;
  readonly copyOnSelect: boolean;
  readonly bellSound: boolean;
  readonly screenReader: boolean;
}

/** Font sizes in pixels: legible, and still a terminal. */
export const FONT_PX_MIN = 8;
export const FONT_PX_MAX = 32;

const KEY = "cloister.settings";

const DEFAULTS: Settings = { theme: "system", fontSize: 14, copyOnSelect: false, bellSound: false, screenReader: false };

/** The settings and who follows them. */
export class Choice {
  #now = read(stored());
  readonly #followers: (() => void)[] = [];

  constructor() {
    // Another page of the same browser changed something.
    addEventListener("storage", (event) => {
      if (event.key === KEY) this.#become(read(event.newValue));
    });
  }

  /** What is set. */
  get now(): Settings {
    return this.#now;
  }

  /** Calls `changed` whenever something is set. */
  follow(changed: () => void): void {
    this.#followers.push(changed);
  }

  /** Sets something. */
  set(change: Partial<Settings>): void {
    const next = read(JSON.stringify({ ...this.#now, ...change }));
    try {
      localStorage.setItem(KEY, JSON.stringify(next));
    } catch {
      // Storage may be forbidden; then it is set for this page.
    }
    this.#become(next);
  }

  /** Makes the font larger or smaller; 0 sets it back. */
  zoom(steps: number): void {
    this.set({ fontSize: steps === 0 ? DEFAULTS.fontSize : this.#now.fontSize + steps });
  }

  #become(next: Settings): void {
    this.#now = next;
    for (const changed of this.#followers) changed();
  }
}

/** Reads what was stored, by whatever version: what makes no sense is as if it had never been set. */
export function read(text: string | null): Settings {
  const given = parse(text);
  const { theme, fontSize, copyOnSelect, bellSound, screenReader } = given as Partial<Record<keyof Settings, unknown>>;
  return {
    theme: theme === "system" || (typeof theme === "string" && Object.hasOwn(THEMES, theme)) ? (theme as ThemeKey) : DEFAULTS.theme,
    fontSize: typeof fontSize === "number" && Number.isFinite(fontSize) ? Math.min(FONT_PX_MAX, Math.max(FONT_PX_MIN, fontSize)) : DEFAULTS.fontSize,
    copyOnSelect: copyOnSelect === true,
    bellSound: bellSound === true,
    screenReader: screenReader === true,
  };
}

function parse(text: string | null): object {
  try {
    const value: unknown = JSON.parse(text ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}

function stored(): string | null {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}
