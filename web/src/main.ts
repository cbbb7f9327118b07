// The page: a project's terminals, joined to the session its address names. Each part is in a file of its own.

import "@xterm/xterm/css/xterm.css";
import "./style.css";

import { bytesText } from "./amounts";
import { Ask } from "./ask";
import { Bar } from "./bar";
import { Bell } from "./bell";
import { peopleOf } from "./company";
import { confirmed } from "./confirm";
import { Consent } from "./consent";
import { Corner } from "./corner";
import { Labels } from "./labels";
import { Link, type LinkState, type Rest } from "./link";
import { Look } from "./look";
import { Menu } from "./menu";
import { addressFor, placeOf, SESSION_DEFAULT, type Place } from "./place";
import { Player } from "./player";
import { beganText, Recordings } from "./recordings";
import { Search } from "./search";
import { Choice } from "./settings";
import { Shelf } from "./shelf";
import { actionOf, type Action } from "./shortcuts";
import { sayingOf } from "./saying";
import { Status } from "./status";
import type { Tab } from "./tab";
import { Tabs } from "./tabs";
import { forgetToken, keepToken, takeToken } from "./token";
import { Touch } from "./touch";

function start(place: Place): void {
  let token = takeToken();
  let lagMs: number | undefined;
  let rest: Rest = { kind: "awake" };
  const choice = new Choice();
  const labels = new Labels();
  const look = new Look(choice, () => {
    tabs.all.forEach((tab) => tab.dress());
    player.dress();
  });
  const bell = new Bell();
  const status = new Status(part("status"), again);
  const corner = new Corner(part("corner"));
  const consent = new Consent(part("consent"), focus);
  const search = new Search(part("search"), look, focus);
  const touch = new Touch(part("keys"), () => tabs.shown?.pane?.terminal);
  const ask = new Ask(part("ask"), (given) => {
    keepToken((token = given));
    link.start(token);
  });
  const link = new Link(place, {
    state: linked,
    sessions: (names, all) => {
      labels.take(all);
      tabs.sync(names);
      recordings.stir();
    },
    outOfMemory: (limitBytes, victim) =>
      status.remark(`out of memory: ${victim ?? "a program"} was killed (limit ${bytesText(limitBytes)})`),
    outOfPids: (limit) => status.remark(`out of processes: no more than ${limit} at once, end some`),
    rest: (now) => {
      rest = now;
      review();
    },
    outOfDisk: (limitBytes) => status.remark(`out of disk: no more than ${bytesText(limitBytes)}, delete something`),
    lag: (ms) => {
      corner.lag((lagMs = ms));
      menu.tell();
    },
  });
  const tabs = new Tabs(
    {
      stage: part("stage"),
      link,
      role: place.view ? "viewer" : "writer",
      settings: () => choice.now,
      theme: () => look.theme,
      again: (tab) => {
        if (link.state.kind !== "halted") return tab.again();
        link.again();
        return true;
      },
      modified: (data) => touch.modified(data),
      changed: () => review(),
      state: (tab, state) => {
        if (state.kind === "ended" && state.well) tabs.remove(tab);
        // Another cell: how the last one ended is over.
        if (state.kind === "there" && rest.kind === "stopped") rest = { kind: "awake" };
        review();
      },
      rang: (tab) => bell.ring(tab === tabs.shown ? tab.pane : undefined, choice.now.bellSound),
      remark: (tab, text) => tab === tabs.shown && status.remark(text),
      clip: (tab, text) => tab === tabs.shown && consent.want(tab.session, text),
    },
    () => {
      search.close();
      if (tabs.shown !== undefined) history.replaceState(null, "", addressFor(new URL(location.href), tabs.shown.session));
      review();
    },
  );
  const recordings = new Recordings(place.project, () => token, () => {
    shelf.draw();
    review();
  });
  const player = new Player(part("player"), look, choice, () => undefined);
  const shelf = new Shelf(part("recordings"), recordings, place.view, {
    label: (session) => labels.of(session) ?? session,
    session: () => tabs.shown?.session,
    play: ({ name, session, recording }) => {
      const title = [labels.of(session) ?? session, beganText(name)].join(" · ");
      void player.open({ title, recording, read: (end) => recordings.read(name, end) });
    },
    confirmed: (question, verb) => confirmed(part("confirm"), question, verb),
    closed: focus,
  });
  const bar = new Bar(part("bar"), tabs, labels, recordings, place.view, {
    show: (tab) => tabs.show(tab.session),
    close: (tab) => void close(tab),
    add: () => tabs.add(),
    room: () => tabs.shown?.pane?.fit(),
    label: (tab, label) => {
      if (link.state.kind === "online") link.ask({ type: "label", session: tab.session, label });
      else status.remark("not connected: the name stays as it was");
    },
    written: () => review(),
    left: focus,
  });
  const menu = new Menu(part("menu"), choice, place.view, {
    add: () => tabs.add(),
    search: () => act({ kind: "search" }),
    recordings: () => void shelf.open(),
    record: () => void shelf.toggle().catch((error: Error) => status.remark(error.message)),
    closed: focus,
    facts: () => ({
      people: peopleOf(tabs.shown?.company),
      link: lagMs === undefined || link.state.kind !== "online" ? "not connected" : `connected, ${Math.round(lagMs)} ms`,
      recorded: recordings.has(tabs.shown?.session ?? ""),
    }),
  });

  // Shows how things are now. Called for whatever changed: there is little to draw, and nothing to forget.
  function review(): void {
    const tab = tabs.shown;
    status.say(sayingOf(link.state, tab?.state, tab?.waiting ?? 0, rest));
    corner.people(tab?.company, place.view);
    corner.recorded(recordings.has(tab?.session ?? ""));
    bar.draw();
    menu.tell();
    setTitle(place, tabs, labels);
  }

  function linked(state: LinkState): void {
    if (state.kind !== "online") corner.lag(0);
    if (state.kind === "locked") {
      if (state.refused) forgetToken();
      ask.open(state.refused);
    } else if (ask.close()) focus();
    review();
  }

  function focus(): void {
    tabs.shown?.focus();
  }

  function again(): void {
    focus();
    if (link.state.kind === "online") tabs.shown?.again();
    else link.again();
  }

  async function close(tab: Tab): Promise<void> {
    if (tab.state?.kind !== "ended" && tab.state?.kind !== "refused") {
      const others = (tab.company?.clients.length ?? 1) - 1;
      const name = labels.of(tab.session) ?? tab.title;
      const too = others > 0 ? ` ${others} more ${others === 1 ? "client is" : "clients are"} attached.` : "";
      if (!(await confirmed(part("confirm"), `End “${name}” and what runs in it?${too}`, "End it"))) return focus();
      link.ask({ type: "close", session: tab.session });
    }
    tabs.remove(tab);
    focus();
  }

  // Says whether the key was the page's.
  function act(action: Action): boolean {
    const tab = tabs.shown;
    switch (action.kind) {
      case "search":
        if (tab?.pane !== undefined) search.open(tab.pane.terminal);
        return true;
      case "copy":
        return tab?.copy() ?? false;
      case "add":
        if (!place.view) tabs.add();
        return true;
      case "menu":
        menu.toggle();
        return true;
      case "leave":
        if (!consent.focus() && !status.focus()) bar.focus();
        return true;
      case "tab":
        tabs.showAt(action.index);
        return true;
      case "next":
      case "previous":
        tabs.turn(action.kind === "next" ? 1 : -1);
        return true;
      case "zoom":
        choice.zoom(action.steps);
        return true;
    }
  }

  const mac = /^Mac|^iP/.test(navigator.platform);
  addEventListener(
    "keydown",
    (event) => {
      if (part("ask").hidden === false || document.querySelector("dialog[open]") !== null) return;
      const action = actionOf(event, tabs.all.length, mac);
      if (action === undefined || !act(action)) return;
      event.preventDefault();
      event.stopPropagation();
    },
    { capture: true },
  );
  addEventListener("online", () => link.now());
  addEventListener("offline", () => link.now());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    link.now();
    recordings.stir();
    for (const tab of tabs.all) tab.look();
  });
  // Leaving would lose what was typed and hasn't arrived.
  addEventListener("beforeunload", (event) => {
    if (tabs.all.some((tab) => tab.waiting > 0 && tab.state?.kind === "coming")) event.preventDefault();
  });
  // An address with a token may be opened in a tab that shows this page already.
  addEventListener("hashchange", () => {
    const given = takeToken();
    if (given !== undefined && given !== token) link.start((token = given));
  });

  tabs.show(place.session);
  link.start(token);
}

function setTitle(place: Place, { shown: tab, all }: Tabs, labels: Labels): void {
  const session = tab?.session ?? place.session;
  const mark = all.some((tab) => tab.news === "bell") ? "● " : "";
  const shown = session === SESSION_DEFAULT ? place.project : `${place.project}:${session}`;
  const named = tab === undefined || tab.title === session ? shown : tab.title;
  document.title = `${mark}${labels.of(session) ?? named} · Cloister`;
}

function part<Element extends HTMLElement>(id: string): Element {
  return document.getElementById(id) as Element;
}

const place = placeOf(new URL(location.href));
if (place !== undefined) start(place);
else new Status(part("status"), () => undefined).say({ kind: "halted", text: "this address names no project or session: ids have a-z, 0-9 and dashes" });
