"use strict";
// Words and numbers. Whatever comes from a run goes into text nodes, never into markup.
(page => {
  const inserted = new Intl.NumberFormat("en-US", {maximumFractionDigits: 0});

  // As Python rounds: exact ties, 86.25, to the even digit, where toFixed goes up.
  function rounded(value, digits) {
    const exact = value.toFixed(Math.min(digits + 60, 100));
    const cut = exact.length - (Math.min(digits + 60, 100) - digits);
    if (!/^50*$/.test(exact.slice(cut))) return value.toFixed(digits);
    const down = exact.slice(0, cut).replace(/\.$/, "");
    return "02468".includes(down.at(-1)) ? down : value.toFixed(digits);
  }

  // What str.format does with the formats of the templates.
  function number(value, format) {
    if (!format || typeof value === "string") return String(value);
    if (format === ",") return inserted.format(value);
    const [, sign, digits] = /^(\+?)\.(\d+)f$/.exec(format);
    if (value === null || Number.isNaN(value)) return "nan";
    if (!Number.isFinite(value)) return (value < 0 ? "-" : sign) + "inf";
    const text = rounded(value, Number(digits));
    return sign && !text.startsWith("-") ? `+${text}` : text;
  }
  page.number = number;
  page.count = value => inserted.format(value);
  page.filled = (name, values) => page.about.templates[name].replace(
    /\{(\w+)(?::([^}]*))?\}/g, (_, key, format) => number(values[key], format));

  page.ngram = n => page.about.ngram_names[n] || `${n}-gram`;

  // An element: element("td.left", {title: "..."}, "text", other element, ...)
  page.element = (kind, given, ...children) => {
    const [tag, ...classes] = kind.split(".");
    const made = document.createElement(tag);
    if (classes.length) made.className = classes.join(" ");
    for (const [name, value] of Object.entries(given || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (name in made && name !== "list") made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter(child => child !== null && child !== undefined));
    return made;
  };

  page.token = string => page.element("span.token", null, string);
  page.define = (anchor, said) => page.element("a", {href: page.hash("definitions", anchor)}, said);

  // Marks as they are shown, so that both ways of writing a space find it.
  page.visible = text => text.replaceAll(" ", "␣").replaceAll("\n", "⏎")
    .replaceAll("\t", "⇥").replaceAll("\r", "␍");

  page.download = (name, type, text) => {
    const url = URL.createObjectURL(new Blob([text], {type}));
    const link = page.element("a", {href: url, download: name});
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  };

  page.csv = rows => {
    const names = [...new Set(rows.flatMap(row => Object.keys(row)))];
    const cell = value => {
      const text = value === null || value === undefined ? ""
        : typeof value === "object" ? JSON.stringify(value) : String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [names, ...rows.map(row => names.map(name => row[name]))]
      .map(line => line.map(cell).join(",")).join("\r\n") + "\r\n";
  };
})(window.pyneurons);
