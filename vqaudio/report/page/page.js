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
  const badge = (subject, level, looks, reason) =>
    element("p", { class: "verdict" }, `${subject} `, element("b", { class: looks ?? null }, level), ` ${reason}`);
  const [health, ...reasons] = (report.training_health ?? "").split(": ");
  const speech = report.intelligibility;
  const [first, ...others] = [speech?.sentence, ...report.summary].filter(Boolean);
  const looks = { intelligible: "good", unintelligible: "bad" };
  byId("summary").append(
    ...[
      speech && badge("Decoded speech:", speech.level, looks[speech.level], ""),
      first && element("p", { class: "lead" }, first),
      others.length
        ? element(
            "ul",
            {},
            others.map((sentence) => element("li", {}, sentence)),
          )
        : null,
      health &&
        badge(
          "Health of training:",
          health,
          health === "healthy" ? "good" : health.startsWith("not ") ? null : "bad", // not measured, not available
          reasons.join(": "),
        ),
    ].filter(Boolean),
  );
  const m = report.model;
  const sampling = report.sampling;
  const facts = {
    model: m.name,
    fingerprint: m.fingerprint,
    codes: m.codebook_size && number(m.codebook_size),
    "frame rate": m.frame_rate && `${number(m.frame_rate)} Hz (hop ${number(m.hop)} at ${number(m.sample_rate)} Hz)`,
    vocoder: m.vocoder,
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
  const systems = [...new Set(report.audio.flatMap((a) => Object.keys(a.clips)))];
  const row = (a) => {
    const cell = (system) => {
      const target = system.startsWith("conversion") && a.clips[system] ? a.target : null;
      const control = player(a.clips[system], `${a.id}, ${system}${target ? ` to ${target}` : ""}`);
      const named = target ? element("div", { class: "conversion" }, element("span", {}, `→ ${target}`), control) : control;
      return element("td", { "data-label": system }, named);
    };
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, a.id, element("small", {}, [a.speaker, a.text].filter(Boolean).join(": "))),
      systems.map(cell),
    );
  };
  const head = ["Utterance", ...systems].map((name) => element("th", { scope: "col" }, name));
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
