"use strict";
// The run as a whole, and the figures of all runs.
(page => {
  const {element} = page;

  function layersTable(facts) {
    const {summary} = facts;
    const heads = ["layer", "alive", "dead", "dead %", "proven", "fires %",
      ...facts.ngrams.map(n => `${page.ngram(n)}s`), "pos."];
    return element("div.scroll", null, element("table.summary", null,
      element("tr", null, ...heads.map(head => element("th", null, head))),
      ...summary.layer.map((layer, i) => element("tr", null, ...[
        element("a", {href: page.hash("layers", String(layer), page.about.runs.indexOf(facts))}, String(layer)),
        page.count(summary.alive[i]), page.count(summary.dead[i]),
        page.number(100 * summary.dead[i] / facts.neurons, ".1f"), page.count(summary.proven[i]),
        summary.mean_frequency[i] === null ? "–" : page.number(100 * summary.mean_frequency[i], ".2f"),
        ...facts.ngrams.map(n => `${page.count(summary[`detectors_${n}`][i])} (${page.count(summary[`supported_${n}`][i])})`),
        page.count(summary.positional[i]),
      ].map(said => element("td", null, said))))));
  }

  // A mark that stands for a neuron opens it.
  function opened(datum, run) {
    if (Number.isInteger(run) && Number.isInteger(datum.layer) && Number.isInteger(datum.neuron)) {
      location.hash = page.hash("neuron", `${datum.layer}.${datum.neuron}`, run);
    }
  }

  page.overviewView = async (section, run) => {
    const facts = page.about.runs[run];
    const line = said => element("li", null, said);
    section.replaceChildren(
      element("h1", null, facts.title),
      element("ul.facts", null, ...facts.lines.map(line),
        element("li", null, page.define("numeric", facts.numeric[0]), facts.numeric[1]),
        ...facts.numeric.slice(2).map(line),
        ...facts.positional_caveat.map(line), line(facts.cost)),
      element("h2", null, "Figures"),
      element("div.figures", null, ...page.about.figures.map(figure => page.figure(figure, opened))),
      element("h2", null, "Layers"),
      element("p.says", null, "fires %: mean of the alive; detectors (supported); pos.: positional neurons"),
      layersTable(facts),
      element("p.faint", null, `pyneurons ${page.about.version}`));
  };
})(window.pyneurons);
