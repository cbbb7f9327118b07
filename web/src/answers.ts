// Tells what a terminal says of itself from what a person types: both come out of it the same way. Knows no session.
//
// The terminal answers a question while it parses it. So whatever it says between a question's handler, called first, and
// the end of that task is an answer: keys are tasks of their own.

import type { Terminal } from "@xterm/xterm";

// The questions that xterm.js answers: device attributes, status reports, modes, windows; colours; settings.
const CSI = [
  { final: "c" },
  { prefix: ">", final: "c" },
  { final: "n" },
  { prefix: "?", final: "n" },
  { intermediates: "$", final: "p" },
  { prefix: "?", intermediates: "$", final: "p" },
  { final: "t" },
];
const OSC = [4, 10, 11, 12];
const DCS = [{ intermediates: "$", final: "q" }];

// Whether the window has the focus, and where the mouse hovers without a button held: nobody typed it, and looking isn't leading.
const FOCUS = /^\x1b\[[IO]$/;
const HOVER = /^\x1b\[<(\d+);\d+;\d+M$/;

// Of a mouse report's first number, the bits for motion and for no button.
const HOVER_BITS = 0b10_0011;

/** Makes a test for what a terminal says: whether it is an answer. */
export function answersOf(terminal: Pick<Terminal, "parser">): (data: string) => boolean {
  let asked = false;
  const ask = () => {
    if (!asked) queueMicrotask(() => (asked = false));
    asked = true;
    return false;
  };
  for (const id of CSI) terminal.parser.registerCsiHandler(id, ask);
  for (const id of OSC) terminal.parser.registerOscHandler(id, ask);
  for (const id of DCS) terminal.parser.registerDcsHandler(id, ask);
  return (data) => asked || isGlance(data);
}

/** Whether a terminal says only that someone looks. */
export function isGlance(data: string): boolean {
  const button = HOVER.exec(data)?.[1];
  return FOCUS.test(data) || (button !== undefined && (Number(button) & HOVER_BITS) === HOVER_BITS);
}
