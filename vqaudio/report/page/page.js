// Reads the report and fills the page; a section without data shows a message.

const report = {
  tasks: [],
  metrics: [],
  missing: [],
  published: [],
  codes: [],
  timelines: [],
  audio: [],
  pictures: [],
  sets: [],
  summary: [],
  model: {},
  ...JSON.parse(byId("report").textContent),
};
const known = readCodes(report.codes);

function opening() {
  byId("title").textContent = report.title;
  const [name, ...reasons] = (report.verdict ?? "").split(": ");
  const looks = name === "healthy" ? "good" : name.startsWith("not ") ? null : "bad"; // not measured, not available
  const badge =
    name &&
    element(
      "p",
      { class: "verdict" },
      element("b", { class: looks }, name),
      ` ${reasons.join(": ")}`,
    );
  const [first, ...others] = report.summary;
  byId("summary").append(
    ...[
      badge || null,
      first && element("p", { class: "lead" }, first),
      others.length
        ? element(
            "ul",
            {},
            others.map((sentence) => element("li", {}, sentence)),
          )
        : null,
    ].filter(Boolean),
  );
  const m = report.model;
  const sampling = report.sampling;
  const facts = {
    model: m.name,
    fingerprint: m.fingerprint,
    codes: m.codebook_size && number(m.codebook_size),
    "frame rate": m.frame_rate && `${number(m.frame_rate)} Hz (hop ${number(m.hop)} at ${number(m.sample_rate)} Hz)`,
    bitrate: m.nominal_bits_per_second && `${number(m.nominal_bits_per_second)} bits per second (nominal)`,
    speakers:
      m.speakers?.length &&
      `${m.speakers.length}: ${m.speakers.slice(0, 8).join(", ")}${m.speakers.length > 8 ? ", …" : ""}`,
    "speech recogniser": report.asr && `Whisper ${report.asr}`,
    sampling:
      sampling &&
      `temperature ${number(sampling.temperature)}${sampling.top_k ? `, top-k ${number(sampling.top_k)}` : ""}${sampling.top_p ? `, top-p ${number(sampling.top_p)}` : ""}`,
  };
  const given = Object.entries(facts).filter(([, value]) => value);
  const amount = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;
  const set = (s) => {
    const labels = (name) => (s.unlabelled?.[name] ? `${name} (${number(s.unlabelled[name])} without)` : name);
    return element(
      "li",
      {},
      element("b", {}, s.name),
      ` ${amount(s.utterances, "utterance")}, ${amount(s.speakers, "speaker")}, ${number(Math.round(s.seconds))}\u00a0s`,
      element("small", {}, s.available?.length ? `with ${s.available.map(labels).join(", ")}` : "audio only"),
    );
  };
  byId("facts").append(
    element(
      "dl",
      {},
      given.map(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]),
    ),
    ...(report.sets.length ? [element("h3", {}, "Evaluation sets"), element("ul", { class: "sets" }, report.sets.map(set))] : []),
  );
  const ribbon = runsOf(report.timelines[0]?.codes ?? []).map(([code, from, to]) =>
    element("i", { class: "tone", style: `flex:${to - from};${known.get(code)?.tone ?? numberTone(code)}` }),
  );
  byId("ribbon").append(...ribbon);
}

function listenTable() {
  if (!report.audio.length) return absent(byId("listen"), "This report has no audio.");
  const player = (path, what) =>
    path
      ? element("audio", {
          controls: true,
          controlslist: "nodownload noplaybackrate",
          preload: "none",
          src: address(path),
          "aria-label": what,
        })
      : "–";
  const columns = { original: "Original", reconstruction: "Reconstruction", conversions: "Conversions" };
  const row = (a) => {
    const conversions = Object.entries(a.conversions ?? {}).map(([target, path]) =>
      element("div", { class: "conversion" }, element("span", {}, `→ ${target}`), player(path, `${a.id} as ${target}`)),
    );
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, a.id, element("small", {}, [a.speaker, a.text].filter(Boolean).join(": "))),
      element("td", { "data-label": columns.original }, player(a.original, `${a.id}, original`)),
      element("td", { "data-label": columns.reconstruction }, player(a.reconstruction, `${a.id}, reconstruction`)),
      element("td", { "data-label": columns.conversions }, conversions.length ? conversions : "–"),
    );
  };
  const head = ["Utterance", ...Object.values(columns)].map((name) => element("th", { scope: "col" }, name));
  byId("listen-table").append(
    element("thead", {}, element("tr", {}, head)),
    element("tbody", {}, report.audio.map(row)),
  );
}

function pictures() {
  if (!report.pictures.length) return void (byId("pictures").hidden = true);
  const figure = ({ title, path }) =>
    element(
      "figure",
      {},
      element("img", { src: address(path), alt: title, loading: "lazy" }),
      element("figcaption", {}, title),
    );
  byId("pictures-list").append(...report.pictures.map(figure));
}

opening();
metricsTable(report);
publishedTable(report);
codesGrid(report, known);
timelineView(report, known);
listenTable();
pictures();
const sections = [...document.querySelectorAll("section[data-link]")].filter((section) => !section.hidden);
byId("links").append(...sections.map((s) => element("a", { href: `#${s.id}` }, s.dataset.link)));
byId("theme").addEventListener("click", () => {
  const { style } = document.documentElement;
  const dark = style.colorScheme ? style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  style.colorScheme = dark ? "light" : "dark";
});
