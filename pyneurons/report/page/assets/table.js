"use strict";
// All neurons: sorted, filtered, searched. A row is layer's place * F + neuron.
(page => {
  const {element} = page;
  page.FLAGS = {dead: 1, proven: 2, on: 4, positional: 8, open: 16};

  page.table = (run, layer) => page.block(`r${run}/L${layer}/table`);

  // What the neuron is, for filters and colours; the first that holds.
  page.kinds = run => ["dead, proven", "dead", ...page.about.runs[run].ngrams.map(n => `${page.ngram(n)} detector`),
    "positional", "no detector", "left open"];
  page.kind = (table, i) => {
    const flags = table.flags[i];
    if (flags & page.FLAGS.proven && flags & page.FLAGS.dead) return "dead, proven";
    if (flags & page.FLAGS.dead) return "dead";
    if (table.role[i] > 0 && table.role[i] !== 255) return `${page.ngram(table.role[i])} detector`;
    if (flags & page.FLAGS.positional) return "positional";
    return table.role[i] === 0 ? "no detector" : "left open";
  };

  function covering(table, i, n) {
    const value = table[`coverage_${n}`][i];
    return value === page.about.unknown ? table[`coverage_${n}_most`][i] : value;
  }

  function columnsOf(run, tables) {
    const facts = page.about.runs[run];
    const F = facts.neurons;
    const of = id => [tables[Math.floor(id / F)], id % F];
    const percent = id => { const [t, i] = of(id); return 100 * (t.fires[i] / facts.tokens); };
    return [
      {name: "neuron", said: "neuron", left: true, width: "minmax(96px,1fr)", least: 96, key: id => id,
        cell: id => `${facts.layers[Math.floor(id / F)]}.${id % F}`},
      {name: "role", said: "role", left: true, width: "minmax(170px,3fr)", least: 170,
        key: id => { const [t, i] = of(id); return page.kinds(run).indexOf(page.kind(t, i)); },
        cell: id => { const [t, i] = of(id); return t.phrases[t.said[i]]; }},
      {name: "fires", said: "fires", width: "minmax(96px,1fr)", least: 96,
        key: id => { const [t, i] = of(id); return t.fires[i]; },
        cell: id => { const [t, i] = of(id); return page.count(t.fires[i]); }},
      {name: "frequency", said: "frequency %", width: "minmax(124px,1fr)", least: 124, key: percent,
        cell: id => page.number(percent(id), ".3f")},
      ...facts.ngrams.map(n => ({
        name: `coverage_${n}`, said: `${page.ngram(n)}s`, width: "minmax(96px,1fr)", least: 96,
        title: `covering number: ${page.ngram(n)}s that hold 95 % of its fires`,
        key: id => { const [t, i] = of(id); return covering(t, i, n); },
        cell: id => {
          const [t, i] = of(id);
          return t[`coverage_${n}`][i] === page.about.unknown
            ? `${page.count(t[`coverage_${n}_least`][i])}–${page.count(t[`coverage_${n}_most`][i])}`
            : page.count(t[`coverage_${n}`][i]);
        }})),
      {name: "mi", said: "MI, nats", width: "minmax(84px,1fr)", least: 84,
        key: id => { const [t, i] = of(id); return t.mi[i]; },
        cell: id => { const [t, i] = of(id); return page.number(t.mi[i], ".4f"); }},
      {name: "z_sup", said: "sup z", title: "largest z on any input", width: "minmax(76px,1fr)", least: 76,
        key: id => { const [t, i] = of(id); return t.z_sup[i]; },
        cell: id => { const [t, i] = of(id); return page.number(t.z_sup[i], ".2f"); }},
    ];
  }

  page.neuronsView = async (section, run) => {
    const facts = page.about.runs[run];
    const F = facts.neurons;
    const tables = facts.layers.map(() => null);
    let columns = columnsOf(run, tables);
    let sorted = {name: "neuron", up: true};
    let turn = 0;

    const option = (value, said) => element("option", {value}, said === undefined ? value : said);
    const numberInput = (label, hint) => element("input", {type: "number", min: 0, step: "any",
      "aria-label": label, placeholder: hint});
    const layer = element("select", {"data-filter": "layer"}, option("all", "all layers"), ...facts.layers.map(l => option(String(l))));
    layer.value = page.about.data ? String(facts.layers[0]) : "all";
    const role = element("select", {"data-filter": "role"}, option("any"), ...page.kinds(run).map(kind => option(kind)),
      option("always on, proven"));
    const from = numberInput("least frequency, per cent", "from");
    const to = numberInput("largest frequency, per cent", "to");
    const order = element("select", {"aria-label": "n-grams of the covering number"},
      ...facts.ngrams.map(n => option(String(n), `${page.ngram(n)}s`)));
    const least = numberInput("least covering number", "from");
    const most = numberInput("largest covering number", "to");
    const mi = numberInput("least mutual information", "0.05");
    const search = element("input", {type: "search", placeholder: " import", "data-filter": "search",
      spellcheck: false, autocomplete: "off"});
    const found = element("div", {"aria-live": "polite"});
    const count = element("p.faint", {"aria-live": "polite"});
    const grid = page.grid({
      label: "neurons", columns,
      href: id => page.hash("neuron", `${facts.layers[Math.floor(id / F)]}.${id % F}`, run),
      open: id => page.go("neuron", `${facts.layers[Math.floor(id / F)]}.${id % F}`),
      onsort: name => {
        // Numbers are looked at from the largest down.
        sorted = {name, up: sorted.name === name ? !sorted.up : name === "neuron" || name === "role"};
        refresh();
      },
    });

    async function refresh() {
      const mine = ++turn;
      const wanted = facts.layers.map((_, i) => i).filter(i => layer.value === "all" || String(facts.layers[i]) === layer.value);
      for (const [done, i] of wanted.entries()) {
        if (!tables[i]) {
          if (wanted.length > 1 && page.about.data) count.textContent = `reading layer ${done + 1} of ${wanted.length}`;
          tables[i] = await page.table(run, facts.layers[i]);
        }
        if (mine !== turn) return;
      }
      const set = input => input.value !== "" && Number.isFinite(Number(input.value));
      const n = order.value;
      const ids = [];
      for (const l of wanted) {
        const t = tables[l];
        for (let i = 0; i < F; i++) {
          if (role.value !== "any") {
            if (role.value === "always on, proven") { if (!(t.flags[i] & page.FLAGS.on)) continue; }
            else if (role.value === "positional") { if (!(t.flags[i] & page.FLAGS.positional)) continue; }
            else if (page.kind(t, i) !== role.value) continue;
          }
          const frequency = 100 * (t.fires[i] / facts.tokens);
          if (set(from) && frequency < Number(from.value)) continue;
          if (set(to) && frequency > Number(to.value)) continue;
          if (n && set(least) && covering(t, i, n) < Number(least.value)) continue;
          if (n && set(most) && covering(t, i, n) > Number(most.value)) continue;
          if (set(mi) && t.mi[i] < Number(mi.value)) continue;
          ids.push(l * F + i);
        }
      }
      const {key} = columns.find(column => column.name === sorted.name);
      if (sorted.name !== "neuron" || !sorted.up) {
        const keys = Float64Array.from(ids, key);
        const places = Uint32Array.from(ids, (_, i) => i);
        const sign = sorted.up ? 1 : -1;
        places.sort((a, b) => sign * (keys[a] - keys[b]) || a - b);
        grid.fill(Array.from(places, i => ids[i]), sorted);
      } else {
        grid.fill(ids, sorted);
      }
      count.textContent = `${page.count(ids.length)} of ${page.count(wanted.length * F)} neurons`;
      section.dataset.state = "ready";
    }

    let asked = 0;
    async function look() {
      const mine = ++asked;
      const text = search.value;
      if (!text) { found.replaceChildren(); return; }
      const {exact, within} = await page.search(run, text);
      if (mine !== asked) return;
      const MOST = 1000;
      const list = (rows, said) => rows.length === 0 ? [] : [
        element("p", null, said(rows.length), rows.length > MOST ? `; the first ${page.count(MOST)}: ` : ": ",
          element("button", {type: "button", onclick: () => page.download("detectors.csv", "text/csv", page.csv(rows))}, "CSV")),
        element("div.scroll", null, element("table.found", null,
          element("tr", null, ...["neuron", "n-gram", "n", "fires", "share of fires on its n-grams %"].map((name, i) =>
            element(i < 2 ? "th.left" : "th", null, name))),
          ...rows.slice(0, MOST).map(row => element("tr", null,
            element("td", null, element("a", {href: page.hash("neuron", `${row.layer}.${row.neuron}`, run)},
              `${row.layer}.${row.neuron}`)),
            element("td.left", null, ...row.tokens.map(page.token)),
            element("td", null, String(row.n)),
            element("td", null, page.count(row.fires)),
            element("td", null, page.number(100 * row.coverage, ".1f"))))))];
      const other = ` ${text.trim()}`;
      found.replaceChildren(element("div.note", null,
        ...(exact.length ? list(exact, k => `${page.count(k)} ${k === 1 ? "neuron detects" : "detections of"} “${page.visible(text)}”`)
          : [element("p", null, page.filled("not_found", {text: `“${page.visible(text)}”`, other: `“${page.visible(other)}”`}))]),
        ...list(within, k => `${page.count(k)} longer n-grams with it`)));
      found.dataset.state = text;
    }

    let later = 0;
    const soon = what => () => { clearTimeout(later); later = setTimeout(what, 150); };
    for (const input of [layer, role, order]) input.addEventListener("change", refresh);
    for (const input of [from, to, least, most, mi]) input.addEventListener("input", soon(refresh));
    search.addEventListener("input", soon(look));

    const label = (said, ...inputs) => element("label", null, said,
      inputs.length > 1 ? element("span.pair", null, ...inputs) : inputs[0]);
    section.replaceChildren(
      element("h1", null, "Neurons"),
      element("div.filters", null,
        label("who detects this token or n-gram", search),
        label("layer", layer), label("role", role),
        label("frequency, %", from, to),
        facts.ngrams.length ? label("covering number", order, least, most) : null,
        label("MI at least", mi)),
      found, count, grid);
    await refresh();
  };
})(window.pyneurons);
