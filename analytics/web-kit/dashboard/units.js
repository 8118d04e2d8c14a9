// Units: formats numbers for people. A value that is not a finite number is a dash, never a zero.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export const NOTHING = "–";

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Three digits that count: 0.42, 4.2, 42, 4,200. */
function digits(value) {
  const size = Math.abs(value);
  if (size === 0 || size >= 100) return whole.format(value);
  if (size >= 10) return one.format(value);
  return two.format(value);
}

export const count = (value) => (isNumber(value) ? whole.format(value) : NOTHING);

export const rate = (value) =>
  isNumber(value) ? (value === 0 || value >= 10 ? whole : one).format(value) : NOTHING;

/** A time in ms as a number and its unit. */
export function milliseconds(value) {
  if (!isNumber(value)) return [NOTHING, ""];
  if (value >= 10_000) return [digits(value / 1000), "s"];
  if (value > 0 && value < 0.01) return [whole.format(value * 1000), "µs"];
  return [digits(value), "ms"];
}

export const time = (value) => milliseconds(value).join(" ").trim();

/** A part of one as a number of per cent. */
export function percent(part) {
  if (!isNumber(part)) return NOTHING;
  const value = part * 100;
  if (value > 0 && value < 0.01) return "<0.01";
  return value === 0 || value >= 99.95
    ? whole.format(value)
    : value < 1
      ? two.format(value)
      : one.format(value);
}

export const share = (part) => (isNumber(part) ? `${percent(part)} %` : NOTHING);

export function bytes(value) {
  if (!isNumber(value)) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let place = 0;
  while (value >= 1024 && place < units.length - 1) {
    value /= 1024;
    place += 1;
  }
  return `${place === 0 ? whole.format(value) : digits(value)} ${units[place]}`;
}

/** A multiple of the mean; a dash without data. */
export const ratio = (value) => (value > 0 ? `${two.format(value)} ×` : NOTHING);

/** A duration or an age, in its two greatest units. */
export function duration(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

const clockFormat = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const minuteFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** The time of day of a moment in ms since 1970, where the reader is. */
export const clock = (ms) => (isNumber(ms) ? clockFormat.format(ms) : NOTHING);

export const minute = (ms) => (isNumber(ms) ? minuteFormat.format(ms) : NOTHING);

/** The trend of numbers: compares the last quarter with those before. */
export function trend(values) {
  const known = values.filter(isNumber);
  if (known.length < 8) return "";
  const cut = Math.floor(known.length * 0.75);
  const mean = (part) => part.reduce((sum, value) => sum + value, 0) / part.length;
  const [before, after] = [mean(known.slice(0, cut)), mean(known.slice(cut))];
  if (before === 0 && after === 0) return "steady";
  if (after > before * 1.1) return "rising";
  if (after < before * 0.9) return "falling";
  return "steady";
}
