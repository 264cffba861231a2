"use strict";
// Blocks of data: in the page itself, or in scripts beside it, which call `arrived`.
// A page that is opened from disk may fetch nothing, but it may add a script element.
window.pyneurons = {};
(page => {
  page.about = JSON.parse(document.getElementById("about").textContent);

  const unpacked = new Map(); // a promise by name
  const waiting = new Map(); // resolve and reject by name

  page.arrived = (name, text) => {
    const waiter = waiting.get(name);
    waiting.delete(name);
    if (waiter) waiter.resolve(text);
  };

  function load(name) {
    return new Promise((resolve, reject) => {
      waiting.set(name, {resolve, reject});
      const script = document.createElement("script");
      const folder = page.about.data.split("/").map(encodeURIComponent).join("/");
      script.src = `${folder}${name}.js`;
      script.onerror = () => {
        waiting.delete(name);
        reject(new Error(`${script.src} cannot be read: keep the folder beside the page`));
      };
      script.onload = () => script.remove();
      document.head.append(script);
    });
  }

  async function unpack(text) {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const raw = await new Response(stream).arrayBuffer();
    const start = 4 + new DataView(raw).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(raw, 4, start - 4)));
    for (const {name, type, at, size} of header.columns) {
      header[name] = new globalThis[type](raw, start + at, size);
    }
    delete header.columns;
    return header;
  }

  // The columns of a block; read when it is first asked for.
  page.block = name => {
    if (!unpacked.has(name)) {
      const inside = document.getElementById(`block:${name}`);
      const text = inside ? Promise.resolve(inside.textContent) : load(name);
      const columns = text.then(unpack);
      unpacked.set(name, columns);
      columns.then(() => inside && inside.remove(), () => unpacked.delete(name));
    }
    return unpacked.get(name);
  };

  // Details of neurons are many; what was not looked at lately need not stay.
  page.forget = keep => {
    for (const name of unpacked.keys()) {
      if (page.about.data && unpacked.size > keep && /\/\d+$/.test(name)) unpacked.delete(name);
    }
  };
})(window.pyneurons);
