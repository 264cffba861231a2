"use strict";
// Figures: Vega-Lite draws them when they come near the window, and again for another theme.
(page => {
  const {element} = page;
  const drawn = new Set(); // figures that are on the page and drawn

  page.dark = () => document.documentElement.dataset.theme === "dark";

  function config(dark) {
    const ink = dark ? "#e8eaed" : "#1a1a1a";
    const faint = dark ? "#a0a6ae" : "#5c6066";
    const line = dark ? "#363c44" : "#d9dce1";
    return {
      background: dark ? "#15181c" : "#ffffff",
      font: "system-ui, DejaVu Sans, sans-serif",
      view: {stroke: null},
      axis: {labelColor: faint, titleColor: ink, domainColor: line, tickColor: line, gridColor: line,
        gridOpacity: 0.6, labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal"},
      legend: {labelColor: ink, titleColor: ink, labelFontSize: 12},
      title: {color: ink, subtitleColor: faint},
      header: {labelColor: ink, titleColor: ink},
      text: {color: ink},
      rule: {color: faint},
      range: {category: dark
        ? page.about.colours.map(colour => colour === "#000000" ? "#ffffff" : colour)
        : page.about.colours},
    };
  }

  // Legends below a figure: one column where the window is narrow.
  function narrow(spec) {
    if (document.documentElement.clientWidth > 600) return spec;
    return {...spec, config: {...spec.config, legend: {columns: 1, orient: "bottom", ...(spec.config || {}).legend}}};
  }

  async function draw(place, spec, options) {
    const {view} = await vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "canvas", actions: false, config: config(page.dark()),
      tooltip: {theme: "custom"}, ...options,
    });
    return view;
  }

  async function svg(spec) {
    const away = element("div", {style: "position:absolute;left:-9999px;width:760px"});
    document.body.append(away);
    try {
      const view = await draw(away, spec, {renderer: "svg", config: config(false)});
      const text = await view.toSVG();
      view.finalize();
      return text;
    } finally {
      away.remove();
    }
  }

  const near = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) entry.target.show();
  }, {rootMargin: "400px"});

  function tableOf(rows, run) {
    if (!rows.length) return null;
    const names = Object.keys(rows[0]);
    return element("div.scroll", null, element("table.summary.words", null,
      element("tr", null, ...names.map(name => element("th", null, name))),
      ...rows.map(row => element("tr", null, ...names.map(name => element("td", null,
        name === "neuron" ? element("a", {href: page.hash("neuron", row[name], run)}, row[name])
          : typeof row[name] === "number" ? page.count(row[name]) : row[name]))))));
  }

  // A figure: {id, title, says, definition, spec, rows}; onclick gets the row that was clicked.
  page.figure = (figure, onclick) => {
    for (const box of drawn) {
      if (!box.isConnected) { drawn.delete(box); if (box.view) box.view.finalize(); }
    }
    const charted = typeof figure.spec === "function" || Object.keys(figure.spec).length > 0;
    const chart = charted
      ? element("div.chart", {role: "img", "aria-label": figure.title})
      : tableOf(figure.rows, figure.run === null ? undefined : figure.run);
    const specOf = dark => {
      const spec = typeof figure.spec === "function" ? figure.spec(dark) : figure.spec;
      return narrow(spec);
    };
    const rows = () => figure.rows || specOf(false).data.values;
    const save = (name, how) => element("button", {type: "button", onclick: how}, name);
    const box = element("figure.figure", {id: `figure-${figure.id}`},
      element("h3", null, figure.title),
      element("p.says", null, figure.says),
      chart,
      element("div.tools", null,
        charted ? save("SVG", async () => page.download(`${figure.id}.svg`, "image/svg+xml", await svg(specOf(false)))) : null,
        charted || figure.rows.length ? save("CSV", () => page.download(`${figure.id}.csv`, "text/csv", page.csv(rows()))) : null,
        figure.definition ? page.define(figure.definition, "definition") : null));
    if (figure.broad || (!charted && figure.rows.length)) box.classList.add("broad");
    if (!charted) {
      box.dataset.state = "drawn"; // a table, or its sentence alone
      box.show = box.again = () => Promise.resolve();
      return box;
    }
    let asked = null;
    const redraw = async () => {
      box.dataset.state = "drawing";
      try {
        if (box.view) box.view.finalize();
        box.view = await draw(chart, specOf(page.dark()));
        if (onclick) {
          box.view.addEventListener("click", (_, item) => item && item.datum && onclick(item.datum, figure.run));
        }
        box.dataset.state = "drawn";
      } catch (error) {
        box.dataset.state = "failed";
        page.trouble(`figure ${figure.id}: ${error.message}`);
      }
    };
    // One after the other, however often it is asked for.
    box.show = () => { near.unobserve(box); drawn.add(box); asked = asked || redraw(); return asked; };
    box.again = () => { asked = (asked || Promise.resolve()).then(redraw); return asked; };
    near.observe(box);
    return box;
  };

  page.redraw = () => {
    for (const box of drawn) if (box.isConnected) box.again();
  };
})(window.pyneurons);
