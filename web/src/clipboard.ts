// Lets programs put text into the clipboard (OSC 52), never read it. Knows no session.

import type { Terminal } from "@xterm/xterm";

// A page of text many times over; the terminal's own bound on a sequence is larger.
const TEXT_BYTES_MAX = 256 * 1024;

/** Obeys OSC 52 while this page has the focus and `allowed` says so. */
export function obeyClipboard(terminal: Terminal, allowed: () => boolean): void {
  terminal.parser.registerOscHandler(52, (data) => {
    const text = textOf(data);
    if (text !== undefined && allowed() && document.hasFocus()) navigator.clipboard?.writeText(text).catch(() => undefined);
    return true;
  });
}

// `<selection>;<base64>`; a question mark asks for the clipboard, which is none of a program's business.
function textOf(data: string): string | undefined {
  const encoded = data.slice(data.indexOf(";") + 1);
  if (encoded === "?" || encoded.length > TEXT_BYTES_MAX) return undefined;
  try {
    return new TextDecoder().decode(Uint8Array.from(atob(encoded), (char) => char.charCodeAt(0)));
  } catch {
    return undefined;
  }
}
