// How much room a terminal has in an element, and which font lets all of it be seen there. Knows neither session nor setting.

import type { Terminal } from "@xterm/xterm";

/** So many pixels. */
export interface Room {
  readonly width: number;
  readonly height: number;
}

// What a terminal too large is scaled down to at most, in pixels; beyond that it scrolls.
const FONT_PX_MIN = 5;

// The terminal's own slider takes this, in pixels.
const SLIDER_PX = 14;

/** The room for a terminal's cells in the element that it fills. */
export function roomFor(terminal: Terminal, host: HTMLElement): Room {
  const style = getComputedStyle(terminal.element!);
  const across = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight) + SLIDER_PX;
  const down = parseFloat(style.paddingTop) + parseFloat(style.paddingBottom);
  return { width: host.clientWidth - across, height: host.clientHeight - down };
}

/** A cell as it is drawn just now. */
export function cellOf(terminal: Terminal): Room {
  const { width, height } = terminal.element!.querySelector(".xterm-screen")!.getBoundingClientRect();
  return { width: width / terminal.cols, height: height / terminal.rows };
}

/** Whether all of a terminal is seen. */
export function fits(terminal: Terminal, room: Room): boolean {
  const cell = cellOf(terminal);
  return cell.width * terminal.cols <= room.width && cell.height * terminal.rows <= room.height;
}

/** Sets the largest font up to `fontPx` with which it is; `cell` is a cell at that size. */
export function shrinkToFit(terminal: Terminal, room: Room, cell: Room, fontPx: number): void {
  const share = Math.min(1, room.width / (terminal.cols * cell.width), room.height / (terminal.rows * cell.height));
  let px = share === 1 ? fontPx : Math.max(FONT_PX_MIN, Math.floor(fontPx * share * 4) / 4);
  terminal.options.fontSize = px;
  // Renderers round a cell to whole pixels of the screen, so what should fit may not.
  while (share < 1 && px > FONT_PX_MIN && !fits(terminal, room)) terminal.options.fontSize = px -= 0.25;
}
