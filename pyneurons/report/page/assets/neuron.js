"use strict";
// One neuron: the words and numbers of `pyneurons show RUN 3.104`.
(page => {
  const {element, filled} = page;

  function tableOf(run, table, block, i, k, n, strings) {
    const fires = table[`ngram_fires_${n}`][i];
    if (!fires) return [];
    const number = table[`coverage_${n}`][i];
    const unknown = number === page.about.unknown;
    const name = unknown ? "covers_between" : number === 1 ? "covers_one" : "covers";
    const said = filled(name, {what: page.ngram(n), fires, number,
      least: unknown ? table[`coverage_${n}_least`][i] : number,
      most: unknown ? table[`coverage_${n}_most`][i] : number});
    const starts = block[`ngrams_${n}_starts`];
    const rows = [];
    for (let r = starts[k]; r < starts[k + 1]; r++) {
      const ids = block[`ngrams_${n}_tokens`].subarray(r * n, (r + 1) * n);
      const own = block[`ngrams_${n}_fires`][r];
      const occurs = block[`ngrams_${n}_occurrences`][r];
      rows.push(element("tr", null,
        element("td", null, ...Array.from(ids, id => page.token(strings[id]))),
        element("td", null, page.count(own)),
        element("td", null, page.number(100 * own / fires, ".1f")),
        element("td", null, page.count(occurs)),
        element("td", null, page.number(100 * (own / occurs), ".1f")),
        element("td", null, block[`ngrams_${n}_covered`][r] ? "✓" : "")));
    }
    const heads = ["", "fires", "of fires %", "occurs", "precision %", "covered"];
    return [
      element("h2", null, page.define("covering-number", said), unknown ? filled("at_least") : null),
      element("div.scroll", null, element("table", {className: `ngrams-${n}`},
        element("tr", null, ...heads.map(head => element("th", null, head))), ...rows)),
    ];
  }

  function curve(run, facts, table, block, i, k, title) {
    if (!facts.full_sequences) return [];
    const points = facts.edges.length - 1;
    const whole = block.curve_whole_of.indexOf(k);
    const rows = [];
    if (whole >= 0) {
      const T = facts.edges[points];
      for (let p = 0; p < T; p++) {
        rows.push({position: p, last: p, frequency: block.curve_whole[whole * T + p] / facts.full_sequences});
      }
    } else {
      for (let p = 0; p < points; p++) {
        const [first, end] = [facts.edges[p], facts.edges[p + 1]];
        rows.push({position: first, last: end - 1,
          frequency: block.curve[k * points + p] / (facts.full_sequences * (end - first))});
      }
    }
    const bins = whole < 0 && facts.edges[points] > points
      ? `, the mean of ${points} ranges of positions` : "";
    return [page.figure({
      id: `curve-${title}`, title: filled("curve", {mi: table.mi[i]}) + filled("bias", {bias: facts.mi_bias}),
      says: `Share of the ${page.count(facts.full_sequences)} full sequences in which it fires there${bins}.`,
      definition: "positional", broad: true, rows,
      spec: {
        width: "container", height: 150, data: {values: rows},
        mark: {type: "area", line: true, interpolate: "step", opacity: 0.3, tooltip: true},
        encoding: {
          x: {field: "position", type: "quantitative", scale: {nice: false}},
          y: {field: "frequency", type: "quantitative", scale: {zero: true}},
          tooltip: [{field: "position", type: "quantitative"}, {field: "last", type: "quantitative", title: "to"},
            {field: "frequency", type: "quantitative", format: ".4f"}],
        },
      },
    })];
  }

  function domains(facts, table, i) {
    const F = facts.neurons;
    return facts.domains.map(([domain, tokens], d) => ({
      domain, percent: 100 * (table.domain_fires[d * F + i] / Math.max(tokens, 1)),
    }));
  }

  function update(block, k, strings) {
    const width = block.promoted.length / (block.curve_rows || 1);
    return ["promoted", "suppressed"].map(side => {
      const ids = block[side].subarray(k * width, (k + 1) * width);
      const scores = block[`${side}_scores`].subarray(k * width, (k + 1) * width);
      return element("div", null, element("h2", null, page.define("suppression", side)),
        element("p.tokens", {className: `tokens ${side}`}, ...Array.from(ids, (id, t) => {
          const [before, after] = page.about.templates.token_score.split("{token}");
          return element("span", null, before, page.token(strings[id]), element("span.score", null,
            after.replace("{score:+.2f}", page.number(scores[t], "+.2f"))));
        })));
    });
  }

  function triggers(facts, block, k, strings) {
    const [from, to] = [block.triggers_starts[k], block.triggers_starts[k + 1]];
    if (from === to) return [];
    const lines = [];
    for (let r = from; r < to; r++) {
      const said = filled("trigger", {token: "\u0000", score: block.triggers_score[r],
        centred: block.triggers_centred[r], place: block.triggers_rank[r] + 1, vocabulary: facts.vocabulary});
      const [before, after] = said.split("\u0000");
      lines.push(element("li", null, before, page.token(strings[block.triggers_token[r]]), after));
    }
    return [element("h2", null, page.define("suppression", filled("triggers"))),
      element("ul.facts.triggers", null, ...lines)];
  }

  function contexts(facts, block, k, strings) {
    if (!facts.text) return [];
    const [from, to] = [block.contexts_starts[k], block.contexts_starts[k + 1]];
    if (from === to) return [];
    const lines = [];
    for (let r = from; r < to; r++) {
      const first = block.contexts_tokens_starts[r];
      const end = block.contexts_tokens_starts[r + 1];
      const at = first + block.contexts_before[r];
      const text = (a, b) => Array.from(block.contexts_tokens.subarray(a, b), id => strings[id]).join("");
      lines.push(element("li", null,
        element("span.where", null, `${facts.domains[block.contexts_domain[r]][0]} @${block.contexts_position[r]}`),
        element("span.text", null, text(first, at), element("mark", null, text(at, at + 1)), text(at + 1, end))));
    }
    return [element("h2", null, filled("contexts")), element("ul.contexts", null, ...lines)];
  }

  page.neuronView = async (section, run, name) => {
    const facts = page.about.runs[run];
    const match = /^(\d+)\.(\d+)$/.exec(name || "");
    const [layer, i] = match ? [Number(match[1]), Number(match[2])] : [-1, -1];
    if (!facts.layers.includes(layer) || i >= facts.neurons) {
      section.replaceChildren(element("p.note", null,
        `neuron ${name} was not scanned: layers ${facts.layers.join(", ")}, neurons 0 to ${facts.neurons - 1}`));
      return;
    }
    const size = page.about.details;
    const chunk = Math.floor(i / size);
    const [table, block, strings] = await Promise.all([
      page.table(run, layer), page.block(`r${run}/L${layer}/${chunk}`), page.strings(run)]);
    page.forget(64);
    const k = i - chunk * size;
    block.curve_rows = Math.min(size, facts.neurons - chunk * size);
    const shares = domains(facts, table, i);
    const step = by => {
      const place = facts.layers.indexOf(layer) * facts.neurons + i + by;
      const l = facts.layers[Math.floor(place / facts.neurons)];
      return place < 0 || l === undefined ? null : element("a",
        {href: page.hash("neuron", `${l}.${place % facts.neurons}`, run)}, by < 0 ? "← previous" : "next →");
    };
    section.replaceChildren(
      element("div.walk", null,
        element("a", {href: page.hash("neurons", null, run)}, "all neurons"),
        element("a", {href: page.hash("layers", String(layer), run)}, `layer ${layer}`), step(-1), step(1)),
      element("h1", null, `neuron ${name}: ${table.phrases[table.said[i]]}`),
      element("ul.facts", null,
        element("li", null, filled("fires", {fires: table.fires[i], percent: 100 * (table.fires[i] / facts.tokens),
          bos_fires: table.bos_fires[i], separator_fires: table.separator_fires[i]})),
        element("li", null, `by domain: ${shares.map(share => filled("domain", share)).join(", ")}`),
        element("li", null, filled("bounds", {z_max: table.z_max[i], z_inf: table.z_inf[i], z_sup: table.z_sup[i]}))),
      element("div.columns.narrow", null, ...facts.ngrams.map(n => tableOf(run, table, block, i, k, n, strings))
        .filter(parts => parts.length).map(parts => element("div", null, ...parts))),
      element("h2", null, page.define("positional", "positions")),
      ...curve(run, facts, table, block, i, k, name),
      element("div.columns", null, ...update(block, k, strings)),
      ...triggers(facts, block, k, strings),
      ...contexts(facts, block, k, strings));
    section.dataset.neuron = name;
    await Promise.all([...section.querySelectorAll(".figure")].map(figure => figure.show()));
  };
})(window.pyneurons);
