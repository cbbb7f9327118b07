// The page: a terminal that fills the window, joined to the session its address names. Each part is in a file of its own.

import "@xterm/xterm/css/xterm.css";
import "./style.css";

import { Ask } from "./ask";
import { obeyClipboard } from "./clipboard";
import { Link, type LinkState } from "./link";
import { Output } from "./output";
import { placeOf, type Place } from "./place";
import { isAnswer } from "./replay";
import { Sizes } from "./sizes";
import { Status } from "./status";
import { makeTerminal } from "./terminal";
import { forgetToken, keepToken, takeToken } from "./token";
import { oneLine, type Size } from "./wire";

function start(place: Place): void {
  let token = takeToken();
  const terminal = makeTerminal(part("terminal"));
  const sizes = new Sizes(place, () => (link.state.kind === "online" ? token : undefined));
  const status = new Status(part("status"), again);
  const ask = new Ask(part("ask") as HTMLFormElement, (given) => {
    keepToken((token = given));
    link.start(token);
  });
  const output = new Output(terminal, () => link.reattach());
  const link = new Link(place, {
    attached: () => output.attached(),
    output: (bytes) => output.write(bytes),
    size,
    state: (state) => show(state),
  });

  function show(state: LinkState): void {
    status.show(state);
    if (state.kind === "locked") {
      if (state.refused) forgetToken();
      ask.open(state.refused);
    } else {
      ask.close();
      terminal.focus();
    }
    // The window may have changed while the connection was being made.
    if (state.kind === "online") sizes.set(size());
  }

  function size(): Size {
    return { cols: terminal.cols, rows: terminal.rows };
  }

  function again(): boolean {
    terminal.focus();
    return link.again();
  }

  function type(bytes: Uint8Array<ArrayBuffer>): void {
    if (link.send(bytes)) return;
    status.refuse(link.state.kind === "online" ? "not sent: the program isn't reading" : "not sent: no connection");
  }

  terminal.onData((data) => {
    // Of several pages that show a session those out of sight leave the answer to the one in sight.
    if (isAnswer(data) && (output.replaying || document.hidden || link.state.kind !== "online")) return;
    if (data === "\r" && again()) return;
    type(new TextEncoder().encode(data));
  });
  terminal.onBinary((data) => type(Uint8Array.from(data, (char) => char.charCodeAt(0))));
  terminal.onResize(() => sizes.set(size()));
  terminal.onTitleChange((title) => setTitle(place, title));
  obeyClipboard(terminal, () => !output.replaying);

  // Clients share a session's size: it follows the window someone works in.
  addEventListener("focus", () => sizes.set(size()));
  addEventListener("online", () => link.now());
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && link.now());
  // An address with a token may be opened in a tab that shows this page already.
  addEventListener("hashchange", () => {
    const given = takeToken();
    if (given !== undefined && given !== token) link.start((token = given));
  });

  setTitle(place, "");
  link.start(token);
}

function setTitle(place: Place, title: string): void {
  const shown = place.session === "main" ? place.project : `${place.project}:${place.session}`;
  document.title = `${oneLine(title) || shown} · Cloister`;
}

function part(id: string): HTMLElement {
  return document.getElementById(id)!;
}

const place = placeOf(new URL(location.href));
if (place !== undefined) start(place);
else new Status(part("status"), () => undefined).stop("this address names no project or session: ids have a-z, 0-9 and dashes");
