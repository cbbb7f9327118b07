// Tells a terminal's own answers from what a person types. Knows no link.
//
// On attach the recent output is shown once more, with the questions that programs asked in it long ago ("which terminal are
// you?"). The terminal answers them again, and the answers would land as rubbish at the shell's prompt: they are held back.

// Device attributes, status and cursor reports, mode and window reports, focus reports; colour reports (OSC) and settings (DCS).
const ANSWER = /^\x1b(?:\[[?>=]?[\d;]*\$?[cnRtyIO]|\][\d;]+[^\x07\x1b]*(?:\x07|\x1b\\)|P[^\x1b]*\x1b\\)$/;

/** Whether the terminal says this by itself. */
export function isAnswer(data: string): boolean {
  return ANSWER.test(data);
}
