// Palette: the colour of each shard, and colours as canvases need them.
//
// A colour means an owner and nothing else; how a shard is, is said in words and stripes. The first nine colours can be
// told apart by colour-blind readers too; further shards get hues that are far from their neighbours'.

const NAMED = 9;
const GOLDEN_ANGLE = 137.508;
/** Of further shards, on light and on dark ground: neighbours differ in this, too. */
const LIGHTNESS = [
  [0.62, 0.68],
  [0.74, 0.78],
  [0.52, 0.6],
];

/** A shard's colour as a value of CSS, by its place among the shards. */
export function ownerColour(index) {
  if (index < NAMED) return `var(--owner-${index + 1})`;
  const hue = Math.round((index * GOLDEN_ANGLE) % 360);
  const [light, dark] = LIGHTNESS[index % LIGHTNESS.length];
  return `light-dark(oklch(${light} 0.11 ${hue}), oklch(${dark} 0.11 ${hue}))`;
}

let probe = null;
let pen = null;
const resolved = new Map();
const inks = new Map();
document.addEventListener("themechange", () => {
  resolved.clear();
  inks.clear();
});

/** A value of CSS as a canvas understands it: without variables, for the theme of now. */
export function resolve(css) {
  let colour = resolved.get(css);
  if (colour === undefined) {
    if (probe === null) {
      probe = document.createElement("span");
      probe.hidden = true;
      document.body.append(probe);
    }
    probe.style.color = css;
    colour = getComputedStyle(probe).color;
    resolved.set(css, colour);
  }
  return colour;
}

/** Black or white, whichever can be read on a colour. */
export function inkOn(css) {
  let ink = inks.get(css);
  if (ink === undefined) {
    if (pen === null) {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 1;
      pen = canvas.getContext("2d", { willReadFrequently: true });
    }
    pen.fillStyle = resolve(css);
    pen.fillRect(0, 0, 1, 1);
    const [red, green, blue] = [...pen.getImageData(0, 0, 1, 1).data].map((part) => (part / 255) ** 2.2);
    // Where the contrast with black and that with white are the same.
    ink = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#0c1014" : "#ffffff";
    inks.set(css, ink);
  }
  return ink;
}
