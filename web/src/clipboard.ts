// Hears programs that want to set the clipboard (OSC 52), and never lets them read it. Knows no session.

import type { Terminal } from "@xterm/xterm";

// A page of text many times over; the terminal's own bound on a sequence is larger.
const TEXT_BYTES_MAX = 256 * 1024;

/** Calls `set` with the text that a program wants in the clipboard. */
export function obeyClipboard(terminal: Pick<Terminal, "parser">, set: (text: string) => void): void {
  terminal.parser.registerOscHandler(52, (data) => {
    const text = textOf(data);
    if (text !== undefined) set(text);
    return true;
  });
}

/** The text of `<selection>;<base64>`; a question mark asks for the clipboard, which is none of a program's business. */
export function textOf(data: string): string | undefined {
  const encoded = data.slice(data.indexOf(";") + 1);
  if (encoded === "?" || encoded.length > TEXT_BYTES_MAX) return undefined;
  try {
    return new TextDecoder().decode(Uint8Array.from(atob(encoded), (char) => char.charCodeAt(0)));
  } catch {
    return undefined;
  }
}
