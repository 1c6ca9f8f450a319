// What all parts of the page use: elements, paths, numbers, and one sound at a time.

/** element("td", {class: "x", onclick: f}, "text", child, ...): attributes and children that are null or false are left out. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter(Boolean));
  return made;
}

const byId = (id) => document.getElementById(id);

/** Hides a section and says why in its place. */
function absent(section, why) {
  for (const child of [...section.children].slice(1)) child.hidden = true;
  section.append(element("p", { class: "absent" }, why));
}

/** A path of the report, "audio/x.wav" or with a range of seconds "audio/x.wav#t=1.2,1.5", as an address. */
function address(path) {
  const [, file, range] = path.match(/^(.*?)(#t=[\d.]+,[\d.]+)?$/s);
  return file.split("/").map(encodeURIComponent).join("/") + (range ?? "");
}

/** Three digits that count; whole numbers and those from 1000 as they are. */
function number(value) {
  if (value === null || value === undefined) return "–";
  const text =
    Math.abs(value) >= 1000
      ? Math.round(value).toLocaleString("en")
      : Number.isInteger(value)
        ? String(value)
        : value.toPrecision(3);
  return text.replace("-", "−");
}

function percentage(share) {
  const percent = 100 * share;
  const digits = percent !== 0 && Math.abs(percent) < 1 ? percent.toPrecision(2) : percent.toFixed(1);
  return digits.replace("-", "−");
}

/** A value in its unit; shares are said in percent. */
function quantity(value, unit, { bare = false } = {}) {
  if (value === null || value === undefined) return "–";
  const percent = unit === "share";
  const text = percent ? percentage(value) : number(value);
  return bare || !unit ? text : `${text} ${percent ? "%" : unit}`;
}

const words = (name) => name.replaceAll("_", " ");
const ordinal = (n) => `${n}${n % 100 > 10 && n % 100 < 14 ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th")}`;

/** Labelled shares as bars, the largest first; what is not listed is said as one. */
function bars(shares, toneOf) {
  const entries = Object.entries(shares).sort((a, b) => b[1] - a[1]);
  const rest = 1 - entries.reduce((sum, [, share]) => sum + share, 0);
  const rows = rest > 0.005 ? [...entries, ["others", rest]] : entries;
  return element(
    "div",
    { class: "bars" },
    rows.map(([name, share]) => [
      element("span", {}, name),
      element("i", { style: `--width:${100 * share}%;${toneOf(name)}` }),
      element("span", { class: "value" }, quantity(share, "share")),
    ]),
  );
}

document.addEventListener(
  "play",
  (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
  },
  true, // play does not bubble
);

/** Plays; that another click comes before the sound is no error. */
function start(audio) {
  audio.play().catch((error) => {
    if (error.name !== "AbortError") throw error;
  });
}

const snippetPlayer = element("audio", { id: "snippet-player", preload: "none" });
document.body.append(snippetPlayer);

/** Plays a path with a range; the browser seeks to its start, and we stop at its end more precisely than it does. */
function playSnippet(path) {
  const end = Number(path.split(",").at(-1));
  snippetPlayer.src = address(path);
  start(snippetPlayer);
  const watch = () => {
    if (snippetPlayer.paused || !snippetPlayer.src.endsWith(address(path))) return; // stopped, or another one plays
    if (snippetPlayer.currentTime >= end) snippetPlayer.pause();
    else requestAnimationFrame(watch);
  };
  requestAnimationFrame(watch);
}
