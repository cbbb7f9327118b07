// What the status line says of a link and the hold that is shown. Pure.

import type { HoldState } from "./hold";
import type { LinkState } from "./link";
import type { Saying } from "./status";

/** Puts it into words; `waiting` counts bytes typed that haven't arrived. */
export function sayingOf(link: LinkState, hold: HoldState | undefined, waiting: number): Saying {
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
      return held(hold);
  }
}

function held(hold: HoldState | undefined): Saying {
  switch (hold?.kind) {
    case undefined:
    case "there":
      return { kind: "fine" };
    case "coming":
      return { kind: "coming", text: "attaching…" };
    case "ended":
      return { kind: "halted", text: hold.reason, button: "Enter starts anew" };
    case "refused":
      return { kind: "halted", text: hold.reason, button: "Enter tries again" };
  }
}
