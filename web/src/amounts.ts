// Sizes and lengths of time as people read them. Pure.

const KIB = 1024;
const UNITS = ["B", "KiB", "MiB", "GiB"] as const;

/** Bytes, in the unit that suits them. */
export function bytesText(bytes: number): string {
  const power = Math.max(0, Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10)));
  const [share, unit] = [bytes / KIB ** power, UNITS[power]];
  return `${share.toLocaleString(undefined, { maximumFractionDigits: share < 10 ? 1 : 0 })} ${unit}`;
}

/** Seconds as a clock shows them: `0:07`, `12:34`, `1:02:03`. */
export function clockText(seconds: number): string {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number: number) => String(number).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

const SPANS = [
  [86_400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
] as const;

/** Seconds as people say them, in the largest unit: `45 s`, `30 min`, `4 h`. */
export function spanText(seconds: number): string {
  const [unit, name] = SPANS.find(([unit]) => seconds >= unit) ?? SPANS[3];
  return `${Math.floor(seconds / unit)} ${name}`;
}
