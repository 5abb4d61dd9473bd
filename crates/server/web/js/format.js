// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes with a binary unit and three figures: `1.46 GiB`. */
export function bytes(count) {
  let value = count;
  let unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Gigabytes of 1024³ bytes with as many digits as a model of `whole` bytes needs. */
export function gigabytes(value, whole = 2 ** 33) {
  const digits = whole > 2 ** 30 ? 1 : whole > 2 ** 27 ? 3 : 5;
  return String(Number(value.toFixed(digits)));
}

/** Seconds: `4.2 s`, `3 min 5 s`. */
export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** A part of a whole: `42 %`. */
export function percent(part, whole) {
  if (!whole) return "0 %";
  const value = (100 * part) / whole;
  return `${value > 0 && value < 1 ? "<1" : Math.round(value)} %`;
}

/** How long ago, in words. */
export function ago(milliseconds, now = Date.now()) {
  const seconds = Math.max(0, (now - milliseconds) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(milliseconds).toLocaleDateString();
}
