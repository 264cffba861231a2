"use strict";
// #neuron/3.104, #neurons, #layers/3, #overview, #definitions/dead; with several runs #1:neuron/3.104.
(page => {
  const {about} = page;
  const views = {
    overview: page.overviewView, neurons: page.neuronsView, neuron: page.neuronView,
    layers: page.layersView, definitions: async () => {},
  };
  // Built once for a run, so that filters and the scroll bar are as they were on the way back.
  const kept = new Map();
  let current = {run: 0, view: "overview", what: null};

  page.hash = (view, what, run = current.run) =>
    `#${run ? `${run}:` : ""}${view}${what ? `/${encodeURIComponent(what)}` : ""}`;
  page.go = (view, what) => { location.hash = page.hash(view, what); };

  page.trouble = said => {
    const place = document.getElementById("trouble");
    place.textContent = said;
    place.hidden = false;
  };

  function parse(hash) {
    const [, run, view, what] = /^#?(?:(\d+):)?(\w*)(?:\/(.*))?$/.exec(hash) || [];
    const known = view in views ? view : "overview";
    let said = null;
    try { said = what ? decodeURIComponent(what) : null; } catch { said = null; }
    return {run: Number(run || 0) < about.runs.length ? Number(run || 0) : 0, view: known, what: said};
  }

  async function show() {
    const scrolls = current.view;
    current = parse(location.hash);
    const {run, view, what} = current;
    document.getElementById("trouble").hidden = true;
    document.getElementById("run").value = String(run);
    for (const link of document.querySelectorAll("header nav a")) {
      link.href = page.hash(link.dataset.view, null);
      if (link.dataset.view === view || (view === "neuron" && link.dataset.view === "neurons")) {
        link.setAttribute("aria-current", "page");
      } else link.removeAttribute("aria-current");
    }
    const section = document.getElementById(`view-${view}`);
    for (const other of document.querySelectorAll("section.view")) other.hidden = other !== section;
    const key = view === "neuron" || view === "layers" ? `${run}/${what}` : String(run);
    try {
      if (kept.get(view) !== key || view === "neuron") {
        kept.set(view, key);
        section.dataset.state = "";
        await views[view](section, run, what);
        section.dataset.state = "ready";
      }
      if (view === "definitions" && what) {
        for (const entry of section.querySelectorAll("dt")) entry.classList.toggle("at", entry.id === `definition-${what}`);
        const entry = document.getElementById(`definition-${what}`);
        if (entry) { entry.scrollIntoView(); entry.focus({preventScroll: true}); }
      } else if (scrolls !== view || view === "neuron") window.scrollTo(0, 0);
    } catch (error) {
      kept.delete(view);
      page.trouble(error.message);
    }
  }

  function theme(name) {
    document.documentElement.dataset.theme = name;
    page.redraw();
  }

  const prefers = matchMedia("(prefers-color-scheme: dark)");
  theme(prefers.matches ? "dark" : "light");
  prefers.addEventListener("change", () => theme(prefers.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => theme(page.dark() ? "light" : "dark"));

  const choice = document.getElementById("run");
  about.runs.forEach((facts, i) => choice.append(page.element("option", {value: i}, `${i + 1}: ${facts.name}`)));
  choice.closest("label").hidden = about.runs.length < 2;
  choice.addEventListener("change", () => {
    location.hash = page.hash(current.view, current.what, Number(choice.value));
  });
  window.addEventListener("hashchange", show);
  // Blocks stand behind the scripts: they are there when the document is complete.
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", show);
  else show();
})(window.pyneurons);
