// How the terminal looks: quiet, dark, and legible. The page's own colours in style.css go with these.

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

/** The sixteen colours and the terminal's own. */
export const THEME: ITheme = {
  background: "#11151a",
  foreground: "#d3d8de",
  cursor: "#e2b679",
  cursorAccent: "#11151a",
  selectionBackground: "#35475c",
  selectionInactiveBackground: "#2a3542",
  scrollbarSliderBackground: "#ffffff14",
  scrollbarSliderHoverBackground: "#ffffff29",
  scrollbarSliderActiveBackground: "#ffffff3d",
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
};
