"use strict";
// A map of a layer, one cell a neuron; and what the layers detect together.
(page => {
  const {element} = page;
  // What stands out is what a neuron detects; Okabe and Ito's colours, told apart by all.
  const COLOURS = {
    "token detector": "#d55e00", "bigram detector": "#e69f00", "trigram detector": "#cc79a7",
    "positional": "#009e73", "left open": "#f0e442",
  };
  const QUIET = dark => dark
    ? {"dead, proven": "#ffffff", "dead": "#9a9a9a", "no detector": "#2f4558"}
    : {"dead, proven": "#000000", "dead": "#767676", "no detector": "#d3e3f1"};

  function mapOf(run, layer, table, by) {
    const facts = page.about.runs[run];
    const wide = document.documentElement.clientWidth > 600;
    const across = Math.ceil(Math.sqrt(facts.neurons * (wide ? 2.6 : 0.8)));
    const down = Math.ceil(facts.neurons / across);
    const rows = Array.from({length: facts.neurons}, (_, i) => ({
      neuron: `${layer}.${i}`, x: i % across, y: Math.floor(i / across), kind: page.kind(table, i),
      role: table.phrases[table.said[i]], percent: 100 * (table.fires[i] / facts.tokens),
    }));
    const kinds = page.kinds(run);
    const present = kinds.filter(kind => rows.some(row => row.kind === kind));
    const range = dark => present.map(kind => COLOURS[kind] || QUIET(dark)[kind] || "#0072b2");
    const colour = dark => by === "role"
      ? {field: "kind", type: "nominal", title: null, scale: {domain: present, range: range(dark)},
        legend: {orient: "bottom", columns: wide ? 6 : 2, symbolType: "square"}}
      : {field: "log", type: "quantitative", title: "log10 of frequency, %; dead: grey",
        scale: {scheme: "viridis"}, legend: {orient: "bottom", gradientLength: 220, titleLimit: 320}};
    const height = Math.max(120, Math.round((wide ? 1100 : 340) * down / across));
    return {
      id: `layer-${layer}-${by}`, title: `Layer ${layer}: ${page.count(facts.neurons)} neurons`, broad: true,
      says: "One cell a neuron, in the order of the model, from left to right; click one to open it. All are in the table of neurons as well.",
      definition: by === "role" ? "detector" : "fires", rows,
      spec: dark => ({
        width: "container", height, data: {values: rows},
        transform: [
          {calculate: "datum.x + 0.92", as: "x2"}, {calculate: "datum.y + 0.92", as: "y2"},
          {calculate: "datum.percent > 0 ? log(datum.percent) / LN10 : null", as: "log"},
        ],
        mark: {type: "rect", cursor: "pointer", invalid: null},
        encoding: {
          x: {field: "x", type: "quantitative", axis: null, scale: {domain: [0, across], nice: false, zero: false}},
          x2: {field: "x2"},
          y: {field: "y", type: "quantitative", axis: null, scale: {domain: [0, down], nice: false, reverse: true}},
          y2: {field: "y2"},
          color: by === "role" ? colour(dark) : {condition: {test: "datum.log === null", value: "#8a8a8a"}, ...colour(dark)},
          tooltip: [{field: "neuron", type: "nominal"}, {field: "role", type: "nominal"},
            {field: "percent", type: "quantitative", format: ".3f", title: "fires %"}],
        },
      }),
    };
  }

  page.layersView = async (section, run, given) => {
    const facts = page.about.runs[run];
    const layer = element("select", {"data-map": "layer"}, ...facts.layers.map(l => element("option", {value: l}, String(l))));
    const by = element("select", {"data-map": "colour"}, element("option", {value: "role"}, "role"),
      element("option", {value: "frequency"}, "frequency (log)"));
    layer.value = facts.layers.includes(Number(given)) && given ? given : String(facts.layers[0]);
    const map = element("div.figures");
    let turn = 0;
    async function show() {
      const mine = ++turn;
      const table = await page.table(run, Number(layer.value));
      if (mine !== turn) return;
      const figure = page.figure(mapOf(run, Number(layer.value), table, by.value),
        datum => datum.neuron && page.go("neuron", datum.neuron));
      map.replaceChildren(figure);
      await figure.show();
    }
    layer.addEventListener("change", () => page.go("layers", layer.value));
    by.addEventListener("change", show);
    section.replaceChildren(
      element("h1", null, "Layers"),
      element("div.filters", null, element("label", null, "layer", layer), element("label", null, "colour", by)),
      map,
      facts.ensemble.length ? element("h2", null, page.define("ensemble", "What layers detect together")) : "",
      element("div.figures", null, ...facts.ensemble.map(figure => page.figure(figure))));
    await show();
  };
})(window.pyneurons);
