"use strict";
// A table of any length: only the rows in the window are elements.
(page => {
  const {element} = page;
  const HEIGHT = 30;
  const TALLEST = 8e6; // browsers stop at 17 to 33 million pixels

  // columns: [{name, title, width, left, cell(row) -> text or element, sort}], open(row), href(row)
  page.grid = ({label, columns, open, href, onsort}) => {
    const template = columns.map(column => column.width).join(" ");
    const least = columns.reduce((sum, column) => sum + (column.least || 80), 0);
    const head = element("div.head", {role: "row", style: `grid-template-columns:${template}`},
      ...columns.map(column => element(column.left ? "button.left" : "button", {
        type: "button", role: "columnheader", title: column.title || "",
        onclick: () => onsort && onsort(column.name),
      }, column.said)));
    const body = element("div", {role: "rowgroup", style: `position:relative;min-width:${least}px`});
    const box = element("div.grid", {
      role: "grid", tabIndex: 0, "aria-label": label, style: `--least:${least}px`,
    }, head, body);
    let rows = [];
    let at = -1;
    const shown = new Map();

    const inWindow = () => Math.max(1, Math.floor((box.clientHeight - HEIGHT) / HEIGHT));
    const tall = () => Math.min(rows.length * HEIGHT, TALLEST);
    // Where all rows would be too tall, the scroll bar covers them proportionally.
    const first = () => {
      if (rows.length * HEIGHT <= TALLEST) return Math.floor(box.scrollTop / HEIGHT);
      const most = tall() - (box.clientHeight - HEIGHT);
      return Math.round((box.scrollTop / most) * Math.max(rows.length - inWindow(), 0));
    };
    const topOf = i => rows.length * HEIGHT <= TALLEST
      ? i * HEIGHT : box.scrollTop + (i - first()) * HEIGHT;

    function paint() {
      const from = Math.max(0, first() - 4);
      const to = Math.min(rows.length, first() + inWindow() + 6);
      for (const [i, row] of shown) if (i < from || i >= to) { row.remove(); shown.delete(i); }
      for (let i = from; i < to; i++) {
        let made = shown.get(i);
        if (!made) {
          const row = rows[i];
          made = element("div.row", {role: "row", "aria-rowindex": i + 2,
            style: `grid-template-columns:${template}`, onclick: event => {
              if (!event.target.closest("a")) open(row);
            }},
            ...columns.map((column, c) => {
              const said = column.cell(row);
              const inner = c === 0 ? element("a", {href: href(row), tabIndex: -1}, said) : said;
              return element(column.left ? "div.cell.left" : "div.cell", {role: "gridcell"}, inner);
            }));
          shown.set(i, made);
          body.append(made);
        }
        made.style.top = `${topOf(i)}px`;
        made.classList.toggle("at", i === at);
      }
    }

    function go(to) {
      if (!rows.length) return;
      at = Math.max(0, Math.min(rows.length - 1, to));
      if (rows.length * HEIGHT <= TALLEST) {
        if (at < first()) box.scrollTop = at * HEIGHT;
        else if (at >= first() + inWindow()) box.scrollTop = (at - inWindow() + 1) * HEIGHT;
      } else if (at < first() || at >= first() + inWindow()) {
        const most = tall() - (box.clientHeight - HEIGHT);
        box.scrollTop = (at / Math.max(rows.length - inWindow(), 1)) * most;
      }
      paint();
    }

    box.addEventListener("scroll", () => requestAnimationFrame(paint), {passive: true});
    new ResizeObserver(paint).observe(box);
    box.addEventListener("keydown", event => {
      const step = {ArrowDown: 1, ArrowUp: -1, PageDown: inWindow(), PageUp: -inWindow(),
        Home: -Infinity, End: Infinity}[event.key];
      if (step !== undefined) { go(at + step); event.preventDefault(); }
      if (event.key === "Enter" && event.target === box && rows[at] !== undefined) open(rows[at]);
    });

    box.fill = (given, sorted) => {
      rows = given;
      at = -1;
      for (const row of shown.values()) row.remove();
      shown.clear();
      body.style.height = `${tall()}px`;
      box.scrollTop = 0;
      box.setAttribute("aria-rowcount", rows.length + 1);
      [...head.children].forEach((cell, i) => {
        const own = sorted && columns[i].name === sorted.name;
        cell.setAttribute("aria-sort", own ? (sorted.up ? "ascending" : "descending") : "none");
        cell.textContent = columns[i].said + (own ? (sorted.up ? " ↑" : " ↓") : "");
      });
      paint();
    };
    return box;
  };
})(window.pyneurons);
