// One utterance over time: waveform, spectrogram, codes and phones under one playhead.

const TICKS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60];
const TICK_PIXELS = 56; // at least, between two numbers on the time axis

function waveform(envelope) {
  const peak = Math.max(...envelope.flat().map(Math.abs), 1e-9);
  const points = (side) => envelope.map((pair, x) => `${x + 0.5},${(-pair[side] / peak).toFixed(3)}`);
  const outline = [...points(1), ...points(0).reverse()].join(" ");
  const drawn = element("div", { class: "drawn" });
  drawn.innerHTML = `<svg viewBox="0 -1.05 ${envelope.length} 2.1" preserveAspectRatio="none"><polygon points="${outline}"/></svg>`;
  return drawn;
}

/** A piece of a lane from one time to another. */
function piece(tag, attributes, from, to, seconds, ...children) {
  const place = `left:${(100 * from) / seconds}%;width:${(100 * (to - from)) / seconds}%`;
  return element(tag, { ...attributes, style: `${place};${attributes.style ?? ""}` }, ...children);
}

function codeRuns(shown, known) {
  return runsOf(shown.codes).map(([code, first, after]) => {
    const [from, to] = [first / shown.frame_rate, Math.min(after / shown.frame_rate, shown.seconds)];
    const main = known.get(code)?.main;
    const attributes = {
      type: "button",
      class: "run tone",
      style: known.get(code)?.tone ?? numberTone(code),
      "data-code": code,
      tabindex: -1,
      title: `code ${code}${main ? `, mostly ${main}` : ""} · ${Math.round(1000 * (to - from))} ms`,
    };
    return piece("button", attributes, from, to, shown.seconds, element("span", {}, String(code)));
  });
}

function timelineView(report, known) {
  const all = report.timelines;
  if (!all.length) return absent(byId("timeline"), "This report has no timelines.");
  const lanes = byId("lanes");
  const inner = element("div", { class: "inner" });
  const playhead = element("div", { class: "playhead", hidden: true });
  const now = element("span", { class: "now" });
  let shown = all[0];
  let audio = null;
  lanes.append(inner);

  const lane = (name, kind, ...children) =>
    element("div", { class: `lane ${kind}` }, element("em", {}, name), element("div", { class: "track" }, ...children));

  function ticks() {
    const pixels = inner.clientWidth / shown.seconds;
    const step = TICKS.find((s) => s * pixels >= TICK_PIXELS) ?? TICKS.at(-1);
    const places = Array.from({ length: Math.floor(shown.seconds / step + 1e-9) + 1 }, (_, i) => i * step);
    const label = (t) =>
      element("span", { style: `left:${(100 * t) / shown.seconds}%` }, `${Number(t.toFixed(2))}${t === 0 ? " s" : ""}`);
    inner.querySelector(".ticks").replaceChildren(...places.map(label));
  }

  function follow() {
    const fraction = Math.min(audio.currentTime / shown.seconds, 1);
    playhead.hidden = false;
    playhead.style.left = `${100 * fraction}%`;
    const code = shown.codes[Math.min(Math.floor(audio.currentTime * shown.frame_rate), shown.codes.length - 1)];
    const main = known.get(code)?.main;
    now.textContent = `${audio.currentTime.toFixed(2)} s${code === undefined ? "" : ` · code ${code}${main ? ` · ${main}` : ""}`}`;
    const x = fraction * inner.clientWidth;
    const outside = x < lanes.scrollLeft || x > lanes.scrollLeft + lanes.clientWidth;
    if (outside && !audio.paused) lanes.scrollLeft = x - 0.1 * lanes.clientWidth;
    if (!audio.paused) requestAnimationFrame(follow);
  }

  function show(index) {
    shown = all[index];
    audio?.pause();
    const phones = (shown.segments ?? []).map(([from, to, label]) =>
      piece(
        "div",
        { class: "run tone", style: phoneTone(label), title: `${label} · ${Math.round(1000 * (to - from))} ms` },
        from,
        to,
        shown.seconds,
        element("span", {}, label),
      ),
    );
    inner.replaceChildren(
      ...[
        shown.waveform?.length ? lane("waveform", "wave", waveform(shown.waveform)) : null,
        shown.picture
          ? lane(
              "log-mel spectrogram",
              "picture",
              element("img", { src: address(shown.picture), alt: "log-mel spectrogram" }),
            )
          : null,
        shown.codes?.length
          ? lane(`codes, ${number(shown.frame_rate)} per second`, "codes fine", codeRuns(shown, known))
          : null,
        phones.length ? lane("phones", "codes", phones) : null,
        element("div", { class: "ticks", "aria-hidden": "true" }),
        playhead,
      ].filter(Boolean),
    );
    playhead.hidden = true;
    now.textContent = "";
    audio = shown.audio ? element("audio", { controls: true, preload: "none", src: address(shown.audio) }) : null;
    audio?.addEventListener("play", follow);
    audio?.addEventListener("seeked", follow);
    byId("timeline-player").replaceChildren(
      audio ?? element("span", { class: "absent" }, "The audio of this utterance is not in the report."),
      now,
    );
    byId("timeline-text").textContent = shown.text ?? "";
    picker.value = String(index);
    ticks();
  }

  inner.addEventListener("click", (event) => {
    const code = event.target.closest("[data-code]")?.dataset.code;
    const { left, width } = inner.getBoundingClientRect();
    if (audio) audio.currentTime = (shown.seconds * (event.clientX - left)) / width;
    if (code !== undefined) openCode(Number(code));
    else if (audio) start(audio);
  });

  const option = (t, i) =>
    element("option", { value: i }, [t.id, t.speaker, `${number(t.seconds)} s`].filter(Boolean).join(" · "));
  const picker = element(
    "select",
    { id: "timeline-choice", onchange: () => show(Number(picker.value)) },
    all.map(option),
  );
  const zoom = element("input", {
    type: "range",
    id: "timeline-zoom",
    min: 1,
    max: 16,
    step: 0.5,
    value: innerWidth < 700 ? 4 : 1,
    oninput: () => widen(),
  });
  const widen = () => {
    const middle = (lanes.scrollLeft + lanes.clientWidth / 2) / (inner.clientWidth || 1);
    inner.style.width = `${100 * zoom.value}%`;
    lanes.scrollLeft = middle * inner.clientWidth - lanes.clientWidth / 2;
    ticks();
  };
  byId("timeline-tools").append(element("label", {}, "utterance ", picker), element("label", {}, "zoom ", zoom));
  show(0);
  inner.style.width = `${100 * zoom.value}%`;
  new ResizeObserver(ticks).observe(lanes);
}
