// What the status line says of a link and the hold that is shown. Pure.

import { spanText } from "./amounts";
import type { HoldState } from "./hold";
import type { LinkState, Rest } from "./link";
import type { Saying } from "./status";

/** Puts it into words; `waiting` counts bytes typed that haven't arrived. */
export function sayingOf(link: LinkState, hold: HoldState | undefined, waiting: number, rest: Rest): Saying {
  const kept = waiting > 0 ? " · what you type is kept" : "";
  switch (link.kind) {
    case "locked":
      return { kind: "fine" };
    case "connecting":
      return { kind: "coming", text: `connecting…${kept}` };
    case "waiting":
      return { kind: "waiting", text: `${link.reason}${kept} · reconnecting`, untilMs: link.untilMs, button: "Try now" };
    case "halted":
      return { kind: "halted", text: link.reason, button: "Enter tries again" };
    case "online":
      return held(hold, rest);
  }
}

function held(hold: HoldState | undefined, rest: Rest): Saying {
  switch (hold?.kind) {
    case undefined:
      return { kind: "fine" };
    case "there":
      return rest.kind === "frozen" ? { kind: "fine", text: "frozen, since nothing happened · a key has it go on" } : { kind: "fine" };
    case "coming":
      return { kind: "coming", text: "attaching…" };
    case "ended":
      return { kind: "halted", text: endOf(hold.reason, rest), button: "Enter starts anew" };
    case "refused":
      return { kind: "halted", text: hold.reason, button: "Enter tries again" };
  }
}

// A session of a cell that was stopped was killed: that alone would tell nobody why.
function endOf(reason: string, rest: Rest): string {
  return rest.kind === "stopped" ? `the project was stopped: nothing happened in it for ${spanText(rest.idleS)}` : reason;
}
