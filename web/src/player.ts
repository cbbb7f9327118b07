// The dialog that plays a recording: its controls, its keys, and what it says. Knows not how a terminal is fed.

import { bytesText, clockText } from "./amounts";
import { CastError, readCast } from "./cast";
import type { Look } from "./look";
import { Playback } from "./playback";
import { Screen } from "./screen";
import type { Choice } from "./settings";
import type { Timeline } from "./timeline";

/** What is to be played. */
export interface Reel {
  /** What it is called. */
  readonly title: string;
  /** Whether it was still being recorded when it was opened. */
  readonly recording: boolean;
  /** Its file; `end` ends it. */
  read(end: AbortSignal): Promise<Response>;
}

// How far an arrow key goes, in seconds.
const STEP_S = 5;

// The slider counts in whole steps: with fractions its end would be a hair before the recording's.
const SLIDER_STEPS_PER_S = 1000;

/** The player. */
export class Player {
  readonly #dialog: HTMLDialogElement;
  readonly #host: HTMLElement;
  readonly #said: HTMLElement;
  readonly #play: HTMLButtonElement;
  readonly #place: HTMLInputElement;
  readonly #clock: HTMLElement;
  readonly #speed: HTMLSelectElement;
  readonly #idle: HTMLInputElement;
  readonly #look: Look;
  readonly #choice: Choice;
  #end = new AbortController();
  #recording = false;
  #exit: number | undefined;
  #screen: Screen | undefined;
  #playback: Playback | undefined;

  /** `closed` is called when the dialog is gone. */
  constructor(dialog: HTMLDialogElement, look: Look, choice: Choice, closed: () => void) {
    this.#dialog = dialog;
    this.#host = dialog.querySelector(".film")!;
    this.#said = dialog.querySelector(".said")!;
    this.#play = dialog.querySelector(".play")!;
    this.#place = dialog.querySelector("input[type=range]")!;
    this.#clock = dialog.querySelector(".clock")!;
    this.#speed = dialog.querySelector("select")!;
    this.#idle = dialog.querySelector("[name=idle]")!;
    this.#look = look;
    this.#choice = choice;
    this.#play.onclick = () => this.#playback?.toggle();
    this.#place.oninput = () => this.#playback?.seek(Number(this.#place.value) / SLIDER_STEPS_PER_S);
    this.#speed.onchange = () => this.#set();
    this.#idle.onchange = () => this.#set();
    dialog.querySelector<HTMLButtonElement>(".close")!.onclick = () => dialog.close();
    dialog.onkeydown = (event) => this.#key(event);
    dialog.onclose = () => {
      this.#stop();
      closed();
    };
  }

  /** Plays a recording, once it is there. */
  async open(reel: Reel): Promise<void> {
    this.#stop();
    const end = (this.#end = new AbortController());
    this.#recording = reel.recording;
    this.#dialog.querySelector("h2")!.textContent = reel.title;
    this.#draw();
    if (!this.#dialog.open) this.#dialog.showModal();
    try {
      this.#say("reading…");
      const answer = await reel.read(end.signal);
      const all = bytesText(Number(answer.headers.get("Content-Length")));
      const timeline = await readCast(answer.body!, (bytes) => end.signal.aborted || this.#say(`reading… ${bytesText(bytes)} of ${all}`));
      if (!end.signal.aborted) this.#begin(timeline);
    } catch (error) {
      if (end.signal.aborted) return;
      const reason = error instanceof Error ? error.message : String(error);
      this.#say(error instanceof CastError ? `This recording can’t be played: ${reason}` : reason, true);
    }
  }

  /** Takes settings and theme as they are now. */
  dress(): void {
    this.#screen?.dress(this.#look.theme, this.#choice.now);
  }

  #begin(timeline: Timeline): void {
    const screen = (this.#screen = new Screen(this.#host, timeline.size, this.#look.theme, this.#choice.now));
    const playback = (this.#playback = new Playback(timeline, screen.terminal));
    this.#exit = timeline.exit;
    this.#set();
    playback.toggle();
    this.#draw();
    this.#play.focus();
    const frame = (nowMs: number) => {
      if (playback !== this.#playback) return;
      playback.frame(nowMs);
      this.#draw();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  #stop(): void {
    this.#end.abort();
    this.#playback = undefined;
    this.#screen?.close();
    this.#screen = undefined;
    this.#say("");
  }

  #set(): void {
    if (this.#playback === undefined) return;
    this.#playback.speed = Number(this.#speed.value);
    this.#playback.count(this.#idle.checked ? "short" : "whole");
  }

  // Shows how things are, each frame: what is as it was isn't touched.
  #draw(): void {
    const playback = this.#playback;
    const { playing = false, atS = 0, endS = 0 } = playback ?? {};
    const clock = `${clockText(atS)} / ${clockText(endS)}`;
    this.#host.setAttribute("aria-busy", String(playback?.behind ?? false));
    for (const control of [this.#play, this.#place]) control.disabled = playback === undefined;
    this.#place.max = String(Math.ceil(endS * SLIDER_STEPS_PER_S));
    this.#place.value = String(Math.ceil(atS * SLIDER_STEPS_PER_S));
    if (this.#clock.textContent !== clock) {
      this.#clock.textContent = clock;
      this.#place.setAttribute("aria-valuetext", `${clockText(atS)} of ${clockText(endS)}`);
    }
    if (this.#play.dataset["playing"] !== String(playing)) {
      this.#play.dataset["playing"] = String(playing);
      this.#play.setAttribute("aria-label", playing ? "Pause" : "Play");
    }
    if (playback !== undefined) this.#say(playback.over && !playing ? this.#ending() : "");
  }

  #ending(): string {
    if (this.#exit !== undefined) return `exited with status ${this.#exit}`;
    return this.#recording ? "as far as it was recorded when it was opened" : "the recording ends here";
  }

  #say(text: string, bad = false): void {
    if (this.#said.textContent === text) return;
    this.#said.textContent = text;
    this.#said.classList.toggle("bad", bad);
  }

  // Keys of controls stay theirs, but for those that mean the same wherever the keyboard is.
  #key(event: KeyboardEvent): void {
    const { target, key } = event;
    const playback = this.#playback;
    if (playback === undefined || event.ctrlKey || event.altKey || event.metaKey || target === this.#speed) return;
    const pressable = target instanceof HTMLButtonElement || target === this.#idle;
    if (key === " " && !pressable) playback.toggle();
    else if (key === "ArrowLeft") playback.seek(playback.atS - STEP_S);
    else if (key === "ArrowRight") playback.seek(playback.atS + STEP_S);
    else return;
    event.preventDefault();
  }
}
