// The grid of all codes, and the panel with the details of one.

let openCode = () => {}; // set below; also called by the timeline

function codesGrid(report, known) {
  const section = byId("codes");
  const grid = byId("codes-grid");
  const used = [...known.values()].filter((c) => c.count > 0);
  const withPhones = used.some((c) => c.main !== null);
  const ranked = [...known.values()].sort((a, b) => b.count - a.count || a.code - b.code);
  const rank = new Map(ranked.map((c, i) => [c.code, i + 1]));
  const most = ranked[0]?.fraction ?? 0;
  const phoneOrder = (c) => (c.main === null ? Infinity : phone(c.main).order);
  const ORDERS = {
    phone: (a, b) => phoneOrder(a) - phoneOrder(b) || b.purity - a.purity || a.code - b.code,
    usage: (a, b) => rank.get(a.code) - rank.get(b.code),
    number: (a, b) => a.code - b.code,
  };
  let order = withPhones ? "phone" : "usage";
  let current = null;

  function cell(c) {
    return element(
      "button",
      {
        type: "button",
        class: c.count ? "cell tone" : "cell unused",
        style: `${c.tone};--used:${Math.sqrt(c.fraction / most || 0).toFixed(3)}`,
        "data-code": c.code,
        tabindex: -1,
        title: c.count
          ? `code ${c.code}${c.main ? `: ${c.main} in ${quantity(c.purity, "fraction")}` : ""}`
          : `code ${c.code} is not used`,
        onclick: () => openCode(c.code),
      },
      element("small", {}, String(c.code)),
      element("span", {}, c.main ?? ""),
    );
  }

  function render() {
    grid.replaceChildren(...[...known.values()].sort(ORDERS[order]).map(cell));
    const selected = grid.querySelector(`[data-code="${current}"]`) ?? grid.firstElementChild;
    selected?.setAttribute("tabindex", 0);
    if (current !== null) selected?.setAttribute("aria-current", "true");
  }

  grid.addEventListener("keydown", (event) => {
    const cells = [...grid.children];
    const columns = cells.findIndex((c) => c.offsetTop > cells[0].offsetTop);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = step && cells[cells.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    document.activeElement.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  function select(code) {
    grid.querySelectorAll("[aria-current]").forEach((c) => c.removeAttribute("aria-current"));
    document.querySelectorAll(".run.current").forEach((run) => run.classList.remove("current"));
    document.querySelectorAll(`.run[data-code="${code}"]`).forEach((run) => run.classList.add("current"));
    current = code;
    const selected = grid.querySelector(`[data-code="${code}"]`);
    grid.querySelectorAll('[tabindex="0"]').forEach((c) => (c.tabIndex = -1));
    selected?.setAttribute("aria-current", "true");
    if (selected) selected.tabIndex = 0;
    return selected;
  }

  const panel = byId("code-panel");
  const close = () => {
    const last = current;
    panel.hidden = true;
    select(null);
    grid.querySelector(`[data-code="${last}"]`)?.focus();
  };
  document.addEventListener("keydown", (event) => event.key === "Escape" && !panel.hidden && close());

  function beside(step) {
    const cells = [...grid.children];
    const place = cells.findIndex((c) => c.dataset.code === String(current));
    return cells[(place + step + cells.length) % cells.length]?.dataset.code;
  }

  openCode = (code) => {
    select(code);
    const facts = known.get(code);
    const move = (step, label, sign) =>
      element("button", { type: "button", "aria-label": label, onclick: () => openCode(Number(beside(step))) }, sign);
    const arrows = grid.children.length > 1 ? [move(-1, "code before", "‹"), move(1, "next code", "›")] : [];
    panel.replaceChildren(
      element(
        "header",
        {},
        element("span", { class: "codes" }, element("i", { class: "swatch tone", style: facts?.tone })),
        element("h2", {}, `Code ${code}`),
        ...arrows,
        element("button", { type: "button", "aria-label": "close", onclick: close }, "×"),
      ),
      ...(facts?.count
        ? about(facts)
        : [
            element(
              "p",
              { class: "absent" },
              facts ? "No frame has this code." : "This report has no data on single codes.",
            ),
          ]),
    );
    panel.hidden = false;
    panel.scrollTop = 0;
  };

  function about(c) {
    const fact = (name, value) => [element("dt", {}, name), element("dd", {}, value)];
    const parts = [
      element(
        "dl",
        {},
        fact("used in", `${quantity(c.fraction, "fraction")} of frames`),
        fact("frames", number(c.count)),
        fact("rank", `${ordinal(rank.get(c.code))} of ${known.size}`),
        c.mean_run_ms ? fact("mean run", `${number(c.mean_run_ms)} ms`) : [],
      ),
      element("h3", {}, "Phones"),
      c.main === null
        ? element("p", { class: "absent" }, "Unknown: its frames have no phone alignment.")
        : bars(c.phones, phoneTone),
      element("h3", {}, "Speakers"),
      Object.keys(c.speakers ?? {}).length
        ? bars(c.speakers, () => "")
        : element("p", { class: "absent" }, "Unknown."),
      element("h3", {}, "Snippets"),
    ];
    const snippets = (c.snippets ?? []).map(snippet);
    return [
      ...parts,
      snippets.length
        ? element("div", { class: "snippets" }, snippets)
        : element("p", { class: "absent" }, "This report has no audio of it."),
    ];
  }

  function snippet(path, index) {
    const name = path
      .split("/")
      .at(-1)
      .replace(/\.\w+(#.*)?$/, "");
    const range = path.match(/#t=([\d.]+),([\d.]+)$/);
    const when = range ? ` · ${Number(range[1]).toFixed(2)} – ${Number(range[2]).toFixed(2)} s` : "";
    return element(
      "button",
      { type: "button", class: "snippet", "data-path": path, onclick: () => playSnippet(path) },
      element("b", {}, "▶"),
      element("span", {}, name || `snippet ${index + 1}`, element("small", {}, when)),
    );
  }

  if (!known.size) return absent(section, "This report has no data on single codes.");
  byId("codes-description").textContent =
    `${used.length} of ${known.size} codes are used. ` +
    (withPhones
      ? "A cell has the colour of the most frequent phone of its code, stronger for a higher purity; the line below it shows how often the code is used."
      : "There are no phone alignments, so colours only distinguish codes; the line below a cell shows how often its code is used.");
  const sortBy = (event) => {
    order = event.currentTarget.value;
    render();
  };
  const choices = Object.keys(ORDERS).filter((name) => name !== "phone" || withPhones);
  const picker = element(
    "select",
    { id: "codes-order", onchange: sortBy },
    choices.map((name) => element("option", { value: name }, name)),
  );
  const families = new Map(
    used
      .filter((c) => c.main !== null)
      .map((c) => [phone(c.main).family, phone(c.main)])
      .sort((a, b) => a[1].order - b[1].order),
  );
  const legend = [...families].map(([family, { hue }]) =>
    element("span", { class: "family codes" }, element("i", { class: "swatch tone", style: tone(hue) }), family),
  );
  if (withPhones && used.some((c) => c.main === null))
    legend.push(
      element(
        "span",
        { class: "family codes" },
        element("i", { class: "swatch tone", style: tone(null, 0, UNKNOWN_LIFT) }),
        "unknown",
      ),
    );
  byId("codes-tools").append(element("label", {}, "sort by ", picker), ...legend);
  render();
}
