// The bell: a flash, and a short tone for who wants one. Knows neither session nor setting.

import type { Pane } from "./pane";

// A program that rings without end is one bell.
const REST_MS = 300;

const TONE_HZ = 740;
const TONE_S = 0.12;
const TONE_LOUDNESS = 0.06;

/** The page's one bell. */
export class Bell {
  #audio: AudioContext | undefined;
  #lastMs = -Infinity;

  /** Rings: in the pane if it is in sight, and with a tone if asked to. */
  ring(pane: Pane | undefined, sound: boolean): void {
    const nowMs = performance.now();
    if (nowMs - this.#lastMs < REST_MS) return;
    this.#lastMs = nowMs;
    pane?.flash();
    if (sound) this.#sound();
  }

  #sound(): void {
    this.#audio ??= new AudioContext();
    // Browsers are silent until someone has touched the page; a tone later on would mean nothing.
    if (this.#audio.state === "suspended") return void this.#audio.resume();
    const [tone, volume, now] = [this.#audio.createOscillator(), this.#audio.createGain(), this.#audio.currentTime];
    tone.frequency.value = TONE_HZ;
    volume.gain.setValueAtTime(TONE_LOUDNESS, now);
    volume.gain.exponentialRampToValueAtTime(0.0001, now + TONE_S);
    tone.connect(volume).connect(this.#audio.destination);
    tone.start(now);
    tone.stop(now + TONE_S);
  }
}
