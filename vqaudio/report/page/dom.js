// Shared by all parts of the page: elements, paths, numbers, and audio playback, one sound at a time.

/** element("td", {class: "x", onclick: f}, "text", child, ...): null and false attributes and children are left out. */
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

/** Hides the content of a section and shows why it is empty. */
function absent(section, why) {
  for (const child of [...section.children].slice(1)) child.hidden = true;
  section.append(element("p", { class: "absent" }, why));
}

/** A path of the report, "audio/x.wav" or with a range of seconds "audio/x.wav#t=1.2,1.5", as a URL. */
function address(path) {
  const [, file, range] = path.match(/^(.*?)(#t=[\d.]+,[\d.]+)?$/s);
  return file.split("/").map(encodeURIComponent).join("/") + (range ?? "");
}

/** Three significant digits; integers and numbers from 1000 without decimals. */
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

function percentage(fraction) {
  const percent = 100 * fraction;
  const digits = percent !== 0 && Math.abs(percent) < 1 ? percent.toPrecision(2) : percent.toFixed(1);
  return digits.replace("-", "−");
}

/** A value with its unit; fractions in percent. */
function quantity(value, unit, { bare = false } = {}) {
  if (value === null || value === undefined) return "–";
  const percent = unit === "fraction";
  const text = percent ? percentage(value) : number(value);
  return bare || !unit ? text : `${text} ${percent ? "%" : unit}`;
}

const words = (name) => name.replaceAll("_", " ");
const ordinal = (n) => `${n}${n % 100 > 10 && n % 100 < 14 ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th")}`;

/** Labelled fractions as bars, the largest first; the remainder is one bar. */
function bars(fractions, toneOf) {
  const entries = Object.entries(fractions).sort((a, b) => b[1] - a[1]);
  const rest = 1 - entries.reduce((sum, [, fraction]) => sum + fraction, 0);
  const rows = rest > 0.005 ? [...entries, ["others", rest]] : entries;
  return element(
    "div",
    { class: "bars" },
    rows.map(([name, fraction]) => [
      element("span", {}, name),
      element("i", { style: `--width:${100 * fraction}%;${toneOf(name)}` }),
      element("span", { class: "value" }, quantity(fraction, "fraction")),
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

/** Plays; an abort by the next click is no error. */
function start(audio) {
  audio.play().catch((error) => {
    if (error.name !== "AbortError") throw error;
  });
}

const snippetPlayer = element("audio", { id: "snippet-player", preload: "none" });
document.body.append(snippetPlayer);

/** Plays a path with a range: the browser seeks to its start, and the loop stops at its end, more precisely than the browser. */
function playSnippet(path) {
  const end = Number(path.split(",").at(-1));
  snippetPlayer.src = address(path);
  start(snippetPlayer);
  const watch = () => {
    if (snippetPlayer.paused || !snippetPlayer.src.endsWith(address(path))) return; // stopped, or another snippet is playing
    if (snippetPlayer.currentTime >= end) snippetPlayer.pause();
    else requestAnimationFrame(watch);
  };
  requestAnimationFrame(watch);
}
