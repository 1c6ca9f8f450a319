// The table of all figures: a row for each question, set and figure, a column for each system.

const OURS = "tokens";
const YARDSTICKS = ["original", "original audio"]; // what the others are held against, not one of them
const KEYS = { question: "Question", set: "Set" };

/** Figures -> rows {question, set, name, ..., cells: {system: figure}} in the report's order. */
function pivot(figures) {
  const rows = new Map();
  for (const figure of figures) {
    const key = JSON.stringify([figure.question, figure.set, figure.name]);
    if (!rows.has(key)) rows.set(key, { ...figure, cells: {} });
    rows.get(key).cells[figure.system] = figure;
  }
  return [...rows.values()];
}

/** The system that is ahead in a row, and whether its interval lies apart from all others; null where none is. */
function ahead(row) {
  const found = Object.values(row.cells).filter((f) => f.value !== null && !YARDSTICKS.includes(f.system));
  if (row.better === "neither" || found.length < 2) return null;
  const sign = row.better === "lower" ? -1 : 1;
  const [first, ...others] = found.sort((a, b) => sign * (b.value - a.value));
  if (first.value === others[0].value) return null;
  const known = found.every((f) => f.count > 1); // of one item an interval has no width
  const apart = known && others.every((f) => (sign > 0 ? first.low > f.high : first.high < f.low));
  return { system: first.system, apart };
}

/** One figure: value, interval, items, and both as a bar on the row's scale. */
function figureCell(figure, row, lead) {
  if (!figure) return element("td", { class: "empty" }, "");
  const all = Object.values(row.cells).flatMap((f) => [f.value, f.low, f.high]);
  const [least, most] = [Math.min(0, ...all), Math.max(row.unit === "share" ? 1 : 0, ...all)];
  const at = (value) => (100 * (value - least)) / (most - least || 1);
  const mark = lead?.system === figure.system ? (lead.apart ? "●" : "○") : null;
  const [from, to] = [at(figure.low), at(figure.high)];
  const [left, right] = [at(0), at(figure.value)].sort((a, b) => a - b);
  const drawn =
    figure.value !== null &&
    element(
      "div",
      { class: "bar", "aria-hidden": "true" },
      element("i", { style: `left:${left}%;width:${right - left}%` }),
      element("b", { style: `left:${from}%;width:${to - from}%` }),
    );
  const ends = [figure.low, figure.high].map((value) => quantity(value, figure.unit, { bare: true }));
  return element(
    "td",
    { class: `figure${figure.system === OURS ? " ours" : ""}`, title: `${figure.system}: n = ${figure.count}` },
    figure.value !== null && element("span", { class: "value" }, quantity(figure.value, figure.unit)),
    mark && element("b", { class: "ahead", title: lead.apart ? "ahead" : "ahead, intervals overlap" }, ` ${mark}`),
    drawn,
    element(
      "small",
      {},
      figure.value === null
        ? "not defined"
        : `${ends.join(figure.low < 0 ? " to " : " – ")} · n = ${number(figure.count)}`,
    ),
  );
}

function figuresTable(report) {
  const rows = pivot(report.figures);
  const titles = new Map(report.questions.map((q) => [q.key, q.title]));
  const rivals = new Set([OURS, ...rows.filter((row) => OURS in row.cells).flatMap((row) => Object.keys(row.cells))]);
  const systems = [...new Set([...rivals, ...report.figures.map((f) => f.system)])];
  const table = byId("figures-table");
  const chosen = {
    question: report.questions.find((q) => rows.some((r) => r.question === q.key))?.key ?? null,
    set: null,
  };
  const sorted = { column: null, sign: 1 };
  const text = (row, key) => (key === "question" ? (titles.get(row.question) ?? row.question) : row[key]);

  // "accuracy, VQ-VAE" is of the figure accuracy
  function published(row) {
    return report.published.filter((p) => p.question === row.question && p.name.split(", ")[0] === row.name);
  }

  function valueOf(row, column) {
    if (column === "published") return published(row)[0]?.value ?? null;
    if (column.startsWith("system:")) return row.cells[column.slice(7)]?.value ?? null;
    return words(text(row, column));
  }

  function compare(a, b) {
    const [x, y] = [valueOf(a, sorted.column), valueOf(b, sorted.column)];
    if (x === null || y === null) return (x === null) - (y === null); // what is not there stays last
    return sorted.sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  }

  function heading(column, label) {
    const direction = sorted.column === column ? (sorted.sign > 0 ? "ascending" : "descending") : "none";
    const sort = () => {
      sorted.sign = sorted.column === column ? -sorted.sign : 1;
      sorted.column = column;
      render();
      table.querySelector(`[data-column="${CSS.escape(column)}"]`).focus({ preventScroll: true });
    };
    const button = element("button", { type: "button", "data-column": column, onclick: sort }, label);
    return element(
      "th",
      { scope: "col", "aria-sort": direction, class: column === `system:${OURS}` ? "ours" : null },
      button,
    );
  }

  function bodyRow(row, columns) {
    const lead = ahead(row);
    const arrow = { higher: " ↑", lower: " ↓" }[row.better];
    const name = element(
      "details",
      {},
      element(
        "summary",
        {},
        words(row.name),
        element("span", { class: "better", title: arrow && `${row.better} is better` }, arrow ?? ""),
      ),
      element("p", {}, row.meaning),
    );
    const cell = (column) => {
      if (column in KEYS) return element("td", { class: "key" }, text(row, column));
      if (column.startsWith("system:")) return figureCell(row.cells[column.slice(7)], row, lead);
      const quoted = published(row).map((p) =>
        element(
          "div",
          { title: `${p.source}${p.note ? `: ${p.note}` : ""}` },
          element("span", { class: "value" }, quantity(p.value, p.unit)),
          element("small", {}, p.name.split(", ").slice(1).join(", ") || p.source),
        ),
      );
      return element("td", { class: "figure quoted" }, quoted);
    };
    return element("tr", {}, element("th", { scope: "row" }, name), columns.map(cell));
  }

  function render() {
    const shown = rows.filter((row) =>
      Object.keys(KEYS).every((key) => chosen[key] === null || row[key] === chosen[key]),
    );
    if (sorted.column !== null) shown.sort(compare);
    const there = systems.filter((system) => shown.some((row) => system in row.cells));
    const columns = [
      ...Object.keys(KEYS).filter((key) => chosen[key] === null && new Set(rows.map((row) => row[key])).size > 1),
      ...there.filter((system) => rivals.has(system)).map((system) => `system:${system}`),
      ...(shown.some((row) => published(row).length) ? ["published"] : []),
      ...there.filter((system) => !rivals.has(system)).map((system) => `system:${system}`),
    ];
    const label = (column) => KEYS[column] ?? (column === "published" ? "published" : column.slice(7));
    table.tHead.replaceChildren(
      element(
        "tr",
        {},
        heading("name", "Figure"),
        columns.map((c) => heading(c, label(c))),
      ),
    );
    table.tBodies[0].replaceChildren(...shown.map((row) => bodyRow(row, columns)));
    const question = report.questions.find((q) => q.key === chosen.question);
    byId("asks").textContent = question?.asks ?? "";
    renderMissing();
  }

  function renderMissing() {
    const gaps = report.missing.filter((m) =>
      Object.keys(KEYS).every((key) => chosen[key] === null || !m[key] || m[key] === chosen[key]),
    );
    const said = (m) =>
      element("li", {}, element("b", {}, [text(m, "question"), m.set].filter(Boolean).join(", ")), `: ${m.why}`);
    const list = [element("h3", {}, "Not measured"), element("ul", { class: "missing" }, gaps.map(said))];
    byId("missing").replaceChildren(...(gaps.length ? list : []));
  }

  function chips(key, options) {
    const choose = (value) => () => {
      chosen[key] = value;
      for (const chip of group.children)
        chip.setAttribute("aria-pressed", String(chip.dataset.value === (value ?? "")));
      render();
    };
    const chip = ([value, label]) =>
      element(
        "button",
        {
          type: "button",
          "data-value": value ?? "",
          "aria-pressed": String(value === chosen[key]),
          onclick: choose(value),
        },
        label,
      );
    const group = element("div", { class: "chips", role: "group", "aria-label": KEYS[key] }, options.map(chip));
    return options.length > 2 ? group : null; // all, and the only one, are the same
  }

  const named = (key) => [...new Set([...rows, ...report.missing].map((row) => row[key]).filter(Boolean))];
  const options = (key) => [
    [null, `all ${KEYS[key].toLowerCase()}s`],
    ...named(key).map((v) => [v, text({ [key]: v }, key)]),
  ];
  byId("filters").replaceChildren(...["question", "set"].map((key) => chips(key, options(key))).filter(Boolean));
  table.hidden = byId("figures-legend").hidden = rows.length === 0;
  if (!rows.length) table.before(element("p", { class: "absent" }, "No figure was measured."));
  render();
}

function publishedTable(report) {
  if (!report.published.length) return absent(byId("published"), "None is quoted in this report.");
  const titles = new Map(report.questions.map((q) => [q.key, q.title]));
  const head = ["Question", "Figure", "Value", "Source", "Note"].map((name) => element("th", { scope: "col" }, name));
  const row = (p) =>
    element(
      "tr",
      {},
      element("td", { class: "key" }, titles.get(p.question) ?? p.question),
      element("th", { scope: "row" }, words(p.name)),
      element("td", { class: "value" }, quantity(p.value, p.unit)),
      element("td", {}, p.source),
      element("td", { class: "prose" }, p.note ?? ""),
    );
  byId("published-table").append(
    element("thead", {}, element("tr", {}, head)),
    element("tbody", {}, report.published.map(row)),
  );
}
