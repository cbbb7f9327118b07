// Makes terminals: xterm.js with its addons. Knows neither session nor place on the page.

import { UnicodeGraphemesAddon } from "@xterm/addon-unicode-graphemes";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal, type ITerminalOptions } from "@xterm/xterm";

import { FONTS } from "./themes";
import type { Size } from "./wire";

// Lines one can scroll back to: some 15 MB at 120 columns.
const SCROLLBACK_LINES = 10_000;

/** A terminal that isn't on the page yet. */
export function makeTerminal(size: Size, fontSize: number): Terminal {
  const terminal = make(size, fontSize, { cursorBlink: true, cursorInactiveStyle: "outline", macOptionIsMeta: true });
  terminal.loadAddon(new WebLinksAddon((_event, uri) => window.open(uri, "_blank", "noopener,noreferrer")));
  return terminal;
}

/** One that only shows: nobody types into it, its links open nothing, and what it would answer goes nowhere. */
export function makeScreen(size: Size, fontSize: number): Terminal {
  // As if it had the keyboard, as the one that is shown had.
  const terminal = make(size, fontSize, { cursorInactiveStyle: "block", disableStdin: true, linkHandler: { activate: () => undefined } });
  terminal.attachCustomKeyEventHandler(() => false);
  return terminal;
}

function make(size: Size, fontSize: number, more: ITerminalOptions): Terminal {
  const options = { allowProposedApi: true, fontFamily: FONTS, fontSize, lineHeight: 1.2, scrollback: SCROLLBACK_LINES };
  const terminal = new Terminal({ ...size, ...options, ...more });
  terminal.loadAddon(new UnicodeGraphemesAddon());
  return terminal;
}

/** Draws a terminal with WebGL where there is any; the DOM renderer stays otherwise and when the context is lost. The answer ends it. */
export function accelerate(terminal: Terminal, changed: () => void): () => void {
  let over = false;
  let addon: { dispose(): void } | undefined;
  void import("@xterm/addon-webgl").then(({ WebglAddon }) => {
    if (over) return;
    try {
      const webgl = new WebglAddon();
      webgl.onContextLoss(() => {
        webgl.dispose();
        addon = undefined;
        changed();
      });
      terminal.loadAddon(webgl);
      addon = webgl;
      changed();
    } catch {
      // No WebGL here: slower, and otherwise the same.
    }
  }, () => undefined);
  return () => {
    over = true;
    addon?.dispose();
  };
}
