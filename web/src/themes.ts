// How the terminal looks, and the page around it: a few themes, each one list of colours. Knows no setting.

import type { ITheme } from "@xterm/xterm";

/** Monospace fonts people have, best first. */
export const FONTS = [
  '"JetBrains Mono"',
  '"Cascadia Mono"',
  '"SF Mono"',
  "Menlo",
  "Consolas",
  '"DejaVu Sans Mono"',
  '"Liberation Mono"',
  "monospace",
].join(", ");

/** A theme: the terminal's colours, and those of what lies around it. */
export interface Theme {
  readonly name: string;
  readonly light: boolean;
  /** Programs' colours are made to differ from their ground by this much at least (WCAG's ratio); 1 leaves them. */
  readonly contrast: number;
  readonly terminal: ITheme;
  readonly page: {
    readonly raised: string;
    readonly line: string;
    readonly quiet: string;
    readonly accent: string;
    readonly bad: string;
  };
}

// The terminal's own slider, over a dark ground and over a light one.
const SLIDER_DARK = { scrollbarSliderBackground: "#ffffff14", scrollbarSliderHoverBackground: "#ffffff29", scrollbarSliderActiveBackground: "#ffffff3d" };
const SLIDER_LIGHT = { scrollbarSliderBackground: "#0000001a", scrollbarSliderHoverBackground: "#00000033", scrollbarSliderActiveBackground: "#0000004d" };

const DARK: Theme = {
  name: "Dark",
  light: false,
  contrast: 1,
  page: { raised: "#1a2027", line: "#2c353f", quiet: "#8e99a5", accent: "#e2b679", bad: "#e27d7d" },
  terminal: {
    ...SLIDER_DARK,
    background: "#11151a",
    foreground: "#d3d8de",
    cursor: "#e2b679",
    cursorAccent: "#11151a",
    selectionBackground: "#35475c",
    selectionInactiveBackground: "#2a3542",
    black: "#1f262e",
    red: "#e27d7d",
    green: "#9dc08b",
    yellow: "#deb87a",
    blue: "#85a9d9",
    magenta: "#c092d0",
    cyan: "#7fc0bd",
    white: "#c7ccd2",
    brightBlack: "#75808d",
    brightRed: "#f09c97",
    brightGreen: "#b5d6a4",
    brightYellow: "#efcf98",
    brightBlue: "#a5c4ea",
    brightMagenta: "#d6b7e3",
    brightCyan: "#9cd7d4",
    brightWhite: "#f3f5f7",
  },
};

const LIGHT: Theme = {
  name: "Light",
  light: true,
  contrast: 4.5,
  page: { raised: "#ffffff", line: "#d5dae0", quiet: "#5c6670", accent: "#96600f", bad: "#b3372f" },
  terminal: {
    ...SLIDER_LIGHT,
    background: "#f8f9fa",
    foreground: "#24292f",
    cursor: "#96600f",
    cursorAccent: "#f8f9fa",
    selectionBackground: "#bfd9f5",
    selectionInactiveBackground: "#dfe6ee",
    black: "#24292f",
    red: "#b3372f",
    green: "#2f7a3a",
    yellow: "#8a5a00",
    blue: "#2860b0",
    magenta: "#8a3fa0",
    cyan: "#14757a",
    white: "#6e7781",
    brightBlack: "#57606a",
    brightRed: "#cf4a40",
    brightGreen: "#3a9348",
    brightYellow: "#a86f08",
    brightBlue: "#3a78d0",
    brightMagenta: "#a455bd",
    brightCyan: "#1b8c92",
    brightWhite: "#8c959f",
  },
};

const SOLARIZED_DARK: Theme = {
  name: "Solarized dark",
  light: false,
  contrast: 1,
  page: { raised: "#073642", line: "#17505c", quiet: "#93a1a1", accent: "#b58900", bad: "#dc322f" },
  terminal: {
    ...SLIDER_DARK,
    background: "#002b36",
    foreground: "#93a1a1",
    cursor: "#b58900",
    cursorAccent: "#002b36",
    selectionBackground: "#0f4a58",
    selectionInactiveBackground: "#0b3d4a",
    black: "#073642",
    red: "#dc322f",
    green: "#859900",
    yellow: "#b58900",
    blue: "#268bd2",
    magenta: "#d33682",
    cyan: "#2aa198",
    white: "#eee8d5",
    brightBlack: "#586e75",
    brightRed: "#cb4b16",
    brightGreen: "#9eb313",
    brightYellow: "#cfa31e",
    brightBlue: "#4ba5e4",
    brightMagenta: "#8a8fd8",
    brightCyan: "#4fbcb3",
    brightWhite: "#fdf6e3",
  },
};

const SOLARIZED_LIGHT: Theme = {
  name: "Solarized light",
  light: true,
  contrast: 3,
  page: { raised: "#eee8d5", line: "#d9d2bd", quiet: "#586e75", accent: "#8f6b00", bad: "#c42a27" },
  terminal: {
    ...SLIDER_LIGHT,
    background: "#fdf6e3",
    foreground: "#586e75",
    cursor: "#8f6b00",
    cursorAccent: "#fdf6e3",
    selectionBackground: "#dfd8c3",
    selectionInactiveBackground: "#ece5d1",
    black: "#073642",
    red: "#c42a27",
    green: "#6b7b00",
    yellow: "#8f6b00",
    blue: "#1f76b4",
    magenta: "#c02a73",
    cyan: "#1f877f",
    white: "#93a1a1",
    brightBlack: "#586e75",
    brightRed: "#b84213",
    brightGreen: "#7f9200",
    brightYellow: "#a87e00",
    brightBlue: "#268bd2",
    brightMagenta: "#5d62b5",
    brightCyan: "#2aa198",
    brightWhite: "#657b83",
  },
};

const CONTRAST: Theme = {
  name: "High contrast",
  light: false,
  contrast: 7,
  page: { raised: "#101010", line: "#6b6b6b", quiet: "#d0d0d0", accent: "#ffd54a", bad: "#ff8a80" },
  terminal: {
    ...SLIDER_DARK,
    background: "#000000",
    foreground: "#ffffff",
    cursor: "#ffd54a",
    cursorAccent: "#000000",
    selectionBackground: "#264f9e",
    selectionInactiveBackground: "#1b3566",
    black: "#000000",
    red: "#ff6e67",
    green: "#5ff967",
    yellow: "#fefb67",
    blue: "#7fb2ff",
    magenta: "#ff8cff",
    cyan: "#60fdff",
    white: "#e6e6e6",
    brightBlack: "#8a8a8a",
    brightRed: "#ff8f88",
    brightGreen: "#8dff93",
    brightYellow: "#ffff95",
    brightBlue: "#a9ccff",
    brightMagenta: "#ffb0ff",
    brightCyan: "#9bfeff",
    brightWhite: "#ffffff",
  },
};

/** The themes by their keys, in the order in which they are offered. */
export const THEMES = {
  dark: DARK,
  light: LIGHT,
  "solarized-dark": SOLARIZED_DARK,
  "solarized-light": SOLARIZED_LIGHT,
  contrast: CONTRAST,
} as const satisfies Record<string, Theme>;

/** A theme's key, or the choice to follow the system. */
export type ThemeKey = keyof typeof THEMES | "system";

/** The theme that a choice means just now. */
export function themeFor(key: ThemeKey, systemIsLight: boolean): Theme {
  if (key === "system") return systemIsLight ? LIGHT : DARK;
  return THEMES[key];
}
