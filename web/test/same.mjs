// Whether two byte streams leave a terminal in the same state: node same.mjs <cols> <rows> <one> <other>. The terminal is xterm.js
// without a page. Says the first difference and fails if there is one.

import { readFileSync } from "node:fs";
import headless from "@xterm/headless";

const [cols, rows, ...files] = process.argv.slice(2);

/** All that is seen of a terminal, line by line. */
async function seen(file) {
  const terminal = new headless.Terminal({ cols: +cols, rows: +rows, scrollback: 10_000, allowProposedApi: true });
  await new Promise((done) => terminal.write(readFileSync(file), done));
  const buffer = terminal.buffer.active;
  const lines = [];
  for (let y = 0; y < buffer.length; y += 1) {
    const line = buffer.getLine(y);
    lines.push(`${line.isWrapped ? "wrapped " : ""}${Array.from({ length: +cols }, (_, x) => look(line.getCell(x))).join("")}`);
  }
  const { modes } = terminal;
  return [JSON.stringify(modes), `${buffer.type} ${buffer.cursorX},${buffer.cursorY} of ${buffer.baseY}`, ...lines];
}

/** A cell: its text, and what differs from plain. */
function look(cell) {
  const colours = [cell.getFgColorMode(), cell.getFgColor(), cell.getBgColorMode(), cell.getBgColor()];
  const styles = [cell.isBold(), cell.isDim(), cell.isItalic(), cell.isUnderline(), cell.isBlink(), cell.isInverse(), cell.isInvisible()];
  const plain = styles.every((style) => !style) && colours[0] === 0 && colours[2] === 0;
  const text = cell.getChars() || (cell.getWidth() === 0 ? "" : " ");
  return plain ? text : `[${text}${colours.join()};${styles.map(Boolean).map(Number).join("")}]`;
}

const [one, other] = await Promise.all(files.map(seen));
const at = Array.from({ length: Math.max(one.length, other.length) }).findIndex((_, line) => one[line] !== other[line]);
if (at >= 0) {
  console.error(`line ${at - 2} differs:\n${one[at]}\n${other[at]}`);
  process.exit(1);
}
if (one.every((line, index) => index < 2 || line.trim() === "")) {
  console.error("both are empty");
  process.exit(1);
}
