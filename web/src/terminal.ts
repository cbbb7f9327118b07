// Makes the terminal: xterm.js with its addons, filling its host element. Knows no session.

import { FitAddon } from "@xterm/addon-fit";
import { UnicodeGraphemesAddon } from "@xterm/addon-unicode-graphemes";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal } from "@xterm/xterm";

import { FONTS, THEME } from "./theme";

// Lines one can scroll back to: some 15 MB at 120 columns.
const SCROLLBACK_LINES = 10_000;

/** A terminal that fits its host, now and whenever the host's size changes. */
export function makeTerminal(host: HTMLElement): Terminal {
  const terminal = new Terminal({
    allowProposedApi: true,
    cursorBlink: true,
    cursorInactiveStyle: "outline",
    fontFamily: FONTS,
    fontSize: 14,
    lineHeight: 1.2,
    macOptionIsMeta: true,
    scrollback: SCROLLBACK_LINES,
    theme: THEME,
  });
  terminal.loadAddon(new UnicodeGraphemesAddon());
  terminal.loadAddon(new WebLinksAddon((_event, uri) => window.open(uri, "_blank", "noopener,noreferrer")));
  terminal.attachCustomKeyEventHandler((event) => !copies(event, terminal));
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  terminal.open(host);
  fit.fit();
  new ResizeObserver(() => fit.fit()).observe(host);
  // Renderers round the size of a cell differently.
  void accelerate(terminal, () => fit.fit());
  return terminal;
}

// Ctrl+Shift+C copies, as in every terminal: Ctrl+C alone is the program's.
function copies(event: KeyboardEvent, terminal: Terminal): boolean {
  const asked = event.type === "keydown" && event.ctrlKey && event.shiftKey && event.code === "KeyC";
  if (!asked || !terminal.hasSelection()) return false;
  event.preventDefault();
  void navigator.clipboard?.writeText(terminal.getSelection());
  return true;
}

// Draws with WebGL where there is any; the DOM renderer, which was here first, stays otherwise and when the context is lost.
async function accelerate(terminal: Terminal, changed: () => void): Promise<void> {
  try {
    const { WebglAddon } = await import("@xterm/addon-webgl");
    const addon = new WebglAddon();
    addon.onContextLoss(() => {
      addon.dispose();
      changed();
    });
    terminal.loadAddon(addon);
    changed();
  } catch {
    // No WebGL here: slower, and otherwise the same.
  }
}
