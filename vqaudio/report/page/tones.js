// Colours: phones of one family have similar hues; a code has the hue of its most frequent phone, stronger for a higher purity.

const FAMILIES = [
  ["silence, noise", null, "pau sil sp h# #h epi spn nsn"],
  ["vowels", [15, 105], "iy ih ix ey eh ae aa ah ax ax-h axr er ay aw ao oy ow uh uw ux"],
  ["approximants", [122, 150], "l el r w y hh hv"],
  ["nasals", [165, 195], "m em n en ng eng nx"],
  ["stops", [225, 262], "p pcl b bcl t tcl d dcl dx k kcl g gcl q"],
  ["fricatives", [285, 325], "f v th dh s z sh zh"],
  ["affricates", [340, 352], "ch jh"],
];
const STRONG = 0.15; // chroma of a phone, and of a code with a single phone
const UNKNOWN_LIFT = 0.1; // a code without a known phone is paler than silence
const GOLDEN_ANGLE = 137.5; // gives successive numbers distinct hues

const HUES = new Map();
FAMILIES.forEach(([family, range, labels], order) => {
  labels.split(" ").forEach((label, i, { length }) => {
    const hue = range && range[0] + ((range[1] - range[0]) * i) / (length - 1);
    HUES.set(label, { family, order: 100 * order + i, hue });
  });
});

/** Any spelling of a phone ("AH0_B", "h#", "+SPN+") -> its family, place in the order, and hue (null: grey). */
function phone(label) {
  const known = HUES.get(
    label
      .toLowerCase()
      .replace(/(\d?_[bies]|\d)$/, "")
      .replace(/[+<>[\]]/g, ""),
  );
  if (known) return known;
  const number = [...label].reduce((sum, letter) => (31 * sum + letter.codePointAt(0)) % 997, 0);
  return { family: "others", order: 1e4 + number, hue: (number * GOLDEN_ANGLE) % 360 };
}

function tone(hue, strength = 1, lift = 0) {
  return `--hue:${(hue ?? 0).toFixed(1)};--chroma:${(hue === null ? 0 : STRONG * strength).toFixed(3)};--lift:${lift.toFixed(3)}`;
}

const numberTone = (code) => tone((code * GOLDEN_ANGLE) % 360, 0.7);
const phoneTone = (label) => tone(phone(label).hue);

/** Codes of the report by number, each with its most frequent phone, if known, and its colour. */
function readCodes(codes) {
  const known = new Map();
  const withPhones = codes.some((facts) => Object.keys(facts.phones ?? {}).length);
  for (const facts of codes) {
    const [main, purity] = Object.entries(facts.phones ?? {}).reduce((a, b) => (b[1] > a[1] ? b : a), [null, 0]);
    const lift = 0.06 * (((facts.code * 0.618) % 1) - 0.5); // codes of one phone differ slightly in lightness
    const unknown = withPhones ? tone(null, 0, UNKNOWN_LIFT) : numberTone(facts.code);
    const own = main === null ? unknown : tone(phone(main).hue, 0.2 + 0.8 * purity, lift);
    known.set(facts.code, { ...facts, main, purity, tone: own });
  }
  return known;
}

/** Runs of equal codes: [code, first frame, frame after the last]. */
function runsOf(codes) {
  const runs = [];
  codes.forEach((code, frame) => {
    if (runs.length && runs.at(-1)[0] === code) runs.at(-1)[2] = frame + 1;
    else runs.push([code, frame, frame + 1]);
  });
  return runs;
}
