// The table of all metrics: a row for each task, set and metric, a column for each system.

const OURS = "tokens";
const REFERENCES = ["original", "original (Griffin-Lim)"]; // without codes: never marked as the best system
const KEYS = { task: "Task", set: "Set" };

/** Values -> rows {task, set, metric, ..., cells: {system: value}} in the report's order. */
function pivot(values) {
  const rows = new Map();
  for (const value of values) {
    const key = JSON.stringify([value.task, value.set, value.metric]);
    if (!rows.has(key)) rows.set(key, { ...value, cells: {} });
    rows.get(key).cells[value.system] = value;
  }
  return [...rows.values()];
}

/** The best system of a row, and whether its interval is disjoint from all others; null where there is none. */
function best(row) {
  const found = Object.values(row.cells).filter((f) => f.value !== null && !REFERENCES.includes(f.system));
  if (row.better === "neither" || found.length < 2) return null;
  const sign = row.better === "lower" ? -1 : 1;
  const [first, ...others] = found.sort((a, b) => sign * (b.value - a.value));
  if (first.value === others[0].value) return null;
  const known = found.every((f) => f.count > 1); // the interval of a single item has no width
  const disjoint = known && others.every((f) => (sign > 0 ? first.low > f.high : first.high < f.low));
  return { system: first.system, disjoint };
}

/** One value with its interval, number of items, and a bar on the scale of the row. */
function valueCell(estimate, row, lead) {
  if (!estimate) return element("td", { class: "empty" }, "");
  const all = Object.values(row.cells).flatMap((f) => [f.value, f.low, f.high]);
  const [least, most] = [Math.min(0, ...all), Math.max(row.unit === "fraction" ? 1 : 0, ...all)];
  const at = (value) => (100 * (value - least)) / (most - least || 1);
  const mark = lead?.system === estimate.system ? (lead.disjoint ? "●" : "○") : null;
  const [from, to] = [at(estimate.low), at(estimate.high)];
  const [left, right] = [at(0), at(estimate.value)].sort((a, b) => a - b);
  const drawn =
    estimate.value !== null &&
    element(
      "div",
      { class: "bar", "aria-hidden": "true" },
      element("i", { style: `left:${left}%;width:${right - left}%` }),
      element("b", { style: `left:${from}%;width:${to - from}%` }),
    );
  const ends = [estimate.low, estimate.high].map((value) => quantity(value, estimate.unit, { bare: true }));
  return element(
    "td",
    { class: `estimate${estimate.system === OURS ? " ours" : ""}`, title: `${estimate.system}: n = ${estimate.count}` },
    estimate.value !== null && element("span", { class: "value" }, quantity(estimate.value, estimate.unit)),
    mark && element("b", { class: "best", title: lead.disjoint ? "best" : "best, but intervals overlap" }, ` ${mark}`),
    drawn,
    element(
      "small",
      {},
      estimate.value === null
        ? "not defined"
        : `${ends.join(estimate.low < 0 ? " to " : " – ")} · n = ${number(estimate.count)}`,
    ),
  );
}

function metricsTable(report) {
  const rows = pivot(report.metrics);
  const titles = new Map(report.tasks.map((t) => [t.key, t.title]));
  const compared = new Set([OURS, ...rows.filter((row) => OURS in row.cells).flatMap((row) => Object.keys(row.cells))]);
  const kinds = ["original", "reconstruction", "conversion"]; // of audio, in this order
  const kind = (system) => kinds.findIndex((name) => system.startsWith(name));
  const systems = [...new Set([...compared, ...report.metrics.map((f) => f.system)])].sort((a, b) => kind(a) - kind(b));
  const table = byId("metrics-table");
  const chosen = {
    task: report.tasks.find((t) => rows.some((r) => r.task === t.key))?.key ?? null,
    set: null,
  };
  const sorted = { column: null, sign: 1 };
  const text = (row, key) => (key === "task" ? (titles.get(row.task) ?? row.task) : row[key]);

  function published(row) {
    return report.published.filter((p) => p.task === row.task && p.metric === row.metric);
  }

  function valueOf(row, column) {
    if (column === "published") return published(row)[0]?.value ?? null;
    if (column.startsWith("system:")) return row.cells[column.slice(7)]?.value ?? null;
    return words(text(row, column));
  }

  function compare(a, b) {
    const [x, y] = [valueOf(a, sorted.column), valueOf(b, sorted.column)];
    if (x === null || y === null) return (x === null) - (y === null); // missing values stay last
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
    const lead = best(row);
    const arrow = { higher: " ↑", lower: " ↓" }[row.better];
    const name = element(
      "details",
      {},
      element(
        "summary",
        {},
        words(row.metric),
        element("span", { class: "better", title: arrow && `${row.better} is better` }, arrow ?? ""),
      ),
      element("p", {}, row.meaning),
    );
    const cell = (column) => {
      if (column in KEYS) return element("td", { class: "key" }, text(row, column));
      if (column.startsWith("system:")) return valueCell(row.cells[column.slice(7)], row, lead);
      const quoted = published(row).map((p) =>
        element(
          "div",
          { title: `${p.source}${p.note ? `: ${p.note}` : ""}` },
          element("span", { class: "value" }, quantity(p.value, p.unit)),
          element("small", {}, p.system),
        ),
      );
      return element("td", { class: "estimate quoted" }, quoted);
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
      ...there.filter((system) => compared.has(system)).map((system) => `system:${system}`),
      ...(shown.some((row) => published(row).length) ? ["published"] : []),
      ...there.filter((system) => !compared.has(system)).map((system) => `system:${system}`),
    ];
    const label = (column) => KEYS[column] ?? (column === "published" ? "published" : column.slice(7));
    table.tHead.replaceChildren(
      element(
        "tr",
        {},
        heading("metric", "Metric"),
        columns.map((c) => heading(c, label(c))),
      ),
    );
    table.tBodies[0].replaceChildren(...shown.map((row) => bodyRow(row, columns)));
    const task = report.tasks.find((t) => t.key === chosen.task);
    byId("description").textContent = task?.description ?? "";
    renderMissing();
  }

  function renderMissing() {
    const missing = report.missing.filter((m) =>
      Object.keys(KEYS).every((key) => chosen[key] === null || !m[key] || m[key] === chosen[key]),
    );
    const item = (m) =>
      element("li", {}, element("b", {}, [text(m, "task"), m.set].filter(Boolean).join(", ")), `: ${m.reason}`);
    const list = [element("h3", {}, "Not measured"), element("ul", { class: "missing" }, missing.map(item))];
    byId("missing").replaceChildren(...(missing.length ? list : []));
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
    return options.length > 2 ? group : null; // with a single value, "all" would be the same
  }

  const named = (key) => [...new Set([...rows, ...report.missing].map((row) => row[key]).filter(Boolean))];
  const options = (key) => [
    [null, `all ${KEYS[key].toLowerCase()}s`],
    ...named(key).map((v) => [v, text({ [key]: v }, key)]),
  ];
  byId("filters").replaceChildren(...["task", "set"].map((key) => chips(key, options(key))).filter(Boolean));
  table.hidden = byId("metrics-legend").hidden = rows.length === 0;
  if (!rows.length) table.before(element("p", { class: "absent" }, "This report has no metrics."));
  render();
}

function publishedTable(report) {
  if (!report.published.length) return absent(byId("published"), "This report has no published results.");
  const titles = new Map(report.tasks.map((t) => [t.key, t.title]));
  const head = ["Task", "Metric", "System", "Value", "Source", "Note"].map((name) => element("th", { scope: "col" }, name));
  const row = (p) =>
    element(
      "tr",
      {},
      element("td", { class: "key" }, titles.get(p.task) ?? p.task),
      element("th", { scope: "row" }, words(p.metric)),
      element("td", { class: "key" }, p.system),
      element("td", { class: "value" }, quantity(p.value, p.unit)),
      element("td", {}, p.source),
      element("td", { class: "prose" }, p.note ?? ""),
    );
  byId("published-table").append(
    element("thead", {}, element("tr", {}, head)),
    element("tbody", {}, report.published.map(row)),
  );
}
